"""Closed-form rounding: what it minimizes, on every kind of layer, and what a whole network gains."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.numerics import sqnr_db
from distiq.quantization import moments, streaming
from distiq.quantization.fake_quantize import LARGEST_BIAS, PerChannelWeightFakeQuantize
from distiq.quantization.graph import bias_fake_quantizers, parameter_of
from distiq.quantization.moments import Moments
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.rounding import (
    DAMPING,
    FIRST_PULL,
    PULLS,
    _correction,
    _pull,
    choose_scale,
    column_blocks,
    descend,
    gptq,
)
from distiq.quantization.scheme import Scheme
from tests.quantization.conftest import make


def covariance_of(columns: int, groups: int = 1) -> Tensor:
    mixed = torch.randn(groups, columns, 3 * columns, generator=torch.Generator().manual_seed(0))
    mixed = mixed + 6 * mixed.mean(1, keepdim=True)  # inputs go together
    return mixed @ mixed.transpose(1, 2) / mixed.shape[2]


def loss(weight: Tensor, rounded: Tensor, covariance: Tensor) -> Tensor:
    """(G, O): what the layer's output loses, mean square."""
    difference = weight - rounded
    return ((difference @ covariance) * difference).sum(2)


def nearest(weight: Tensor, scale: Tensor, bound: int) -> Tensor:
    return torch.clamp(torch.round(weight / scale), -bound, bound) * scale


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_loses_less_than_the_nearest(bits: int):
    bound = 2 ** (bits - 1) - 1
    weight, covariance = torch.randn(2, 6, 20), covariance_of(20, 2)
    scale = choose_scale(weight, covariance.diagonal(dim1=1, dim2=2), bound, search=bits < 8)
    rounded = gptq(weight, covariance, scale, bound)
    steps = rounded / scale
    torch.testing.assert_close(steps, steps.round())
    assert steps.abs().max() <= bound + 1e-4
    assert loss(weight, rounded, covariance).sum() < 0.8 * loss(weight, nearest(weight, scale, bound), covariance).sum()


def test_is_near_the_best_of_all_roundings():
    torch.manual_seed(0)
    weight, covariance = torch.randn(1, 8, 6), covariance_of(6)
    scale = weight.abs().amax(2, keepdim=True) / 7
    found = loss(weight, gptq(weight, covariance, scale, 7), covariance)[0]
    floor = torch.floor(weight / scale)
    choices = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0, 2.0], repeat=6)))
    best = torch.zeros(8)
    for row in range(8):
        every = torch.clamp(floor[:, row] + choices, -7, 7) * scale[:, row]
        best[row] = loss(weight[:, row : row + 1], every.unsqueeze(0), covariance).min()
    assert best.sum() <= found.sum() <= 2 * best.sum()
    assert found.sum() < loss(weight, nearest(weight, scale, 7), covariance).sum()


def test_the_column_of_most_variance_is_rounded_first():
    """What is rounded first goes to its nearest; the others make up for it. Reversed, the largest error stays last."""
    weight, covariance = torch.randn(2, 64, 20), covariance_of(20, 2)  # in so many rows one goes to another value
    scale = weight.abs().amax(2, keepdim=True) / 7
    rounded, plain = gptq(weight, covariance, scale, 7), nearest(weight, scale, 7)
    variance = covariance.diagonal(dim1=1, dim2=2)
    for group, (most, least) in enumerate(zip(variance.argmax(1), variance.argmin(1), strict=True)):
        torch.testing.assert_close(rounded[group, :, most], plain[group, :, most])
        assert not torch.equal(rounded[group, :, least], plain[group, :, least])


def test_a_layer_mends_nearly_all_that_earlier_layers_did_wrong():
    """The error is linear in white inputs: the pull towards no change leaves less than a tenth of it."""
    wrong, zeros = torch.randn(1, 4, 9), torch.zeros(1, 9)
    moments = Moments(torch.eye(9).unsqueeze(0), wrong, zeros, torch.zeros(1, 4))
    assert (wrong - _correction(moments, 0.05)).norm() < 0.1 * wrong.norm()


def halves(shared: float) -> list[Moments]:
    """Two halves of the samples whose errors have so much in common beside chance of size 1; white inputs."""
    common, zeros = shared * torch.randn(1, 8, 20), torch.zeros(1, 20)
    eye = torch.eye(20).unsqueeze(0)
    return [Moments(eye, common + torch.randn(1, 8, 20), zeros, torch.zeros(1, 8)) for _ in range(2)]


@pytest.mark.parametrize(("shared", "best"), [(0.0, math.inf), (1.0, 1.0), (0.5, 4.0), (30.0, 0.0)])
def test_the_pull_is_as_strong_as_the_halves_differ(shared: float, best: float):
    """Of white inputs the ridge shrinks by 1 / (1 + pull); least error at 1 / (1 + noise / signal). Both together
    have half of the noise: `Rounding` halves the pull."""
    torch.manual_seed(0)
    pair = halves(shared)
    found = {_pull(pair, start) for start in (PULLS[0], FIRST_PULL, PULLS[-1])}
    nearest_two = sorted(PULLS, key=lambda pull: abs(1 / (1 + pull) - 1 / (1 + best)))[:2]
    assert len(found) == 1 and found <= set(nearest_two)


def test_of_a_single_sample_no_pull_can_be_chosen():
    assert _pull([], 0.5) == 0.5


def error_of(weight: Tensor, rounded: Tensor, covariance: Tensor) -> Tensor:
    """What is taken down: the loss with the damping of `descend`."""
    damping = DAMPING * covariance.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    return loss(weight, rounded, covariance + damping * torch.eye(weight.shape[2]))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_descent_ends_where_no_single_weight_can_be_bettered(bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distiq.quantization.rounding.SWEEPS", 40)
    bound = 2 ** (bits - 1) - 1
    weight, covariance = torch.randn(2, 6, 20), covariance_of(20, 2)
    scale = choose_scale(weight, covariance.diagonal(dim1=1, dim2=2), bound, search=True)
    start = gptq(weight, covariance, scale, bound)
    found, same = descend(weight, start.clone(), covariance, scale, bound, None)
    assert torch.equal(same, scale)
    least = error_of(weight, found, covariance)
    assert (least <= error_of(weight, start, covariance) * (1 + 1e-5)).all()
    for column, step in itertools.product(range(20), (-1, 1)):
        other = found.clone()
        integer = torch.round(other[:, :, column] / scale[:, :, column])
        other[:, :, column] = (integer + step).clamp(-bound, bound) * scale[:, :, column]
        assert (error_of(weight, other, covariance) >= least * (1 - 1e-5)).all()


def test_a_row_gets_the_scale_of_least_error_for_its_integers():
    """A tenth more or less of it is worse; a channel's own smallest scale is kept."""
    weight, covariance = torch.randn(1, 6, 20), covariance_of(20)
    scale = choose_scale(weight, covariance.diagonal(dim1=1, dim2=2), 7, search=True)
    start = gptq(weight, covariance, scale, 7)
    found, refit = descend(weight, start.clone(), covariance, scale.clone(), 7, torch.tensor(1e-6))
    assert error_of(weight, found, covariance).sum() < error_of(weight, start, covariance).sum()
    torch.testing.assert_close(found / refit, (found / refit).round())
    for share in (0.9, 1.1):
        assert (error_of(weight, share * found, covariance) > error_of(weight, found, covariance)).all()
    assert (descend(weight, start, covariance, scale, 7, torch.tensor(9.0))[1] == 9.0).all()


def test_inputs_that_do_not_go_together_leave_the_nearest():
    weight = torch.randn(1, 4, 9)
    covariance = torch.diag_embed(torch.rand(1, 9) + 0.5)
    scale = weight.abs().amax(2, keepdim=True) / 7
    torch.testing.assert_close(gptq(weight, covariance, scale, 7), nearest(weight, scale, 7))


def test_inputs_that_are_always_zero_do_no_harm():
    weight, covariance = torch.randn(1, 4, 9), covariance_of(9)
    covariance[:, 3] = covariance[:, :, 3] = 0
    scale = weight.abs().amax(2, keepdim=True) / 7
    assert torch.isfinite(gptq(weight, covariance, scale, 7)).all()


def test_a_covariance_that_float32_has_made_negative_does_no_harm():
    weight, covariance = torch.randn(1, 4, 9), 1e-3 * covariance_of(9)
    covariance -= 0.1 * covariance.diagonal(dim1=1, dim2=2).max() * torch.eye(9)
    scale = weight.abs().amax(2, keepdim=True) / 7
    steps = gptq(weight, covariance, scale, 7) / scale
    torch.testing.assert_close(steps, steps.round())
    assert steps.abs().max() <= 7 + 1e-4


def weighted(quantized: QuantizedModel) -> int:
    return sum(type(module).__name__ == "PerChannelWeightFakeQuantize" for module in quantized.modules())


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_network_comes_nearer_to_its_float(network: nn.Module, images: Tensor, bits: int):
    with torch.no_grad():
        expected = network(images)
        plain = quantize(network, images[:128], Scheme(weight_bits=bits))
        rounded = quantize(network, images[:128], Scheme(weight_bits=bits, rounding="gptq"))
        gain = sqnr_db(expected, rounded(images)) - sqnr_db(expected, plain(images))
    assert gain > (3.0 if bits < 8 else 0.0)
    state = {name: value for name, value in rounded.state_dict().items() if name.endswith(".scale") and value.ndim == 1}
    assert len(state) == weighted(rounded)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_single_sample_is_enough(scale: float):
    """Its float output is met; nothing is known of the directions in which samples differ."""
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    sample = scale * torch.randn(1, 20)
    quantized = quantize(network, sample, Scheme(weight_bits=4, rounding="gptq"))
    assert sqnr_db(network(sample), quantized(sample)) > 30
    for module in quantized.modules():
        if isinstance(module, PerChannelWeightFakeQuantize):
            assert module.scale.max() < 0.5  # weights are below 0.25, and 7 is the largest integer


def test_values_whose_squares_float32_does_not_hold_are_refused():
    samples = 1e20 * torch.randn(8, 4)
    with pytest.raises(UserError, match=r"float32 does not hold the squares of some: scale the inputs"):
        quantize(nn.Linear(4, 2).eval(), samples, Scheme(rounding="gptq"))


def test_the_float_network_is_not_changed(resnet: nn.Module, images: Tensor):
    before = {key: value.clone() for key, value in resnet.state_dict().items()}
    quantize(resnet, images[:32], Scheme(weight_bits=4, rounding="gptq"))
    assert all(torch.equal(value, before[key]) for key, value in resnet.state_dict().items())


def test_simulated_and_reference_agree_and_state_restores(network: nn.Module, images: Tensor):
    scheme = Scheme(weight_bits=4, rounding="gptq")
    quantized = quantize(network, images[:64], scheme)
    with torch.no_grad():
        expected = quantized(images)
        assert torch.equal(quantized.reference()(images), expected)
        again = restore(network, images[:2], scheme, quantized.state_dict())
        assert torch.equal(again(images), expected)


def test_bias_takes_up_the_mean_error(images: Tensor):
    network = make("mobilenet")
    with torch.no_grad():
        expected = network(images)

        def shift(rounding: str) -> float:
            quantized = quantize(network, images, Scheme(weight_bits=3, rounding=rounding))
            return float((quantized(images) - expected).mean(0).norm())

        assert shift("gptq") < 0.3 * shift("nearest")


def test_blocks_of_columns_are_even_whole_groups():
    assert column_blocks(6144, 1) == [slice(0, 6144)]
    assert column_blocks(12288, 1) == [slice(0, 6144), slice(6144, 12288)]
    assert column_blocks(8704, 256) == [slice(0, 4352), slice(4352, 8704)]
    assert column_blocks(8960, 256) == [slice(0, 4608), slice(4608, 8960)]


BLOCKED = {
    "linear": (nn.Linear(24, 6), (200, 24), Scheme(weight_bits=3, rounding="gptq")),
    "convolution": (nn.Conv2d(3, 6, 3, groups=1), (40, 3, 6, 6), Scheme(weight_bits=3, rounding="gptq")),
    "groups": (
        nn.Linear(64, 6),
        (200, 64),
        Scheme(weight_bits=3, rounding="gptq", mode="weight_only", group_size=16),
    ),
}


@pytest.mark.parametrize("kind", BLOCKED)
def test_a_wide_layer_is_rounded_in_blocks(kind: str, monkeypatch: pytest.MonkeyPatch):
    layer, shape, scheme = BLOCKED[kind]
    x = torch.rand(shape).cumsum(1) / 4  # inputs that go together
    with torch.no_grad():
        expected = layer(x)
        plain = quantize(layer, x, dataclasses.replace(scheme, rounding="nearest"))
        monkeypatch.setattr("distiq.quantization.rounding.MOST_COLUMNS", 20)
        blocked = quantize(layer, x, scheme)
        assert sqnr_db(expected, blocked(x)) > sqnr_db(expected, plain(x)) + 3
        assert torch.equal(blocked.reference()(x), blocked(x))


def test_blocks_that_do_not_go_together_are_rounded_as_one(monkeypatch: pytest.MonkeyPatch):
    """Of orthogonal blocks of equal power the covariance is block-diagonal, so nothing is lost."""
    torch.manual_seed(0)
    layer, half, zeros = nn.Linear(24, 6, bias=False), torch.rand(200, 12), torch.zeros(200, 12)
    x = torch.cat([torch.cat([half, zeros], 1), torch.cat([zeros, half], 1)])
    scheme = Scheme(mode="weight_only", rounding="gptq")  # no error of the inputs, scales of the largest weight
    whole = quantize(layer, x, scheme)
    monkeypatch.setattr("distiq.quantization.rounding.MOST_COLUMNS", 12)
    torch.testing.assert_close(quantize(layer, x, scheme)(x), whole(x))


@pytest.mark.parametrize("scheme", [Scheme(rounding="gptq", weight_bits=2), Scheme(correct_biases=True, weight_bits=2)])
def test_the_range_of_a_bias_is_that_of_the_corrected_bias(scheme: Scheme):
    """A bias of 31 bits decides the smallest weight scale; that of the bias before its correction could overflow."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 3)
    nn.init.constant_(layer.bias, 1000.0)
    quantized = quantize(nn.Sequential(layer, nn.ReLU(), nn.Linear(3, 2)), 1 + torch.rand(64, 8), scheme)
    node, point = bias_fake_quantizers(quantized.prepared)[0]
    bias = parameter_of(quantized.prepared, node).detach()
    assert not torch.equal(bias, layer.bias)
    needed = bias.abs().max() / (point.pair[0].scale * LARGEST_BIAS)
    torch.testing.assert_close(point.pair[1].smallest_scale, needed, rtol=1e-6, atol=0)


class Twice(nn.Module):
    """One convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(144, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(F.relu(self.conv(x))).flatten(1))


def test_a_weight_that_is_used_twice_is_rounded_once(images: Tensor):
    torch.manual_seed(0)
    network = Twice().eval()
    with torch.no_grad():
        expected = network(images)
        plain, rounded = (
            quantize(network, images[:128], Scheme(weight_bits=4, rounding=rounding))
            for rounding in ("nearest", "gptq")
        )
        assert sqnr_db(expected, rounded(images)) > sqnr_db(expected, plain(images)) - 1
        assert torch.equal(rounded.reference()(images), rounded(images))


def test_every_chunk_of_the_samples_counts(images: Tensor, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 4)).eval()
    monkeypatch.setattr(moments, "ENOUGH", 2**20)  # all positions
    at_once = quantize(network, images[:96], Scheme(weight_bits=4, rounding="gptq"))
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 32 * 4 * 400)  # of the largest value
    by_chunks = quantize(network, images[:96], Scheme(weight_bits=4, rounding="gptq"))
    torch.testing.assert_close(by_chunks(images), at_once(images), rtol=0, atol=1e-4)
