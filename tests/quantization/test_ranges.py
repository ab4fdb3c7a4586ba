"""Histograms that do not depend on how the stream is cut, and the ranges that are read from them."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.numerics import affine_bounds, affine_qparams, dequantize, quantize
from distiq.quantization.ranges import (
    BINS,
    SMOOTHING,
    Histogram,
    activation_range,
    divergences,
    entropy_range,
    mse_range,
    percentile_range,
    squared_errors,
)
from distiq.quantization.scheme import RangeMethod, Scheme

SAMPLES = {
    "normal": lambda: torch.randn(20_000),
    "relu": lambda: torch.randn(20_000).relu(),
    "heavy tails": lambda: torch.distributions.StudentT(3.0).sample((20_000,)),
    "one-sided tail": lambda: torch.randn(20_000).exp(),
    "outlier": lambda: torch.cat([torch.randn(20_000), torch.tensor([60.0])]),
    "negative": lambda: -torch.rand(20_000) - 0.5,
}


def histogram(*parts: Tensor) -> Histogram:
    found = Histogram()
    for part in parts:
        found.update(part)
    return found


def squared_error(values: Tensor, low: float, high: float, bits: int = 8, counts: Tensor | None = None) -> float:
    """The mean over the values, or the sum over so many of each."""
    parameters = affine_qparams(torch.tensor(low), torch.tensor(high), bits)
    squares = (dequantize(quantize(values, *parameters, affine_bounds(bits)), *parameters) - values).double().square()
    return squares.mean().item() if counts is None else (squares * counts).sum().item()


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Tensor:
    torch.manual_seed(0)
    return SAMPLES[request.param]()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_does_not_depend_on_the_cut(size: int, sample: Tensor):
    values = sample[:3000]
    # Ascending, so that the range grows with every part.
    whole, cut = histogram(values), histogram(*values.sort().values.split(size))
    assert (whole.width, whole.low, whole.high, whole.seen) == (cut.width, cut.low, cut.high, cut.seen)
    assert torch.equal(whole.counts, cut.counts)


def test_counts_by_hand():
    half = BINS // 2
    found = histogram(torch.tensor([0.0, 0.1, float(half), -float(half)]))
    assert found.width == 1.0  # 2 * half / BINS
    assert {place - half: found.counts[place].item() for place in found.counts.nonzero()[:, 0].tolist()} == {
        0: 2,
        half: 1,
        -half: 1,
    }


def test_memory_is_bounded_while_the_range_grows():
    found = Histogram()
    for exponent in range(-20, 21, 4):
        found.update(torch.linspace(-(10.0**exponent), 10.0**exponent, 10_000))
        assert len(found.counts) == BINS + 1
    assert found.counts.sum() == found.seen == 11 * 10_000


def test_extremes_are_exact(sample: Tensor):
    found = histogram(*sample.split(999))
    assert activation_range(found, Scheme(ranges="minmax")) == (sample.min().item(), sample.max().item())


def test_centers_lie_within_the_extremes(sample: Tensor):
    centers, counts = histogram(sample).centers_and_counts()
    assert sample.min() <= centers.min() <= centers.max() <= sample.max()
    assert (centers.diff() > 0).all()
    assert counts.sum() == len(sample)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99, 100.0])
def test_percentile_against_sorting(percentile: float, sample: Tensor):
    found = histogram(sample)
    low, high = percentile_range(found, percentile)
    ordered, outside = sample.sort().values, (1 - percentile / 100) / 2 * len(sample)
    assert low == pytest.approx(ordered[int(outside)].item(), abs=1.01 * found.width)
    assert high == pytest.approx(ordered[-1 - int(outside)].item(), abs=1.01 * found.width)
    kept = ((sample >= low) & (sample <= high)).double().mean().item()
    assert kept >= percentile / 100 - 1e-3


def test_percentile_100_is_minmax(sample: Tensor):
    assert percentile_range(histogram(sample), 100.0) == (sample.min().item(), sample.max().item())


def test_mse_is_never_worse_than_minmax(sample: Tensor):
    found = histogram(sample)
    chosen = mse_range(found, 8)
    centers, counts = found.centers_and_counts()
    binned = centers.repeat_interleave(counts.long())
    assert squared_error(binned, *chosen) <= 1.005 * squared_error(binned, found.low, found.high)
    # A bin can be a quarter of a step wide, so the values themselves are known to a few percent only.
    assert squared_error(sample, *chosen) <= 1.1 * squared_error(sample, found.low, found.high)


@pytest.mark.parametrize("bits", [4, 8])
def test_mse_is_the_best_of_all_pairs_of_ends(bits: int, sample: Tensor):
    found = histogram(sample)
    shares = torch.logspace(-1.5, 0, 40).tolist()
    lows = [min(found.low, 0.0) * share for share in shares] if found.low < 0 else [0.0]
    highs = [max(found.high, 0.0) * share for share in shares] if found.high > 0 else [0.0]
    exhaustive = min(squared_error(sample, low, high, bits) for low in lows for high in highs)
    assert squared_error(sample, *mse_range(found, bits), bits) <= (1.01 if bits == 4 else 1.03) * exhaustive


def test_mse_cuts_off_what_is_rare_enough():
    """One value of 600 among n of power 1: cutting at h costs (600 - h)^2, rounding n (h / 255)^2 / 12."""
    found = histogram(torch.randn(4_000_000, generator=torch.Generator().manual_seed(0)).abs(), torch.tensor([600.0]))
    per_square = 4_000_000 / 255**2 / 12
    assert mse_range(found, 8)[1] == pytest.approx(600 / (1 + per_square), rel=0.15), "the valley is flat"


def test_squared_errors_bin_by_bin(sample: Tensor):
    centers, counts = histogram(sample).centers_and_counts()
    lows, highs = torch.tensor([-2.0, -0.5, 0.0]).double(), torch.tensor([3.0, 0.0, 1.7]).double()
    for bits in (4, 8):
        expected = [
            squared_error(centers, low, high, bits, counts)
            for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
        ]
        assert squared_errors(centers, counts, lows, highs, bits).tolist() == pytest.approx(expected, rel=1e-6)


def test_sixteen_bits_cut_nothing_off(sample: Tensor):
    assert mse_range(histogram(sample), 16) == (sample.min().item(), sample.max().item())


def test_pieces_are_counted_as_one(monkeypatch: pytest.MonkeyPatch, sample: Tensor):
    whole = histogram(sample).counts
    monkeypatch.setattr("distiq.quantization.ranges.PIECE", 999)
    assert torch.equal(histogram(sample).counts, whole)


def slow_divergence(found: Histogram, low: float, high: float, bits: int) -> float:
    """KL(values, quantized values) in nat, bin by bin."""
    scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), bits)
    pairs = [(c, n) for c, n in zip(*(x.tolist() for x in found.centers_and_counts()), strict=True) if n]
    kept = [(center, count) for center, count in pairs if low <= center <= high]
    own = [count for _, count in kept]
    own[0] += sum(count for center, count in pairs if center < low)
    own[-1] += sum(count for center, count in pairs if center > high)
    levels = [int(quantize(torch.tensor(c), scale, zero_point, affine_bounds(bits))) for c, _ in kept]
    inside = sum(count for _, count in kept)
    total = 0.0
    for value, level in zip(own, levels, strict=True):
        same = [count for (_, count), other in zip(kept, levels, strict=True) if other == level]
        total += value / found.seen * math.log(value / found.seen / (sum(same) / len(same) / inside))
    return total


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_divergence_bin_by_bin(share: float):
    torch.manual_seed(0)
    found = histogram(torch.randn(400))
    low, high = share * found.low, share * found.high
    computed = divergences(
        *found.centers_and_counts(), torch.tensor([low]).double(), torch.tensor([high]).double(), bits=4
    )
    assert computed.item() == pytest.approx(slow_divergence(found, low, high, 4), rel=1e-5)


def test_entropy_is_never_worse_than_minmax(sample: Tensor):
    found = histogram(sample)
    low, high = entropy_range(found, 8)
    assert found.low <= low < high <= found.high
    ranges = torch.tensor([[low, high], [found.low, found.high]]).double()
    ranges = torch.stack([ranges[:, 0].clamp(max=0), ranges[:, 1].clamp(min=0)])
    chosen, widest = divergences(*found.centers_and_counts(), *ranges, bits=8).tolist()
    assert chosen <= widest + 1e-6


def test_entropy_cuts_off_a_lonely_outlier():
    torch.manual_seed(0)
    low, high = entropy_range(histogram(torch.cat([torch.randn(20_000), torch.tensor([600.0])])), 8)
    assert high < 300
    assert low < -2


def test_moving_average_by_hand():
    found = histogram(torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]))
    expected = (-1 + SMOOTHING * (-3 + 1), 2 + SMOOTHING * (1 - 2))
    assert activation_range(found, Scheme(ranges="moving_average")) == pytest.approx(expected)


@pytest.mark.parametrize("method", get_args(RangeMethod))
def test_relu_output_keeps_its_zero(method: str):
    torch.manual_seed(0)
    low, high = activation_range(histogram(torch.randn(10_000).relu()), Scheme(ranges=method, percentile=99.0))
    assert low == 0
    assert high > 0


@pytest.mark.parametrize("method", get_args(RangeMethod))
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_activation_has_a_range(method: str, value: float):
    low, high = activation_range(histogram(torch.full((100,), value)), Scheme(ranges=method))
    scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), 8)
    assert dequantize(quantize(torch.tensor(value), scale, zero_point, affine_bounds(8)), scale, zero_point).item() == (
        pytest.approx(value, rel=0.01)
    )


def test_mse_behind_a_function_spends_its_levels_where_the_function_differs():
    """Of values far below zero SiLU makes next to nothing, and what is close to that is as good."""
    values = 4 * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    plain, told = (mse_range(histogram(values), 4, through) for through in (None, F.silu))

    def error(low: float, high: float) -> float:
        scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), 4)
        quantized = (torch.clamp(torch.round(values / scale) + zero_point, *affine_bounds(4)) - zero_point) * scale
        return float((F.silu(quantized) - F.silu(values)).square().mean())

    assert told[0] > plain[0]
    shares = torch.linspace(0.1, 1, 30).tolist()
    exhaustive = min(error(-16 * low, 16 * high) for low in shares for high in shares)
    assert error(*told) <= 1.05 * exhaustive < 0.8 * error(*plain)
