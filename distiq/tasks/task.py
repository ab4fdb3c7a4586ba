"""What a network is trained for, as one frozen value: its loss, its predictions, how they are scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from distiq.models.signature import OutputForm, one_output
from distiq.numerics import sqnr_db
from distiq.recipe.recipe import Recipe
from distiq.records.quality import Metric, Quality

Decoding = Literal["softmax", "sigmoid", "number", "spans", "vector", "transcript", "mask", "boxes", "none"]
"""What a bundle's runner makes of an output: probabilities of classes, of each label, a number, spans, a vector, a
text, a class for each pixel, boxes, or nothing."""


class Scores(NamedTuple):
    """How good outputs are: the primary metric, others, and recall by class, or by part; see `Quality`."""

    primary: Metric
    metrics: tuple[Metric, ...] = ()
    per_class: tuple[float | None, ...] = ()


class Taught(NamedTuple):
    """What is known before a student is trained: the teacher's outputs for the validation split (N, ...) and their
    quality, the targets there and in the training split, the temperature."""

    quality: Quality
    outputs: Tensor
    targets: Tensor
    train_targets: Tensor
    temperature: float


class Advice(NamedTuple):
    """Facts, and warnings with their reasons, in sentences."""

    facts: list[str]
    warnings: list[str]


def refuses_nothing(_recipe: Recipe) -> str:
    """For tasks that can do whatever a recipe asks."""
    return ""


def advise_by_metrics(taught: Taught) -> Advice:
    """All that was measured on the teacher."""
    return Advice([f"teacher: {taught.quality.in_words} on the validation split"], [])


def no_places(_targets: Tensor) -> tuple[int, ...]:
    """For tasks that predict once for each sample."""
    return ()


def always_fit(_outputs: Tensor, _targets: Tensor) -> str:
    """For tasks whose targets every network of the task's form can predict."""
    return ""


def as_they_are(outputs: Tensor) -> Tensor:
    """For tasks that score the outputs themselves."""
    return outputs


def one_part(outputs: Tensor) -> dict[str, Tensor]:
    """For tasks whose outputs all mean the same."""
    return {"outputs": outputs}


@dataclass(frozen=True)
class Task:
    """What a network is trained for. Outputs are what the network gives, (N, outputs, ...); targets are the labels.

    A network, or a file, may give several outputs: `read` joins them outside the graph, so that nothing else sees more
    than one tensor and outputs of unlike range share no scale. What is measured may be less than what is learned
    from: `keep` reduces outputs to what decode, score, agreement, likeness, change and order are given.

    Args:
        name: in recipes, records and bundles.
        predicts: what is predicted of a sample, in words.
        outputs: channels of the network's output, dimension 1; 0 where any number serves.
        classes: how many a network tells apart, where it gives more than their logits; 0: one for each output.
        loss: outputs and targets, none of them missing -> the loss of each sample, (N,) float32. It is also given
            `label_smoothing` where it `smooths_labels`.
        distillation: the default loss between outputs of student and teacher (N, ...) and `temperature`, by which they
            are softened where that means anything -> a scalar.
        decode: kept outputs (N, ...) -> predictions (N, ...), comparable with targets.
        score: outputs and targets (N, ...) -> `Scores`. The name, title and unit of the primary metric are always the
            same, and which others there are depends on the targets alone.
        agreement: outputs of two models -> the share of samples of which both predict the same; see `same_predictions`.
        correct: predictions and targets -> which samples are right, (N,) bool; None where none is simply right.
        likeness: outputs of a model and its teacher -> how alike they are; None takes the share of `agreement`.
        change: outputs of a model and of its float32 form -> how far they are apart; None takes what does not agree.
        refuses: a recipe -> why this task cannot do what it asks; empty where it can.
        advise: what can be said of a teacher before a student is trained.
        order: outputs and targets -> which class each output seems to mean, where that is another order; else empty.
        decoding: what a bundle's runner makes of the outputs.
        class_dimension: the dimension of outputs over which a softmax makes them a distribution; None where none does.
        smooths_labels: `loss` takes label_smoothing.
        places: targets (N, ...) -> the dimensions of outputs behind the second, () where a sample has one prediction.
        read: whatever a network or a file returns -> outputs (N, outputs, ...).
        keep: outputs (N, outputs, ...) -> (N, ...), what is kept of them to be scored.
        parts: names of the entries of `Scores.per_class`, where they are not the classes.
        unfit: outputs of a network and the training targets -> why it cannot be trained on them; empty where it can.
        together: this many consecutive samples are judged as one.
        counts: outputs and targets (N, ...) -> (N, k) float64, of each sample what the primary metric is made of;
        of_counts: sums of these (..., k) -> its value (...). By both, differences have intervals. None where the
            metric is the mean of `correct`, or no function of sums.
        components: outputs -> what they consist of, by name, each with a range of its own; noise is measured in each.
        class_figure: what `Scores.per_class` holds, in a word or two.
        weighted: kept outputs and targets -> a function of how often each sample counts, (draws, N) float64, that gives
            the primary metric of each draw, (draws,) float64. For metrics that are no function of sums; without it
            their samples are scored again and again, which is slow where scoring is, and no seeds are compared.
        tolerance: how far apart predictions of two models may be that agree, in words; empty where they are equal.
    """

    name: str
    predicts: str
    outputs: int
    loss: Callable[..., Tensor]
    distillation: Callable[..., Tensor]
    decode: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Scores]
    agreement: Callable[[Tensor, Tensor], float]
    correct: Callable[[Tensor, Tensor], Tensor] | None = None
    likeness: Callable[[Tensor, Tensor], Metric] | None = None
    change: Callable[[Tensor, Tensor], Metric] | None = None
    refuses: Callable[[Recipe], str] = refuses_nothing
    advise: Callable[[Taught], Advice] = advise_by_metrics
    order: Callable[[Tensor, Tensor], tuple[int, ...]] | None = None
    decoding: Decoding = "none"
    class_dimension: int | None = None
    smooths_labels: bool = False
    places: Callable[[Tensor], tuple[int, ...]] = no_places
    read: Callable[[Any], Tensor] = one_output
    keep: Callable[[Tensor], Tensor] = as_they_are
    parts: tuple[str, ...] = ()
    unfit: Callable[[Tensor, Tensor], str] = always_fit
    together: int = 1
    counts: Callable[[Tensor, Tensor], Tensor] | None = None
    of_counts: Callable[[Tensor], Tensor] | None = None
    components: Callable[[Tensor], dict[str, Tensor]] = one_part
    class_figure: str = "accuracy"
    classes: int = 0
    weighted: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]] | None = None
    tolerance: str = ""

    @property
    def writes_texts(self) -> bool:
        return self.decoding == "transcript"

    def sqnr_db(self, reference: Tensor, outputs: Tensor) -> dict[str, float]:
        """Signal to noise of outputs against those of a reference, in each of their parts."""
        expected = self.components(reference)
        return {name: sqnr_db(expected[name], own) for name, own in self.components(outputs).items()}

    def zeros(self, targets: Tensor) -> Tensor:
        """Outputs of zeros for targets (N, ...), to try the task on."""
        return torch.zeros(len(targets), max(1, self.outputs), *self.places(targets))

    def form(self, targets: Tensor) -> OutputForm:
        """What the task reads of a network."""
        return OutputForm(self.outputs, len(self.places(targets)), self.read, self.classes)


def same_predictions(decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], float]:
    """`Task.agreement` of tasks whose predictions are equal or not."""

    def agreement(one: Tensor, other: Tensor) -> float:
        same = decode(one) == decode(other)
        return float(same.flatten(1).all(1).double().mean() if same.ndim > 1 else same.double().mean())

    return agreement
