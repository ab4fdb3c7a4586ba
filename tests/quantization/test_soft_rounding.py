"""Soft rounding: where weights begin, between which neighbours, and the paper's formulas."""

import math

import pytest
import torch
from torch import Tensor

from distiq.quantization.soft_rounding import EDGE, SoftRounding

BOUND = 7


def soft(shift: float = 0.0, held: float = 0.0) -> tuple[Tensor, SoftRounding]:
    """Weights in multiples of their scale, and their rounding; it starts so far from the nearest."""
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    scale = weight.abs().amax(1, keepdim=True) / BOUND
    steps = weight / scale
    start = (torch.round(steps) + shift).clamp(-BOUND, BOUND)
    return steps, SoftRounding(weight, start, scale, BOUND, held)


def test_begins_at_the_float_weights():
    steps, rounding = soft()
    # Where a weight is a multiple already, it begins a fiftieth of a step beside it.
    torch.testing.assert_close(rounding() / rounding.scale, steps, rtol=0, atol=EDGE + 1e-5)


@pytest.mark.parametrize("shift", [-3.0, -1.0, 0.0, 2.0])
def test_a_start_is_one_of_both_neighbours_and_the_other_lies_towards_the_weight(shift: float):
    steps, rounding = soft(shift)
    start = rounding.start
    assert ((rounding.lower == start) | (rounding.lower == start - 1)).all()
    assert (rounding.lower >= -BOUND).all()
    assert (rounding.lower + 1 <= BOUND).all()
    other = torch.where(rounding.lower == start, start + 1, start - 1)
    is_free = (start.abs() < BOUND) & (steps != start)
    assert ((other - steps).abs() <= (start - steps).abs() + 1)[is_free].all()
    assert ((other > start) == (steps > start))[is_free].all()


def test_held_at_its_start_it_rounds_to_it():
    _, rounding = soft(1.0, held=1.0)
    assert torch.equal(rounding.integers(), rounding.start)


def test_the_regularizer_is_that_of_the_paper():
    _, rounding = soft()
    with torch.no_grad():
        rounding.v.copy_(torch.linspace(-4, 4, 15).view(3, 5))
    expected = 0.0
    for v in rounding.v.flatten().tolist():
        h = min(max(1.2 / (1 + math.exp(-v)) - 0.1, 0), 1)
        expected += 1 - abs(2 * h - 1) ** 3
    assert rounding.undecided(3.0).item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        rounding.v.copy_(torch.where(rounding.v > 0, 9.0, -9.0))
    assert rounding.undecided(20.0).item() == 0
