"""Numbers in place of classes: correlations with what is wanted, and errors in its own unit."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from distiq.data.splits import correlation
from distiq.evaluation.accuracy import Z_95
from distiq.records.quality import Metric, Quality


def score_numbers(
    answers: Tensor, labels: Tensor, std: float, teacher: Tensor | None = None, float_student: Tensor | None = None
) -> Quality:
    """The record of given answers and labels, both (N,), in standard deviations of the numbers.

    Args:
        std: the standard deviation, in the numbers' own unit.
        teacher, float_student: answers of others on the same samples, (N,).
    """
    errors = std * (answers - labels).double()
    pearson = correlation(answers, labels)
    spearman = float(spearman_corrcoef(answers.double(), labels.double()))
    error = Metric(
        name="rmse",
        title="RMSE",
        note="root mean squared error",
        value=_root_mean_square(errors),
        unit="",
        interval=rmse_interval(errors),
        higher_is_better=False,
    )
    return Quality(
        samples=len(labels),
        primary=Metric(
            name="correlation",
            title="correlation",
            note="Pearson",
            value=pearson,
            interval=fisher_interval(pearson, len(labels)),
            interval_by="Fisher",
        ),
        metrics=(Metric(name="rank_correlation", title="rank correlation", note="Spearman", value=spearman), error),
        agreement_with_teacher=None if teacher is None else _alike(correlation(answers, teacher)),
        change_against_float=None if float_student is None else _moved(std * (answers - float_student).double()),
    )


def _alike(value: float) -> Metric:
    return Metric(name="correlation_with_teacher", title="correlation with teacher", value=value)


def _moved(differences: Tensor) -> Metric:
    return Metric(
        name="moved",
        title="moved from float32",
        note="RMS",
        value=_root_mean_square(differences),
        unit="",
        higher_is_better=False,
    )


def fisher_interval(pearson: float, samples: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a correlation by Fisher's transformation (1921): 95 % by default; (-1, 1) of up to 3 samples."""
    if samples <= 3:
        return -1.0, 1.0
    if abs(pearson) >= 1:
        return pearson, pearson
    centre, spread = math.atanh(pearson), z / math.sqrt(samples - 3)
    return math.tanh(centre - spread), math.tanh(centre + spread)


def rmse_interval(errors: Tensor, z: float = Z_95) -> tuple[float, float]:
    """The interval of the root of the mean squared error, by that of the mean of the squares: 95 % by default."""
    squares = errors.square()
    if len(squares) < 2:
        return 0.0, math.inf
    mean, spread = float(squares.mean()), z * float(squares.std()) / math.sqrt(len(squares))
    return math.sqrt(max(0.0, mean - spread)), math.sqrt(mean + spread)


def _root_mean_square(values: Tensor) -> float:
    return float(torch.sqrt(values.square().mean()))
