"""Is one model better than another? Paired statistics over samples and seeds; of times, over turns."""

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from scipy.stats import t as students_t
from torch import Tensor

from distiq.records.speed import SpeedRecord

RESAMPLES = 2000
NORMAL = 1.959963984540054  # the normal distribution's quantile of 97.5 %


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947): are gains and losses equally likely?

    Args:
        fixed, broken: samples that only the first, or only the second model predicts right.
    """
    total = fixed + broken
    tail = sum(math.comb(total, k) for k in range(min(fixed, broken) + 1))
    return min(1.0, float(2 * tail / 2**total)) if total else 1.0


def paired_interval(first: Tensor, second: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """The difference in accuracy, first minus second, with its paired bootstrap interval; see `seeded_interval`.

    Args:
        first, second: (seeds, samples) of booleans, right or wrong, both in the same order.

    Returns:
        mean over seeds, low, high, as fractions.
    """
    apart = first.double() - second.double()
    return seeded_interval(lambda times: apart @ times / apart.shape[1], apart.shape[1], seed)


def seeded_interval(
    difference: Callable[[Tensor], Tensor], samples: int, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """The mean over seeds of a difference between two models, with its paired bootstrap interval of 95 %.

    Seeds and test samples are both resampled (Davison and Hinkley 1997, section 3.8): the question is whether the
    difference would hold for other seeds and other images. The few seeds' deviations are widened by sqrt(n / (n - 1)),
    as the standard deviation of a sample is, and by Student's t over the normal quantile; without that, three seeds of
    equal models are told apart far too often. With one seed, only samples are resampled.

    Args:
        difference: how often each sample counts, (samples,) float64 -> the difference in each seed, (seeds,) float64.
    """
    whole = difference(torch.ones(samples, dtype=torch.float64))
    seeds = len(whole)
    widen = math.sqrt(seeds / (seeds - 1)) * quantile(seeds - 1) / NORMAL if seeds > 1 else 1.0
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(resamples):
        drawn = torch.randint(seeds, (seeds,), generator=generator)
        times = torch.randint(samples, (samples,), generator=generator).bincount(minlength=samples).double()
        each = difference(times)
        means.append(each.mean() + (each[drawn].mean() - each.mean()) * widen)
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(whole.mean()), low, high


def paired_bootstrap(measure: Callable[[Tensor], float], samples: int) -> tuple[float, float, float]:
    """A figure of samples, and its bootstrap interval of 95 % over them: (value, low, high).

    Args:
        measure: takes the numbers of the samples that are drawn, (samples,) int64.
    """
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(samples, (samples,), generator=generator) for _ in range(RESAMPLES)]
    low, high = torch.tensor([measure(rows) for rows in draws]).quantile(torch.tensor([0.025, 0.975])).tolist()
    return measure(torch.arange(samples)), low, high


def paired_speed(before_ms: Sequence[float], after_ms: Sequence[float]) -> SpeedRecord:
    """How many times faster the second of two files is, from the times of turns that they took side by side.

    Ratios are averaged as logarithms; the interval is Student's t over the turns. A drift of the machine's speed
    affects both files of a turn alike, so it cancels in the ratio.

    Raises:
        AssertionError: the files took unequal numbers of turns, or none.
    """
    assert len(before_ms) == len(after_ms) > 0
    logs = [math.log(before / after) for before, after in zip(before_ms, after_ms, strict=True)]
    ratio = math.exp(statistics.fmean(logs))
    if len(logs) == 1:
        return SpeedRecord(ratio=ratio, interval=None, verdict="cannot tell")
    half = quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    return SpeedRecord(
        ratio=ratio,
        interval=(low, high),
        verdict="faster" if low > 1 else "slower" if high < 1 else "cannot tell",
    )


def quantile(degrees: int) -> float:
    """Student's t quantile of 97.5 % for one or more degrees of freedom."""
    return float(students_t.ppf(0.975, degrees))
