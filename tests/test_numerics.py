import math

import pytest
import torch

from distiq.numerics import (
    SMALLEST_SCALE,
    affine_bounds,
    affine_qparams,
    dequantize,
    drawn,
    is_halved,
    quantize,
    sqnr_db,
    symmetric_bounds,
    symmetric_scale,
)

RANGES = [(-1.0, 1.0), (0.0, 6.0), (2.0, 5.0), (-7.0, -3.0), (-0.1, 12.3), (-1e-3, 1e4), (-3e-5, 2e-5)]


@pytest.mark.parametrize(("bits", "affine", "symmetric"), [(8, (-128, 127), (-127, 127)), (4, (-8, 7), (-7, 7))])
def test_bounds(bits, affine, symmetric):
    assert affine_bounds(bits) == affine
    assert symmetric_bounds(bits) == symmetric


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_affine_range_spans_the_range_and_holds_zero(low, high, bits):
    scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), bits)
    smallest, largest = affine_bounds(bits)
    assert smallest <= int(zero_point) <= largest
    assert float(scale) == pytest.approx((max(high, 0) - min(low, 0)) / (2**bits - 1), rel=1e-6)
    assert float(dequantize(zero_point, scale, zero_point)) == 0
    ends = dequantize(torch.tensor([smallest, largest]), scale, zero_point)
    # The zero point is rounded to an integer, which moves both ends by at most half a step.
    assert abs(float(ends[0]) - min(low, 0)) <= 0.5001 * float(scale)
    assert abs(float(ends[1]) - max(high, 0)) <= 0.5001 * float(scale)


def test_affine_parameters_by_hand():
    scale, zero_point = affine_qparams(torch.tensor([-1.0, 0.0]), torch.tensor([1.55, 5.1]), 8)
    torch.testing.assert_close(scale, torch.tensor([0.01, 0.02]))
    assert zero_point.tolist() == [-28, -128]
    assert zero_point.dtype == torch.int64


@pytest.mark.parametrize("low_high", [(0.0, 0.0), (1e-12, 1e-12), (-1e-30, 1e-30)])
def test_a_degenerate_range_still_gives_parameters(low_high):
    scale, zero_point = affine_qparams(torch.tensor(low_high[0]), torch.tensor(low_high[1]), 8)
    assert float(scale) == SMALLEST_SCALE
    q = quantize(torch.zeros(3), scale, zero_point, affine_bounds(8))
    assert dequantize(q, scale, zero_point).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_symmetric_range_ends_at_the_largest_magnitude(bits):
    scale = symmetric_scale(torch.tensor([0.5, 3.0, 0.0]), bits)
    largest = symmetric_bounds(bits)[1]
    torch.testing.assert_close(largest * scale[:2], torch.tensor([0.5, 3.0]))
    assert float(scale[2]) == SMALLEST_SCALE
    q = quantize(torch.tensor([-0.5, 0.5]), scale[0], torch.tensor(0), symmetric_bounds(bits))
    assert q.tolist() == [-largest, largest]


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("bits", [4, 8])
def test_error_inside_the_range_is_at_most_half_a_step(low, high, bits):
    x = torch.linspace(low, high, 4001, dtype=torch.float64)
    scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), bits)
    q = quantize(x, scale.double(), zero_point, affine_bounds(bits))
    assert int(q.min()) >= affine_bounds(bits)[0]
    assert int(q.max()) <= affine_bounds(bits)[1]
    error = (dequantize(q, scale.double(), zero_point) - x).abs().max()
    assert float(error) <= 0.5 * float(scale) * (1 + 1e-4)


def test_values_outside_the_range_go_to_its_ends():
    scale, zero_point = affine_qparams(torch.tensor(-1.0), torch.tensor(1.0), 8)
    assert quantize(torch.tensor([-50.0, 50.0]), scale, zero_point, affine_bounds(8)).tolist() == [-128, 127]


def test_rounding_is_half_to_even():
    q = quantize(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), torch.tensor(1.0), torch.tensor(0), (-8, 7))
    assert q.tolist() == [0, 2, 2, 0, -2]


def test_scales_broadcast_per_channel():
    x = torch.tensor([[1.0, -2.0], [10.0, -20.0]])
    scale = symmetric_scale(x.abs().amax(1, keepdim=True), 8)
    assert quantize(x, scale, torch.zeros(2, 1), symmetric_bounds(8)).tolist() == [[64, -127], [64, -127]]


def test_sqnr_by_hand():
    # signal 9 + 16 = 25, noise 1 + 0 = 1
    assert sqnr_db(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 4.0])) == pytest.approx(10 * math.log10(25))
    assert sqnr_db(torch.ones(2), torch.ones(2)) == math.inf
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -math.inf


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_sqnr_of_a_sine_grows_by_six_db_a_bit(bits):
    # Bennett 1948: a sine over the whole range of n bits has 6.02 n + 1.76 dB.
    sine = torch.sin(torch.linspace(0, 2000 * math.pi, 200_003, dtype=torch.float64))
    scale, zero_point = affine_qparams(torch.tensor(-1.0), torch.tensor(1.0), bits)
    back = dequantize(quantize(sine, scale.double(), zero_point, affine_bounds(bits)), scale.double(), zero_point)
    assert sqnr_db(sine, back) == pytest.approx(6.0206 * bits + 1.7609, abs=0.2)


@pytest.mark.parametrize(
    ("shape", "halved"),
    [((16, 16), True), ((15, 17), False), ((300,), False), ((1, 300, 1, 1), False), ((300, 1, 3), True), ((), False)],
)
def test_large_constants_are_halved_that_are_no_vectors(shape: tuple[int, ...], halved: bool):
    assert is_halved(shape) is halved


def test_a_drawn_part_is_of_all_classes_sorted_or_in_turn():
    for labels in (torch.arange(512) // 52, torch.arange(512) % 2):
        chosen = drawn(512, 128)
        assert torch.equal(chosen, drawn(512, 128)) and torch.equal(chosen, chosen.unique()) and len(chosen) == 128
        counts = labels[chosen].bincount().double() / labels.bincount()
        assert ((counts > 0.1) & (counts < 0.45)).all(), "about a quarter of each"
    assert drawn(3, 10).tolist() == [0, 1, 2]
