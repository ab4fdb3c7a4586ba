"""Intervals by hand, by their own equations, against scipy, and by how often they hold."""

import math

import pytest
import torch

from distiq.tasks.intervals import Z_95, bootstrap_interval, fisher_interval, rmse_interval, wilson_interval


@pytest.mark.parametrize(
    ("correct", "samples", "low", "high"),
    [
        # By hand with z^2 = 3.8415: (s + z^2/2 -+ z sqrt(s (n - s) / n + z^2 / 4)) / (n + z^2).
        (0, 10, 0.0, 3.8415 / 13.8415),
        (10, 10, 10 / 13.8415, 1.0),
        (5, 10, 0.5 - 1.95996 * math.sqrt(2.5 + 0.96037) / 13.8415, 0.5 + 1.95996 * math.sqrt(2.5 + 0.96037) / 13.8415),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_by_hand(correct: int, samples: int, low: float, high: float):
    assert wilson_interval(correct, samples) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("correct", "samples"), [(0, 3), (1, 7), (50, 100), (9350, 10_000), (10_000, 10_000)])
def test_wilson_ends_solve_the_score_equation(correct: int, samples: int):
    """At an inner end p of the interval |share - p| = z sqrt(p (1 - p) / n) (Wilson 1927)."""
    share = correct / samples
    for end in wilson_interval(correct, samples):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(Z_95 * math.sqrt(end * (1 - end) / samples), rel=1e-6)


@pytest.mark.parametrize(("correct", "samples"), [(3, 8), (80, 100), (9350, 10_000)])
def test_wilson_is_scipy_s(correct: int, samples: int):
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(correct, samples).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, samples) == pytest.approx(tuple(interval), rel=1e-9)


@pytest.mark.parametrize("true", [0.0, 0.6, 0.95])
def test_fisher_intervals_hold_the_true_correlation_19_times_of_20(true: float):
    noise, held = math.sqrt(1 / max(true, 1e-3) ** 2 - 1), 0
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randn(60, generator=generator)
        answers = labels + noise * torch.randn(60, generator=generator)
        low, high = fisher_interval(float(torch.corrcoef(torch.stack([answers, labels]))[0, 1]), 60)
        held += low <= true <= high
    assert 366 <= held <= 394  # 380, and three standard deviations of a count


def test_intervals_of_few_and_of_perfect_answers():
    assert fisher_interval(0.5, 3) == (-1.0, 1.0)
    assert fisher_interval(1.0, 100) == (1.0, 1.0)
    assert rmse_interval(torch.tensor([2.0])) == (0.0, math.inf)
    assert rmse_interval(torch.zeros(5)) == (0.0, 0.0)


def test_an_interval_of_the_error_is_that_of_the_squares():
    low, high = rmse_interval(torch.tensor([1.0, 1.0, 3.0, 3.0]))
    spread = Z_95 * math.sqrt(64 / 3) / 2  # squares 1, 1, 9, 9: mean 5, variance 64/3
    assert (low, high) == (pytest.approx(math.sqrt(5 - spread)), pytest.approx(math.sqrt(5 + spread)))


def test_the_bootstrap_of_a_mean_is_that_of_its_standard_error():
    """0 and 1 alike often: the standard error of the mean of 400 is 0.5 / 20."""
    counts = torch.stack([torch.arange(400) % 2, torch.ones(400)], 1)
    low, high = bootstrap_interval(counts, lambda sums: sums[..., 0] / sums[..., 1])
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.008)
