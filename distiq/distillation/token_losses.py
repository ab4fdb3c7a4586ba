"""Losses between transformers. Shapes: hidden states (B, L, D), attention scores (B, heads, L, L), mask (B, L) of
ones (tokens) and zeros (padding), or None -> scalar.

Conventions are those of TextBrewer (Yang et al. 2020, arXiv:2002.12620) where it has the loss.
"""

import torch.nn.functional as F
from torch import Tensor

from distiq.tasks.precision import full_precision, refuse_unless

PROJECT = "add a linear projection of the student"
SAME_HEADS = "both need as many heads; use minilm_relation, whose relation heads are free"


@full_precision
def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the hidden states of the tokens (Jiao et al. 2020, TinyBERT, equation 9)."""
    refuse_unless(student.shape == teacher.shape, "hidden_mse", student, teacher, PROJECT)
    squares = (student - teacher).square()
    weights = _weights(squares, mask).unsqueeze(2)
    return (squares * weights).sum() / (weights.sum() * student.shape[2])


@full_precision
def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the tokens of one minus the cosine of the hidden states (Sanh et al. 2019, DistilBERT)."""
    refuse_unless(student.shape == teacher.shape, "hidden_cosine", student, teacher, PROJECT)
    weights = _weights(student, mask)
    return ((1 - F.cosine_similarity(student, teacher, dim=2)) * weights).sum() / weights.sum()


@full_precision
def pkd_cls(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance of the first tokens' states, of unit length (Sun et al. 2019, "Patient knowledge
    distillation", arXiv:1908.09355, equation 7). The first is never padding: `mask` is not read."""
    refuse_unless(student.shape == teacher.shape, "pkd_cls", student, teacher, PROJECT)
    student, teacher = (F.normalize(states[:, 0], dim=1) for states in (student, teacher))
    return (student - teacher).square().sum(1).mean()


@full_precision
def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the attention scores before the softmax (Jiao et al. 2020, "TinyBERT",
    arXiv:1909.10351, equation 8), over pairs of tokens."""
    refuse_unless(student.shape == teacher.shape, "attention_mse", student, teacher, SAME_HEADS)
    weights = _weights(student[:, 0], mask)
    pairs = (weights.unsqueeze(2) * weights.unsqueeze(1)).unsqueeze(1).expand_as(student)
    return ((student - teacher).square() * pairs).sum() / pairs.sum()


@full_precision
def attention_ce(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross entropy of the attention distributions, mean over the rows of tokens.

    Scores are before the softmax; the teacher's weight on padding is left out of the sum, as in TextBrewer.
    """
    refuse_unless(student.shape == teacher.shape, "attention_ce", student, teacher, SAME_HEADS)
    weights = _weights(student[:, 0], mask)
    products = teacher.softmax(-1) * student.log_softmax(-1) * weights[:, None, None, :]
    rows = weights.unsqueeze(1).expand(student.shape[:3])
    return -(products.sum(-1) * rows).sum() / rows.sum()


@full_precision
def gram_token_mse(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the token-by-token Gram matrices of two layers, over the hidden size.

    Neuron selectivity transfer as TextBrewer has it (`mmd`); the teacher may be wider.
    """
    own, target = (first @ second.transpose(1, 2) / second.shape[2] for first, second in (student, teacher))
    refuse_unless(own.shape == target.shape, "gram_token_mse", own, target, "both need the same tokens")
    weights = _weights(own, mask)
    pairs = weights.unsqueeze(2) * weights.unsqueeze(1)
    return ((own - target).square() * pairs).sum() / pairs.sum()


@full_precision
def minilm_relation(student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, heads: int = 12) -> Tensor:
    """KL of the self-attention relations of one kind of vector: queries, keys or values.

    Wang et al. 2020/2021, "MiniLMv2" (arXiv:2012.15828), equations 5 to 7: the vectors of all heads are joined and
    split into `heads` relation heads; relations are softmax(x x^T / sqrt(d)). Mean over heads and tokens. With the
    values and the model's own number of heads it is MiniLM's value relation (arXiv:2002.10957, equation 4).

    Args:
        student, teacher: (B, L, D1), (B, L, D2) with D1 and D2 divisible by `heads`.
    """
    log_ours, log_theirs = (_log_relations(x, heads, mask) for x in (student, teacher))
    refuse_unless(log_ours.shape == log_theirs.shape, "minilm_relation", student, teacher, "both need the same tokens")
    terms = log_theirs.exp() * (log_theirs - log_ours)
    rows = _weights(student, mask).unsqueeze(1).expand(terms.shape[:3])
    return (terms.sum(-1) * rows).sum() / rows.sum()


def _log_relations(x: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """(B, L, D) -> (B, heads, L, L), log of the relations."""
    if x.shape[2] % heads:
        raise ValueError(f"minilm_relation: {heads} relation heads do not divide the width {x.shape[2]}")
    split = x.unflatten(2, (heads, -1)).transpose(1, 2)
    scores = split @ split.transpose(2, 3) / split.shape[3] ** 0.5
    if mask is not None:
        # A finite number keeps logarithms and gradients finite; its probability is 0.
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
    return scores.log_softmax(-1)


def _weights(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L): ones for tokens, in x's type."""
    return x.new_ones(x.shape[:2]) if mask is None else mask.to(x)
