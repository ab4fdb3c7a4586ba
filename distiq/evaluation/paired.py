"""How much worse or better one model is than another on the same samples, whatever the task, with its interval."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distiq.evaluation.statistics import paired_bootstrap, paired_interval, seeded_interval
from distiq.records.quality import Metric
from distiq.tasks.intervals import bootstrap_interval
from distiq.tasks.task import Task

FEW = 200  # draws where each of them sorts and sums all that was found


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
    elif task.weighted is not None:
        interval = gain(task, metric, [reference], [outputs], targets)
    else:
        interval = _resampled(task, reference, outputs, targets)
    value, low, high = (metric.scale * end for end in interval)
    return value, low, high


def gain(
    task: Task, metric: Metric, first: Sequence[Tensor], second: Sequence[Tensor], targets: Tensor
) -> tuple[float, float, float]:
    """By how much the primary metric of one model is better than that of another, over several seeds of both.

    Args:
        metric: the task's primary one, for its direction.
        first, second: of each seed the outputs as the task keeps them, (N, ...); targets (N, ...).

    Returns:
        mean over seeds, low, high, as fractions: see `seeded_interval`.
    """
    one, other = (figures(task, outputs, targets) for outputs in (first, second))
    sign = 1 if metric.higher_is_better or task.correct is not None else -1
    draws = {} if task.weighted is None else {"resamples": FEW}
    return seeded_interval(lambda times: sign * (one(times) - other(times)), len(targets), **draws)


def has_figures(task: Task) -> bool:
    """Whether `figures` can be told of a task."""
    return task.correct is not None or task.counts is not None or task.weighted is not None


def figures(task: Task, outputs: Sequence[Tensor], targets: Tensor) -> Callable[[Tensor], Tensor]:
    """How often each sample counts, (N,) float64 -> the primary metric in each seed, (seeds,); of what is simply right
    or wrong, the share that is right.

    Args:
        outputs: of each seed, as the task keeps them, (N, ...); targets (N, ...).
    """
    if task.correct is not None:
        right = torch.stack([task.correct(task.decode(one), targets) for one in outputs]).double()
        return lambda times: right @ times / len(targets)
    if task.weighted is not None:
        of_weights = [task.weighted(one, targets) for one in outputs]
        return lambda times: torch.cat([of(times.unsqueeze(0)) for of in of_weights])
    assert task.counts is not None
    assert task.of_counts is not None
    of_sums, counts = task.of_counts, torch.stack([task.counts(one, targets) for one in outputs]).double()
    return lambda times: of_sums(torch.einsum("n,snk->sk", times, counts))


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
