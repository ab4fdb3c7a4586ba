"""The range of an activation, from a histogram whose memory does not grow with the calibration set."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.numerics import affine_bounds, affine_qparams
from distiq.quantization.scheme import Scheme

BINS = 16384
PIECE = 2**17  # values that are counted at once: they stay in a core's cache
CANDIDATES = 80
NARROWEST = 2.0**-6  # of the extremes: in a narrower range the steps of 8 bits would be finer than the bins
FIRST, NEXT = 16, 9  # limits tried on each side: first, and around the best
ZOOMS = 4
SMOOTHING = 0.1
Function = Callable[[Tensor], Tensor]


class Histogram:
    """Counts of a stream of values in at most `BINS` + 1 bins whose width is a power of two.

    Bins are aligned to multiples of their width, so doubling the width merges pairs exactly and no count is ever
    spread by interpolation: the result does not depend on how the stream is cut into batches. For the same reason the
    bin of a value is exact in float32.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.smooth_low = self.smooth_high = 0.0  # moving averages of the batches' extremes
        self.width = 0.0
        self.counts = torch.zeros(BINS + 1, dtype=torch.int64)  # of the bins from -BINS / 2 on
        self.seen = 0

    def update(self, values: Tensor) -> None:
        """Counts the values; exact extremes are kept beside the bins."""
        values = values.detach().float().flatten()
        low, high = (float(extreme) for extreme in values.aminmax())
        if not self.seen:
            self.low, self.high, self.smooth_low, self.smooth_high = low, high, low, high
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.smooth_low += SMOOTHING * (low - self.smooth_low)
        self.smooth_high += SMOOTHING * (high - self.smooth_high)
        self.seen += values.numel()
        self._widen()
        first = math.floor(low / self.width)
        for piece in values.split(PIECE):
            bins = (piece * (1 / self.width)).floor_().sub_(first).to(torch.int32)
            counts = torch.bincount(bins)
            self.counts[first + BINS // 2 :][: len(counts)] += counts

    def _widen(self) -> None:
        largest = max(abs(self.low), abs(self.high), 1e-30)
        needed = 2.0 ** (torch.tensor(2 * largest / BINS).log2().ceil().item())
        if not self.width:
            self.width = needed
        while self.width < needed:
            self.width *= 2
            pairs, (start, stop) = self.counts[:-1].view(-1, 2).sum(1), (BINS // 4, 3 * BINS // 4)
            last = self.counts[-1].item()
            self.counts.zero_()
            self.counts[start:stop], self.counts[stop] = pairs, last

    def centers_and_counts(self) -> tuple[Tensor, Tensor]:
        """Centers of the filled bins, within the extremes, and their counts: both (K,) float64, ascending."""
        filled = self.counts.nonzero().flatten()
        centers = (filled.double() - BINS // 2 + 0.5) * self.width
        return centers.clamp(self.low, self.high), self.counts[filled].double()


def activation_range(histogram: Histogram, scheme: Scheme, through: Function | None = None) -> tuple[float, float]:
    """(low, high) that the scheme takes from what calibration saw; for `through` see `mse_range`."""
    match scheme.ranges:
        case "minmax":
            return histogram.low, histogram.high
        case "percentile":
            return percentile_range(histogram, scheme.percentile)
        case "mse":
            return mse_range(histogram, scheme.activation_bits, through)
        case "entropy":
            return entropy_range(histogram, scheme.activation_bits)
        case "moving_average":
            return histogram.smooth_low, histogram.smooth_high


def percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """The range that leaves out (100 - percentile) percent of the values, half at each end; a side without outliers
    (such as the zeros of a ReLU) keeps its extreme."""
    centers, counts = histogram.centers_and_counts()
    share = (1 - percentile / 100) / 2
    cumulated = counts.cumsum(0) / counts.sum()
    low = int((cumulated > share).nonzero()[0])
    high = int((cumulated >= 1 - share).nonzero()[0])
    half = histogram.width / 2
    return max(float(centers[low]) - half, histogram.low), min(float(centers[high]) + half, histogram.high)


def mse_range(histogram: Histogram, bits: int, through: Function | None = None) -> tuple[float, float]:
    """The range of least mean squared error, of rounding and clipping together; both limits are searched at once.

    `through`: an elementwise function that is the only consumer of the values; the error is then that of its results.
    SiLU maps large negative values to almost the same result, so their share of the integers is better spent elsewhere.

    The clipping error is convex in the two limits, and so is the rounding error but for the phase of the steps: a
    coarse search finds the valley, and four finer searches around the best candidate find its bottom, to a thousandth
    of the range. No limit goes beyond the extremes.
    """
    if 2**bits > BINS:
        # Steps are finer than the bins: clipping one value costs more than it saves in rounding 10^9 others.
        return histogram.low, histogram.high
    centers, counts = histogram.centers_and_counts()
    extremes = torch.tensor([min(histogram.low, 0.0), max(histogram.high, 0.0)], dtype=torch.float64)
    best = torch.ones(2, dtype=torch.float64)  # shares of the extremes
    ratio = NARROWEST ** (1 / (FIRST - 1))
    factors = ratio ** torch.arange(FIRST, dtype=torch.float64)
    for _ in range(1 + ZOOMS):
        pairs = torch.cartesian_prod(
            *((factors * share).clamp(max=1.0) if far else best[:1] for share, far in zip(best, extremes, strict=True))
        )
        lows, highs = (pairs * extremes).unbind(1)
        best = pairs[squared_errors(centers, counts, lows, highs, bits, through).argmin()]
        factors = ratio ** torch.linspace(-1, 1, NEXT, dtype=torch.float64)
        ratio = ratio ** (2 / (NEXT - 1))
    low, high = (best * extremes).tolist()
    return max(low, histogram.low), min(high, histogram.high)


def entropy_range(histogram: Histogram, bits: int) -> tuple[float, float]:
    """The range whose quantized values are distributed most like the values themselves (least KL divergence).

    Migacz 2017, "8-bit inference with TensorRT" (GTC 2017), for affine quantization: values beyond the range count at
    its edges, and a level's share is spread over the bins that it stands for. Both limits shrink, one after the other,
    twice; a side that is zero stays.
    """
    centers, counts = histogram.centers_and_counts()
    shares = torch.linspace(1.0, 0.2, CANDIDATES, dtype=torch.float64)
    low, high = torch.tensor(histogram.low).double(), torch.tensor(histogram.high).double()
    for _ in range(2):
        lows = torch.clamp(low, max=0.0).expand(CANDIDATES)
        highs = high * shares if high > 0 else high.expand(CANDIDATES)
        high = highs[divergences(centers, counts, lows, highs, bits).argmin()]
        if low < 0:
            lows, highs = low * shares, high.expand(CANDIDATES)
            low = lows[divergences(centers, counts, lows, highs, bits).argmin()]
        shares = torch.linspace(1.05, 0.8, CANDIDATES, dtype=torch.float64)
    return max(float(low), histogram.low), min(float(high), histogram.high)


def squared_errors(
    centers: Tensor, counts: Tensor, lows: Tensor, highs: Tensor, bits: int, through: Function | None = None
) -> Tensor:
    """Weighted squared error of every candidate range, (C,), from sums over the bins that fall to each level.

    Between two levels v and w the values up to (v + w) / 2 go to v; of these, sum n (x - v)^2 = S2 - 2 v S1 + v^2 S0
    with S0, S1, S2 the sums of n, n x, n x^2 over their bins. So a candidate costs levels, not bins. With a function
    that reads the values, x and v stand for its results.
    """
    scale, zero_point = affine_qparams(lows, highs, bits)
    smallest, largest = affine_bounds(bits)
    steps = torch.arange(smallest, largest + 1) - zero_point.unsqueeze(1)
    levels = steps * scale.double().unsqueeze(1)
    edges = torch.searchsorted(centers, (levels[:, 1:] + levels[:, :-1]) / 2)
    edges = F.pad(F.pad(edges, (1, 0)), (0, 1), value=len(centers))
    if through is not None:
        centers, levels = through(centers), through(levels)
    moments = (counts * centers**power for power in range(3))
    zeroth, first, second = (F.pad(moment.cumsum(0), (1, 0))[edges].diff(dim=1) for moment in moments)
    return (second - 2 * levels * first + levels.square() * zeroth).sum(1)


def divergences(centers: Tensor, counts: Tensor, lows: Tensor, highs: Tensor, bits: int) -> Tensor:
    """KL(values, quantized values) of every candidate range in nat: (CANDIDATES,)."""
    scale, zero_point = affine_qparams(lows, highs, bits)
    smallest, largest = affine_bounds(bits)
    filled = (counts > 0).double()
    sums = []
    for low, high, step, zero in zip(lows, highs, scale.double(), zero_point, strict=True):
        inside = ((centers >= low) & (centers <= high)).double()
        levels = torch.clamp(torch.round(centers / step) + zero, smallest, largest).long() - smallest
        empty = torch.zeros(largest - smallest + 1, dtype=torch.float64)
        # Clipped values count at the edges of the original distribution, and not at all in the quantized one.
        shares = counts * inside
        outside = counts * (1 - inside)
        edges = (inside.nonzero()[0], inside.nonzero()[-1]) if inside.any() else (0, -1)
        values = shares.clone()
        values[edges[0]] += (outside * (centers < low)).sum()
        values[edges[1]] += (outside * (centers > high)).sum()
        level_share = empty.index_add(0, levels, shares)
        level_bins = empty.index_add(0, levels, filled * inside)
        spread = level_share[levels] / level_bins[levels].clamp(min=1) * filled * inside
        own, other = values / values.sum(), spread / spread.sum().clamp(min=1e-300)
        terms = torch.where(own > 0, own * (own.clamp(min=1e-300) / other.clamp(min=1e-12)).log(), 0.0)
        sums.append(terms.sum())
    return torch.stack(sums)
