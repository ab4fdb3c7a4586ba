"""Paired statistics against scipy and against cases whose answer is known."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm, t, ttest_1samp

from distiq.evaluation.statistics import (
    mcnemar,
    paired_bootstrap,
    paired_interval,
    paired_speed,
    quantile,
    seeded_interval,
)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (5, 5), (1, 9), (30, 12), (400, 300), (0, 1)])
def test_mcnemar_is_the_exact_binomial_test(fixed: int, broken: int):
    expected = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert mcnemar(fixed, broken) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(broken, fixed) == mcnemar(fixed, broken)


def drawn(seeds: int, samples: int, share: float, seed: int) -> torch.Tensor:
    return torch.rand(seeds, samples, generator=torch.Generator().manual_seed(seed)) < share


def test_interval_of_one_seed_is_that_of_the_samples():
    first, second = drawn(1, 2000, 0.9, 1), drawn(1, 2000, 0.85, 2)
    mean, low, high = paired_interval(first, second)
    difference = first.float() - second.float()
    half = 1.96 * float(difference.std()) / 2000**0.5
    assert mean == pytest.approx(float(difference.mean()))
    assert (low, high) == (pytest.approx(mean - half, abs=0.1 * half), pytest.approx(mean + half, abs=0.1 * half))


def test_seeds_that_disagree_widen_the_interval():
    base = drawn(1, 2000, 0.9, 1).expand(4, -1)
    shifts = torch.tensor([0.0, 0.05, 0.10, 0.15])
    wide = base | (drawn(4, 2000, 1.0, 3) & (torch.rand(4, 2000) < 10 * shifts.unsqueeze(1)))
    narrow = base | (torch.rand(4, 2000) < 0.75)
    spans = [high - low for _, low, high in (paired_interval(wide, base), paired_interval(narrow, base))]
    assert spans[0] > 2 * spans[1]


def test_the_interval_of_few_seeds_is_students():
    """Three seeds, right on all samples, on none more, or on none: of the 27 draws one has each end, 3.7 % > 2.5 %, so
    the ends are those of the deviations 1 and -1, times sqrt(3 / 2) * t(2) / z."""
    first = torch.tensor([[True], [True], [False]]).expand(3, 50)
    second = torch.tensor([[False], [True], [True]]).expand(3, 50)
    mean, low, high = paired_interval(first, second)
    widest = (3 / 2) ** 0.5 * t.ppf(0.975, 2) / norm.ppf(0.975)
    assert (mean, low, high) == (0.0, pytest.approx(-widest, rel=1e-3), pytest.approx(widest, rel=1e-3))


def test_equal_models_have_no_difference():
    same = drawn(3, 500, 0.8, 0)
    assert paired_interval(same, same) == (0.0, 0.0, 0.0)


def test_a_difference_of_any_figure_has_the_interval_of_its_samples():
    """Of shares it is the same as of booleans."""
    made = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 400, generator=made) < share for share in (0.8, 0.7))

    def difference(times: torch.Tensor) -> torch.Tensor:
        return (first * times).sum(1) / 400 - (second * times).sum(1) / 400

    assert seeded_interval(difference, 400) == pytest.approx(paired_interval(first, second), abs=1e-12)


def test_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for trial in range(40):
        generator = torch.Generator().manual_seed(trial)
        effect = 0.02 + 0.01 * torch.randn(5, 1, generator=generator)  # seeds differ
        first = torch.rand(5, 400, generator=generator) < 0.80 + effect
        second = torch.rand(5, 400, generator=generator) < 0.80
        _, low, high = paired_interval(first, second)
        hits += low <= 0.02 <= high
    assert hits >= 34  # 95 % of 40 is 38; fewer than 34 has a chance of one in a hundred


def test_a_bootstrapped_mean_has_the_interval_of_its_standard_error():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    value, low, high = paired_bootstrap(lambda rows: float(values[rows].mean()), 1000)
    half = norm.ppf(0.975) * float(values.std()) / math.sqrt(1000)
    assert value == pytest.approx(float(values.mean()))
    assert (low, high) == (pytest.approx(value - half, abs=0.1 * half), pytest.approx(value + half, abs=0.1 * half))


@pytest.mark.parametrize("turns", [2, 5, 16])
def test_the_interval_of_a_speed_is_that_of_the_t_test_on_logarithms(turns: int):
    noise = torch.rand(2, turns, generator=torch.Generator().manual_seed(turns), dtype=torch.float64) / 10
    before, after = (2 + noise[0]).tolist(), (1 + noise[1]).tolist()
    found = paired_speed(before, after)
    ratios = (torch.tensor(before, dtype=torch.float64) / torch.tensor(after, dtype=torch.float64)).log().numpy()
    expected = ttest_1samp(ratios, 0).confidence_interval(0.95)
    assert [math.log(end) for end in found.interval] == pytest.approx(list(expected), rel=1e-3)
    assert found.ratio == pytest.approx(math.exp(ratios.mean()))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([2.0, 4.0, 8.0], [1.0, 2.1, 3.9], "faster"),  # a drift that meets both leaves no trace
        ([1.0, 2.1, 3.9], [2.0, 4.0, 8.0], "slower"),
        ([1.0, 1.2, 1.1], [1.1, 1.1, 1.2], "cannot tell"),
        ([1.0], [9.0], "cannot tell"),
    ],
)
def test_what_is_told_of_a_speed(before: list[float], after: list[float], verdict: str):
    found = paired_speed(before, after)
    assert found.verdict == verdict
    assert (found.interval is None) == (len(before) == 1)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (4, 2.776), (30, 2.042), (31, 2.040), (120, 1.980)])
def test_quantiles_are_those_of_printed_tables(degrees: int, expected: float):
    assert quantile(degrees) == pytest.approx(expected, abs=5e-4)
