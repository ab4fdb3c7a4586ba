"""Paired statistics against scipy and against cases whose answer is known."""

import pytest
import torch
from scipy.stats import binomtest

from distiq.evaluation.compare import mcnemar, paired_interval


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


def test_equal_models_have_no_difference():
    same = drawn(3, 500, 0.8, 0)
    assert paired_interval(same, same) == (0.0, 0.0, 0.0)


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
