"""The losses between transformers against slow formulas, and what padding may change: nothing."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distiq.distillation.token_losses import (
    attention_ce,
    attention_mse,
    gram_token_mse,
    hidden_cosine,
    hidden_mse,
    minilm_relation,
    pkd_cls,
)

Loss = Callable[..., Tensor]
LENGTHS = (5, 3)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def gram_with_itself(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return gram_token_mse((student, student), (teacher, teacher), mask)


def minilm_of_two_heads(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return minilm_relation(student, teacher, mask, heads=2)


STATE_LOSSES = [hidden_mse, hidden_cosine, gram_with_itself, minilm_of_two_heads]
SCORE_LOSSES = [attention_mse, attention_ce]


@pytest.fixture
def states() -> tuple[Tensor, Tensor]:
    """Hidden states of two texts, five tokens, width four."""
    torch.manual_seed(0)
    return torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)


@pytest.fixture
def scores() -> tuple[Tensor, Tensor]:
    """Attention scores of two texts, three heads, five tokens."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randn(2, 3, 5, 5, dtype=torch.float64)


def slow_relations(tokens: list[list[float]], heads: int) -> list[list[list[float]]]:
    """For each head, each token's softmax over the tokens of x x^T / sqrt(d)."""
    width = len(tokens[0]) // heads
    relations = []
    for head in range(heads):
        own = [token[head * width : (head + 1) * width] for token in tokens]
        products = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in own] for x in own]
        exponents = [[math.exp(value / math.sqrt(width)) for value in row] for row in products]
        relations.append([[value / sum(row) for value in row] for row in exponents])
    return relations


def slow_minilm_relation(student: Tensor, teacher: Tensor, lengths: tuple[int, ...], heads: int) -> float:
    """KL of each head and token, of texts without their padding; the mean over all heads and tokens."""
    divergences = []
    for text, length in enumerate(lengths):
        ours, theirs = (slow_relations(x[text, :length].tolist(), heads) for x in (student, teacher))
        for q_head, p_head in zip(ours, theirs, strict=True):
            for q, p in zip(q_head, p_head, strict=True):
                divergences.append(sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)))
    return sum(divergences) / len(divergences)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(("mask", "lengths"), [(None, (5, 5)), (MASK, LENGTHS)])
def test_minilm_relation_is_the_formula(
    heads: int, mask: Tensor | None, lengths: tuple[int, ...], states: tuple[Tensor, Tensor]
):
    student, teacher = states[0], torch.randn(2, 5, 8, dtype=torch.float64)  # the teacher may be wider
    found = minilm_relation(student, teacher, mask, heads=heads).item()
    assert found == pytest.approx(slow_minilm_relation(student, teacher, lengths, heads), rel=1e-9)


@pytest.mark.parametrize("loss", [*STATE_LOSSES, pkd_cls])
def test_state_losses_are_zero_at_equality_alone(loss: Loss, states: tuple[Tensor, Tensor]):
    assert loss(states[0], states[0]).item() == pytest.approx(0, abs=1e-12)
    assert loss(*states).item() > 1e-3


def test_attention_losses_at_equality(scores: tuple[Tensor, Tensor]):
    """The squares vanish; the cross entropy is the entropy, and no student's is less."""
    student, teacher = scores
    entropy = -(teacher.softmax(-1) * teacher.softmax(-1).log()).sum(-1).mean()
    assert attention_mse(teacher, teacher).item() == 0
    torch.testing.assert_close(attention_ce(teacher, teacher), entropy)
    assert attention_ce(student, teacher) > entropy


@pytest.mark.parametrize("loss", STATE_LOSSES)
def test_padding_of_states_has_no_influence(loss: Loss, states: tuple[Tensor, Tensor]):
    student, teacher = (x.clone() for x in states)
    value = loss(student, teacher, MASK)
    student[1, 3:], teacher[1, 3:] = 100, -50
    student.requires_grad_()
    changed = loss(student, teacher, MASK)
    (gradient,) = torch.autograd.grad(changed, student)
    torch.testing.assert_close(changed, value)
    assert not gradient[1, 3:].any() and gradient[0].any()


@pytest.mark.parametrize("loss", STATE_LOSSES)
def test_padding_of_states_is_as_good_as_cut_off(loss: Loss, states: tuple[Tensor, Tensor]):
    short = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    torch.testing.assert_close(loss(*states, short), loss(*(x[:, :3] for x in states)))


@pytest.mark.parametrize("loss", SCORE_LOSSES)
def test_padding_of_scores_is_as_good_as_cut_off(loss: Loss, scores: tuple[Tensor, Tensor]):
    """The scores of padding are what a model makes of them: very low, so that nobody attends to it."""
    short = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    padded = tuple(x.masked_fill(short[:, None, None, :] == 0, -1e4) for x in scores)
    torch.testing.assert_close(loss(*padded, short), loss(*(x[:, :, :3, :3] for x in scores)))


@pytest.mark.parametrize("loss", SCORE_LOSSES)
def test_rows_of_padding_have_no_influence(loss: Loss, scores: tuple[Tensor, Tensor]):
    changed = tuple(x.clone() for x in scores)
    for number, x in enumerate(changed):
        x[1, :, 3:] = torch.arange(5.0) * (number - 3)
    torch.testing.assert_close(loss(*changed, MASK), loss(*scores, MASK))


@pytest.mark.parametrize("loss", [*STATE_LOSSES, *SCORE_LOSSES])
def test_mask_may_be_of_any_type_or_left_out(loss: Loss, states: tuple[Tensor, Tensor], scores: tuple[Tensor, Tensor]):
    given = scores if loss in SCORE_LOSSES else states
    for dtype in (torch.bool, torch.float32, torch.bfloat16):
        torch.testing.assert_close(loss(*given, MASK.to(dtype)), loss(*given, MASK))
    torch.testing.assert_close(loss(*given, torch.ones_like(MASK)), loss(*given))


def test_hidden_mse_by_hand():
    """Two texts of two tokens, width two; the last token is padding: (1 + 4 + 9 + 16 + 25 + 36) / (3 * 2)."""
    student = torch.arange(1.0, 9.0).view(2, 2, 2)
    assert hidden_mse(student, torch.zeros(2, 2, 2), torch.tensor([[1, 1], [1, 0]])).item() == pytest.approx(91 / 6)


def test_lengths_of_states_do_not_matter_to_cosines_and_unit_vectors(states: tuple[Tensor, Tensor]):
    lengths = torch.rand(2, 5, 1) + 0.5
    for loss in (hidden_cosine, pkd_cls):
        torch.testing.assert_close(loss(states[0] * lengths, states[1]), loss(*states))


def test_pkd_cls_sees_the_first_token_alone(states: tuple[Tensor, Tensor]):
    student = states[0].clone()
    student[:, 1:] = 0
    torch.testing.assert_close(pkd_cls(student, states[1]), pkd_cls(*states))
    assert pkd_cls(-states[0], states[0]).item() == pytest.approx(4)  # opposite unit vectors: distance two


def test_rotation_of_the_states_does_not_matter_to_relations_of_tokens(states: tuple[Tensor, Tensor]):
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    assert gram_with_itself(states[0] @ rotation, states[0]).item() == pytest.approx(0, abs=1e-12)
    assert minilm_relation(states[0] @ rotation, states[0], heads=1).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "remedy"),
    [
        *(
            (loss, (2, 5, 4), (2, 5, 8), "add a linear projection of the student")
            for loss in (hidden_mse, hidden_cosine, pkd_cls)
        ),
        *(
            (loss, (2, 3, 5, 5), (2, 6, 5, 5), "both need as many heads; use minilm_relation")
            for loss in (attention_mse, attention_ce)
        ),
        *(
            (loss, (2, 5, 4), (2, 6, 4), "both need the same tokens")
            for loss in (gram_with_itself, minilm_of_two_heads)
        ),
    ],
)
def test_refusals_say_what_to_do(loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...], remedy: str):
    with pytest.raises(ValueError, match=rf"student \(.*\) and teacher \(.*\) do not fit; {remedy}"):
        loss(torch.randn(student), torch.randn(teacher))


def test_minilm_relation_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="minilm_relation: 3 relation heads do not divide the width 4"):
        minilm_relation(torch.randn(1, 5, 4), torch.randn(1, 5, 6), heads=3)
