"""From a line of a recipe to a module that computes that loss on a batch: which layers, which projection.

A term's `forward` takes what was seen of the student and what is known of the teacher, and returns a scalar.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distiq.distillation import losses
from distiq.distillation.feature_losses import embedded
from distiq.distillation.projections import HintProjection
from distiq.errors import UserError
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.tasks.task import Task

Loss = Callable[..., Tensor]
NAMES = {
    "feature_mse": "hint_mse", "vid": "VID", "mgd": "MGD", "reviewkd": "ReviewKD", "crd": "CRD",
    "similarity_queue": "SimilarityQueue",
}  # fmt: skip
"""Losses whose name in a recipe is not their name in `losses`."""


TEMPERATURE = 4.0  # of `kd`, where its options name none


PADDED = ("feature_mse", "similarity_preserving")
"""Losses over whole activations, which know no mask."""


class Layers(NamedTuple):
    """Activations of the named layers, in the recipe's order, the samples' positions in the training split, and of
    texts the mask (B, L), ones at tokens."""

    student: list[Tensor]
    teacher: list[Tensor]
    indices: Tensor
    mask: Tensor | None = None


class Pairs(nn.Module):
    """The sum over pairs of layers of a loss of two tensors, through a projection each."""

    def __init__(self, loss: Loss, projections: Sequence[nn.Module], options: dict[str, Any], pooled: bool) -> None:
        super().__init__()
        self.projections = nn.ModuleList(projections)
        self.loss, self.options, self.pooled = loss, options, pooled

    def forward(self, layers: Layers) -> Tensor:
        terms = []
        for student, teacher, projection in zip(layers.student, layers.teacher, self.projections, strict=True):
            own, target = (embedded(x, layers.mask) if self.pooled else x for x in (student, teacher))
            terms.append(self.loss(projection(own), target, **self.options))
        return torch.stack(terms).sum()


class TokenPairs(nn.Module):
    """The sum over pairs of layers of a loss of two tensors (B, L, D) that leaves padding out."""

    def __init__(self, loss: Loss, projections: Sequence[nn.Module], options: dict[str, Any]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(projections)
        self.loss, self.options = loss, options

    def forward(self, layers: Layers) -> Tensor:
        pairs = zip(layers.student, layers.teacher, self.projections, strict=True)
        terms = [self.loss(project(own), target, layers.mask, **self.options) for own, target, project in pairs]
        return torch.stack(terms).sum()


class Modules(nn.Module):
    """The sum over pairs of layers of losses that are modules."""

    def __init__(self, modules: Sequence[nn.Module], pooled: bool = False, indexed: bool = False) -> None:
        super().__init__()
        self.losses = nn.ModuleList(modules)
        self.pooled, self.indexed = pooled, indexed

    def forward(self, layers: Layers) -> Tensor:
        terms = []
        for student, teacher, loss in zip(layers.student, layers.teacher, self.losses, strict=True):
            pair = tuple(embedded(x, layers.mask) if self.pooled else x for x in (student, teacher))
            terms.append(loss(*pair, layers.indices) if self.indexed else loss(*pair))
        return torch.stack(terms).sum()


class Flows(nn.Module):
    """The sum of `fsp` over consecutive layers."""

    def forward(self, layers: Layers) -> Tensor:
        pairs = zip(
            zip(layers.student, layers.student[1:], strict=False),
            zip(layers.teacher, layers.teacher[1:], strict=False),
            strict=True,
        )
        return torch.stack([losses.fsp(student, teacher) for student, teacher in pairs]).sum()


class Review(nn.Module):
    """`ReviewKD` over all layers at once."""

    def __init__(self, review: losses.ReviewKD) -> None:
        super().__init__()
        self.review = review

    def forward(self, layers: Layers) -> Tensor:
        return self.review(layers.student, layers.teacher)


def output_loss(task: Task, settings: KnowledgeLoss, labels: Tensor) -> Loss:
    """A loss between outputs, (B, outputs, ...) of student and teacher -> its value without its weight; `kd` is the
    task's own distillation."""
    if settings.name == "kd":
        return partial(task.distillation, **{"temperature": TEMPERATURE, **settings.options})
    loss = getattr(losses, settings.name)
    return (
        partial(loss, labels=labels, **settings.options)
        if settings.name == "dkd"
        else partial(loss, **settings.options)
    )


def layer_term(settings: KnowledgeLoss, example: Layers, samples: int) -> nn.Module:
    """The module of a loss between layers.

    Args:
        example: what both networks give for two samples; projections are sized by it.
        samples: of the training split, for losses with a memory.

    Raises:
        ValueError: the layers do not fit the loss.
    """
    options = settings.options
    pairs = list(zip(example.student, example.teacher, strict=True))
    widths = [(embedded(student).shape[1], embedded(teacher).shape[1]) for student, teacher in pairs]
    channels = [(student.shape[1], teacher.shape[1]) for student, teacher in pairs]
    if example.mask is not None and settings.name in PADDED:
        _same_rank(settings.name, pairs, (2,), "of texts they would count padding; take hidden_mse or minilm_relation")
    match settings.name:
        case "hidden_mse" | "hidden_cosine" | "pkd_cls" | "minilm_relation":
            _same_rank(
                settings.name, pairs, (3,), "choose layers that are both (B, L, D): hidden states, queries, keys"
            )
            free = settings.name == "minilm_relation"  # relations compare any widths
            token = [nn.Identity() if free or one == other else nn.Linear(one, other) for one, other in widths]
            return TokenPairs(getattr(losses, settings.name), token, options)
        case "hint_mse":
            _same_rank(settings.name, pairs, (2, 4))
            made = [
                HintProjection(*widths, tuple(pair[1].shape[2:])) for widths, pair in zip(channels, pairs, strict=True)
            ]
            return Pairs(losses.hint_mse, made, options, pooled=False)
        case "feature_mse":
            return Pairs(losses.hint_mse, [nn.Identity() for _ in pairs], options, pooled=False)
        case "attention_transfer" | "nst_poly" | "nst_gaussian":
            _same_rank(settings.name, pairs, (4,))
            return Pairs(getattr(losses, settings.name), [nn.Identity() for _ in pairs], options, pooled=False)
        case "similarity_preserving":
            return Pairs(losses.similarity_preserving, [nn.Identity() for _ in pairs], options, pooled=False)
        case "rkd" | "pkt":
            return Pairs(getattr(losses, settings.name), [nn.Identity() for _ in pairs], options, pooled=True)
        case "correlation_congruence" | "embedding_cosine":
            linear = [nn.Linear(*width) for width in widths]
            return Pairs(getattr(losses, settings.name), linear, options, pooled=True)
        case "fsp":
            return Flows()
        case "reviewkd":
            _same_rank(settings.name, pairs, (4,))
            return Review(losses.ReviewKD([one for one, _ in channels], [other for _, other in channels], **options))
        case "vid" | "mgd":
            _same_rank(settings.name, pairs, (4,))
            module: type[losses.VID | losses.MGD] = losses.VID if settings.name == "vid" else losses.MGD
            return Modules([module(*width, **options) for width in channels])
        case "crd":
            return Modules([losses.CRD(*width, samples, **options) for width in widths], pooled=True, indexed=True)
        case "similarity_queue":
            return Modules([losses.SimilarityQueue(*width, **options) for width in widths], pooled=True)
    raise AssertionError(settings.name)


def _same_rank(name: str, pairs: Sequence[tuple[Tensor, Tensor]], ranks: tuple[int, ...], remedy: str = "") -> None:
    for student, teacher in pairs:
        if student.ndim != teacher.ndim or student.ndim not in ranks:
            maps = "choose layers that are both (B, C, H, W)" + (" or both (B, C)" if 2 in ranks else "")
            raise ValueError(
                f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not fit; {remedy or maps}"
            )


def check_options(settings: DistilSettings) -> None:
    """Raises UserError unless every loss of the settings has the options that it is given."""
    for loss in settings.losses:
        parameters = inspect.signature(getattr(losses, NAMES.get(loss.name, loss.name))).parameters.values()
        options = [entry.name for entry in parameters if entry.kind is inspect.Parameter.KEYWORD_ONLY]
        for option in loss.options:
            if option not in options:
                has = f"it has {', '.join(options)}" if options else "it has none"
                raise UserError(f"distil.losses: {loss.name}: unknown option {option!r}; {has}")


def numbered(settings: Sequence[KnowledgeLoss]) -> list[str]:
    """A name for each loss: its name in the recipe, numbered from the second of a kind on."""
    names: list[str] = []
    for loss in settings:
        before = sum(name.split(" ")[0] == loss.name for name in names)
        names.append(f"{loss.name} {before + 1}" if before else loss.name)
    return names
