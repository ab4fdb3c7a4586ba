"""The intervals of metrics: 95 % by default."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Z_95 = 1.959963984540054
RESAMPLES = 1000


def wilson_interval(correct: int, samples: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927); (0, 1) without samples."""
    if samples == 0:
        return 0.0, 1.0
    share = correct / samples
    center = share + z * z / (2 * samples)
    spread = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def fisher_interval(pearson: float, samples: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a correlation by Fisher's transformation (1921); (-1, 1) of up to 3 samples."""
    if samples <= 3:
        return -1.0, 1.0
    if abs(pearson) >= 1:
        return pearson, pearson
    centre, spread = math.atanh(pearson), z / math.sqrt(samples - 3)
    return math.tanh(centre - spread), math.tanh(centre + spread)


def rmse_interval(errors: Tensor, z: float = Z_95) -> tuple[float, float]:
    """The interval of the root of the mean squared error, by that of the mean of the squares."""
    squares = errors.square()
    if len(squares) < 2:
        return 0.0, math.inf
    mean, spread = float(squares.mean()), z * float(squares.std()) / math.sqrt(len(squares))
    return math.sqrt(max(0.0, mean - spread)), math.sqrt(mean + spread)


def bootstrap_interval(
    counts: Tensor, figure: Callable[[Tensor], Tensor], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The percentile interval of a figure of sums, over samples that are drawn again (Efron 1979).

    Args:
        counts: (N, k), what is counted of each sample. figure: sums (..., k) -> (...).
    """
    samples = len(counts)
    drawn = np.random.default_rng(0).multinomial(samples, np.full(samples, 1 / samples), resamples)
    figures = figure(torch.from_numpy(drawn).double() @ counts.double())
    low, high = figures.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
