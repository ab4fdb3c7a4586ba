"""Numbers in place of classes: correlations with what is wanted, and errors in its own unit."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from distiq.data.splits import correlation
from distiq.evaluation.accuracy import Z_95
from distiq.records.quality import RegressionRecord


def score_numbers(
    answers: Tensor, labels: Tensor, std: float, teacher: Tensor | None = None, float_student: Tensor | None = None
) -> RegressionRecord:
    """The record of given answers and labels, both (N,), in standard deviations of the numbers.

    Args:
        std: the standard deviation, in the numbers' own unit.
        teacher, float_student: answers of others on the same samples, (N,).
    """
    errors = std * (answers - labels).double()
    pearson = correlation(answers, labels)
    return RegressionRecord(
        samples=len(labels),
        pearson=pearson,
        interval=fisher_interval(pearson, len(labels)),
        spearman=float(spearman_corrcoef(answers.double(), labels.double())),
        rmse=_root_mean_square(errors),
        rmse_interval=rmse_interval(errors),
        correlation_with_teacher=correlation(answers, teacher) if teacher is not None else None,
        change_against_float=_root_mean_square(std * (answers - float_student).double())
        if float_student is not None
        else None,
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
