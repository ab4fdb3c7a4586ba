"""Histograms that do not depend on how the stream is cut, and the ranges that are read from them."""

import pytest
import torch
from torch import Tensor

from distiq.numerics import affine_bounds, affine_grid, dequantize, quantize
from distiq.quantization.ranges import BINS, Histogram, activation_range, mse_range, percentile_range
from distiq.quantization.scheme import Scheme

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


def squared_error(values: Tensor, low: float, high: float) -> float:
    grid = affine_grid(torch.tensor(low), torch.tensor(high), 8)
    return (dequantize(quantize(values, *grid, affine_bounds(8)), *grid) - values).double().square().mean().item()


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
    assert whole.counts == cut.counts


def test_counts_by_hand():
    half = BINS / 2
    found = histogram(torch.tensor([0.0, 0.1, half, -half]))
    assert found.width == 1.0  # 2 * half / BINS
    assert found.counts == {0: 2, half: 1, -half: 1}


def test_memory_is_bounded_while_the_range_grows():
    found = Histogram()
    for exponent in range(-20, 21, 4):
        found.update(torch.linspace(-(10.0**exponent), 10.0**exponent, 10_000))
        assert len(found.counts) <= 2 * BINS
    assert sum(found.counts.values()) == found.seen == 11 * 10_000


def test_extremes_are_exact(sample: Tensor):
    found = histogram(*sample.split(999))
    assert activation_range(found, Scheme()) == (sample.min().item(), sample.max().item())


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


def test_mse_comes_near_an_exhaustive_search(sample: Tensor):
    found = histogram(sample)
    shares = torch.linspace(0.1, 1, 40).tolist()
    lows = [min(found.low, 0.0) * share for share in shares] if found.low < 0 else [0.0]
    highs = [found.high * share for share in shares] if found.high > 0 else [0.0]
    exhaustive = min(squared_error(sample, low, high) for low in lows for high in highs)
    assert squared_error(sample, *mse_range(found, 8)) <= 1.1 * exhaustive


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_relu_output_keeps_its_zero(method: str):
    torch.manual_seed(0)
    low, high = activation_range(histogram(torch.randn(10_000).relu()), Scheme(ranges=method, percentile=99.0))
    assert low == 0
    assert high > 0


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_activation_has_a_grid(method: str, value: float):
    low, high = activation_range(histogram(torch.full((100,), value)), Scheme(ranges=method))
    scale, zero_point = affine_grid(torch.tensor(low), torch.tensor(high), 8)
    assert dequantize(quantize(torch.tensor(value), scale, zero_point, affine_bounds(8)), scale, zero_point).item() == (
        pytest.approx(value, rel=0.01)
    )
