"""Pair sums in 16 bits: what is certified never saturates, what is not can."""

import itertools

import numpy as np
import pytest

from distiq.runtimes.lowering import Grids, Weight
from distiq.runtimes.saturation import may_saturate, saturation


def saturates(weights: list[int]) -> bool:
    """By trying: any two weights of a row, with activations at either end."""
    sums = [
        a * v + b * w for v, w in itertools.combinations(weights, 2) for a, b in itertools.product((0, 255), repeat=2)
    ]
    return any(total > 32767 or total < -32768 for total in sums)


@pytest.mark.parametrize(
    "weights", [[64, 64, -3], [64, 65, -3], [127, 1, 1], [127, 2, 1], [-64, -64, 5], [-127, -2, 9], [127, -127, 0]]
)
def test_a_row_is_judged_as_by_trying(weights: list[int]):
    assert may_saturate(np.array([weights], np.int8)).tolist() == [saturates(weights)]


def test_random_rows_are_judged_as_by_trying():
    rows = np.random.default_rng(0).integers(-80, 81, (200, 2, 3)).astype(np.int8)
    expected = [saturates(row.ravel().tolist()) for row in rows]
    assert 0 < sum(expected) < 200, "both kinds are there"
    assert may_saturate(rows).tolist() == expected


def test_the_certificate_counts_channels():
    rows = np.array([[100, 100], [1, 2], [3, -4]], np.int8)
    grids = Grids((Weight(rows, np.ones(3, np.float32)), Weight(rows[1:], np.ones(2, np.float32))), (), frozenset())
    assert saturation(grids) == (5, 1)
    assert "1 of 5 output channels" in saturation(grids).sentence()
    assert saturation(grids._replace(weights=grids.weights[1:])).sentence().startswith("certified")
