"""How much worse one model is than another on the same samples, whatever the task, with its paired interval."""

from collections.abc import Callable

import torch
from torch import Tensor

from distiq.evaluation.statistics import paired_bootstrap, paired_interval
from distiq.records.quality import Metric
from distiq.tasks.intervals import bootstrap_interval
from distiq.tasks.task import Task


def paired_drop(
    task: Task, metric: Metric, reference: Tensor, outputs: Tensor, targets: Tensor
) -> tuple[float, float, float]:
    """By how much the primary metric of outputs is worse than that of others for the same samples: (value, low, high),
    in points or the metric's unit, with the interval of 95 %.

    Args:
        metric: the task's primary one, for its scale and direction.
        reference, outputs: as the task keeps them, (N, ...); targets (N, ...).
    """
    if task.correct is not None:
        before, after = (task.correct(task.decode(one), targets).unsqueeze(0) for one in (reference, outputs))
        interval = paired_interval(before, after)
    elif task.counts is not None and task.of_counts is not None:
        sign = 1 if metric.higher_is_better else -1
        interval = _of_counts(task.counts(reference, targets), task.counts(outputs, targets), task.of_counts, sign)
    elif task.drop is not None:
        interval = task.drop(reference, outputs, targets)
    else:
        interval = _resampled(task, reference, outputs, targets)
    value, low, high = (metric.scale * end for end in interval)
    return value, low, high


def _of_counts(one: Tensor, other: Tensor, figure: Callable[[Tensor], Tensor], sign: int) -> tuple[float, float, float]:
    """The difference of a figure of sums, first minus second times `sign`, with its paired bootstrap interval."""
    width = one.shape[1]

    def difference(sums: Tensor) -> Tensor:
        return sign * (figure(sums[..., :width]) - figure(sums[..., width:]))

    both = torch.cat([one, other], 1)
    return float(difference(both.sum(0))), *bootstrap_interval(both, difference)


def _resampled(task: Task, reference: Tensor, outputs: Tensor, targets: Tensor) -> tuple[float, float, float]:
    """The drop with its interval, by scoring resampled samples; those that are judged together are drawn together."""

    def drop(drawn: Tensor) -> float:
        rows = (drawn.unsqueeze(1) * task.together + torch.arange(task.together)).flatten()
        before, after = (task.score(one[rows], targets[rows]).primary.goodness for one in (reference, outputs))
        return before - after

    return paired_bootstrap(drop, len(targets) // task.together)
