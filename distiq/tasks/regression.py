"""Regression: a number for each sample."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from distiq.data.labels import Labels
from distiq.records.quality import Metric
from distiq.tasks.intervals import fisher_interval, rmse_interval
from distiq.tasks.precision import full_precision
from distiq.tasks.task import Advice, Scores, Task, Taught

STEPS = 255  # of a span: numbers that lie within one of them agree


def regression(labels: Labels) -> Task:
    """Outputs (N, 1) and targets (N,) float32, both in standard deviations from the mean."""
    std = labels.target.std
    return Task(
        name="regression",
        predicts="a number",
        outputs=1,
        loss=loss,
        distillation=squared_error,
        decode=decode,
        score=partial(score, std=std),
        agreement=agreement,
        likeness=likeness,
        change=partial(change, std=std),
        advise=advise,
        decoding="number",
        tolerance=f"to 1/{STEPS} of its span",
    )


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each sample, (N,)."""
    return (outputs[:, 0].float() - targets).square()


@full_precision
def squared_error(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean squared difference; a number is not softened, so the temperature means nothing."""
    return F.mse_loss(student, teacher)


def decode(outputs: Tensor) -> Tensor:
    """The number of each sample, (N,)."""
    return outputs[:, 0]


def score(outputs: Tensor, targets: Tensor, std: float = 1.0) -> Scores:
    """Correlations, and the error in the unit of the data.

    Args:
        std: the standard deviation, in that unit.
    """
    predictions = decode(outputs)
    errors, pearson = std * (predictions - targets).double(), correlation(predictions, targets)
    interval = fisher_interval(pearson, len(targets))
    spearman = float(spearman_corrcoef(predictions.double(), targets.double()))
    return Scores(
        Metric(
            name="correlation", title="correlation", note="Pearson", value=pearson, interval=interval,
            interval_by="Fisher",
        ),
        (
            Metric(name="rank_correlation", title="rank correlation", note="Spearman", value=spearman),
            Metric(
                name="rmse", title="RMSE", note="root mean squared error", value=_root_mean_square(errors), unit="",
                interval=rmse_interval(errors), higher_is_better=False,
            ),
        ),
    )  # fmt: skip


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of (N,) and (N,); 0 where one of them is constant, which has none."""
    if (one == one[0]).all() or (other == other[0]).all():
        return 0.0
    return float(torch.corrcoef(torch.stack([one, other]).double())[0, 1])


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of samples on which two models' outputs are the same to 1/255 of the span of the first's."""
    return float(((one - other).abs() <= (one.max() - one.min()) / STEPS).double().mean())


def likeness(outputs: Tensor, teacher: Tensor) -> Metric:
    """The correlation of a model's numbers with its teacher's."""
    value = correlation(decode(outputs), decode(teacher))
    return Metric(name="correlation_with_teacher", title="correlation with teacher", value=value)


def change(outputs: Tensor, float32: Tensor, std: float = 1.0) -> Metric:
    """How far numbers moved from those of the float32 form, in the unit of the data."""
    moved = _root_mean_square(std * (decode(outputs) - decode(float32)).double())
    return Metric(
        name="moved", title="moved from float32", note="RMS", value=moved, unit="", higher_is_better=False
    )  # fmt: skip


def advise(taught: Taught) -> Advice:
    """Whether the teacher's numbers go with the targets, and have their unit."""
    facts = [f"teacher: {taught.quality.in_words} on the validation split (always guessing the mean: no correlation)"]
    interval, targets = taught.quality.primary.interval, taught.targets
    if interval and interval[0] <= 0:
        return Advice(facts, [
            "the teacher is not shown to be better than always guessing the mean; check its weights and its tokenizer"
        ])  # fmt: skip
    if float((decode(taught.outputs) - targets).square().mean()) > float(targets.var(correction=0)):
        return Advice(facts, [
            "the teacher's predictions correlate with the targets, but are in another unit: their error is larger than"
            " that of always guessing the mean; a student would learn that unit, so set teacher.finetune = true"
        ])  # fmt: skip
    return Advice(facts, [])


def _root_mean_square(values: Tensor) -> float:
    return float(torch.sqrt(values.square().mean()))
