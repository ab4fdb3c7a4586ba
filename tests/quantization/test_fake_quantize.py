"""Fake quantization of weights, biases and activations."""

import math

import pytest
import torch
from torch import nn

from distiq.quantization.fake_quantize import (
    LARGEST_BIAS,
    ActivationFakeQuantize,
    PerChannelWeightFakeQuantize,
    learned_step,
)
from distiq.quantization.graph import bias_fake_quantizers, parameter_of
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme


def quantized_layer(weight: torch.Tensor, bias: torch.Tensor, rounding: str = "gptq") -> QuantizedModel:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
    layer.weight.data, layer.bias.data = weight, bias  # type: ignore[union-attr]
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(weight.shape[0] * 16, 2))
    torch.manual_seed(0)
    return quantize(model, torch.randn(32, weight.shape[1], 4, 4), Scheme(rounding=rounding))


def test_a_bias_is_rounded_as_its_accumulator_is():
    torch.manual_seed(1)
    quantized = quantized_layer(torch.randn(3, 2, 1, 1), torch.randn(3))
    node, point = bias_fake_quantizers(quantized.prepared)[0]
    bias = parameter_of(quantized.prepared, node).detach()
    steps = point(bias) / point.scale()
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert ((point(bias) - bias).abs() <= point.scale() / 2 * 1.001).all()


def test_the_reference_graph_holds_the_rounded_bias():
    torch.manual_seed(1)
    quantized = quantized_layer(torch.randn(3, 2, 1, 1), torch.randn(3))
    node, point = bias_fake_quantizers(quantized.prepared)[0]
    wanted = point.rounded(parameter_of(quantized.prepared, node).detach())
    held = [value for value in quantized.reference().state_dict().values() if value.shape == wanted.shape]
    assert any(torch.equal(value, wanted) for value in held if value.is_floating_point())


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])  # scales that are fixed, scales that follow the weights
def test_a_channel_of_almost_no_weight_keeps_its_bias(rounding: str):
    weight = torch.randn(2, 1, 1, 1) * torch.tensor([1.0, 1e-20]).view(2, 1, 1, 1)
    quantized = quantized_layer(weight, torch.tensor([0.5, 1000.0]), rounding)
    node, point = bias_fake_quantizers(quantized.prepared)[0]
    bias = parameter_of(quantized.prepared, node).detach()
    assert ((bias / point.scale()).abs() <= LARGEST_BIAS * 1.001).all()
    assert torch.allclose(point(bias), bias, rtol=1e-2)


@pytest.mark.parametrize("bound", [1, 7])
def test_a_learned_step_by_the_papers_equations(bound: int):
    torch.manual_seed(0)
    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.1, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    toward = torch.randn(3, 5, dtype=torch.float64)
    value = learned_step(weight, scale, bound)
    (value * toward).sum().backward()
    for row in range(3):
        step, total = scale[row].item(), 0.0
        for column in range(5):
            ratio = weight[row, column].item() / step
            inside = -bound < ratio < bound
            assert value[row, column].item() == pytest.approx(max(-bound, min(bound, round(ratio))) * step)
            assert weight.grad[row, column].item() == pytest.approx(toward[row, column].item() if inside else 0.0)
            slope = round(ratio) - ratio if inside else math.copysign(bound, ratio)
            total += slope * toward[row, column].item() / math.sqrt(5 * bound)
        assert scale.grad[row].item() == pytest.approx(total)


def test_learning_begins_with_the_same_values():
    weight = torch.randn(4, 3)
    point = PerChannelWeightFakeQuantize(torch.int8, -7, 7, torch.per_channel_symmetric, ch_axis=0)
    before = point(weight)
    point.learn()
    assert torch.allclose(point(weight), before, atol=1e-6)
    assert not point.calculate_qparams()[0].requires_grad


def test_the_gradient_passes_a_bias_fake_quantizer_unchanged():
    quantized = quantized_layer(torch.randn(2, 1, 1, 1), torch.randn(2))
    bias = torch.randn(2, requires_grad=True)
    bias_fake_quantizers(quantized.prepared)[0][1](bias).sum().backward()
    assert torch.equal(bias.grad, torch.ones(2))  # type: ignore[arg-type]


def simulating(scale: float, zero_point: int) -> ActivationFakeQuantize:
    point = ActivationFakeQuantize(torch.uint8, 0, 255, torch.per_tensor_affine, Scheme())
    point.scale.fill_(scale)
    point.zero_point.fill_(zero_point)
    point.mode = "simulate"
    return point


def test_activations_and_their_gradients_are_those_of_torchs_kernel():
    ours, theirs = (torch.linspace(-0.5, 5.5, 4001).requires_grad_() for _ in range(2))
    weights = torch.randn(4001)
    found = simulating(0.0173, 21)(ours)
    expected = torch.fake_quantize_per_tensor_affine(theirs, 0.0173, 21, 0, 255)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(found, expected) and torch.equal(ours.grad, theirs.grad)
    assert (ours.grad == 0).any() and (ours.grad != 0).any()


def test_a_learned_activation_step_by_the_papers_equation():
    torch.manual_seed(0)
    point = simulating(0.07, 40)
    values, toward = 6 * torch.randn(3, 5, 10), torch.randn(3, 5, 10)
    before = point(values)
    point.learn()
    values.requires_grad_()
    found = point(values)
    (found * toward).sum().backward()
    assert torch.equal(found, before)
    step, total = point.scale.item(), 0.0
    gradients = zip(values.flatten().tolist(), toward.flatten().tolist(), values.grad.flatten().tolist(), strict=True)
    for value, weight, own in gradients:
        nearest = max(-40, min(215, round(value / step)))
        inside = -40.5 <= value / step <= 215.5
        assert own == pytest.approx(weight if inside else 0.0)
        total += weight * (nearest - value / step if inside else nearest)
    assert (values.grad == 0).any() and (values.grad != 0).any()
    assert point.scale.grad.item() == pytest.approx(total / math.sqrt(5 * 10 * 255), rel=1e-4)


def test_a_bias_follows_the_learned_step_of_its_input():
    quantized = quantized_layer(torch.randn(2, 1, 1, 1), torch.randn(2))
    point = bias_fake_quantizers(quantized.prepared)[0][1]
    activation, before = point.pair[0], point.scale()
    activation.learn()
    with torch.no_grad():
        activation.scale.mul_(3)
    torch.testing.assert_close(point.scale(), 3 * before)
    assert not point.scale().requires_grad


def test_ties_fall_as_in_the_runtimes():
    """ONNX's QuantizeLinear rounds to the even step, then adds the zero point."""
    halves = torch.tensor([0.5, 1.5, 2.5, -0.5])
    assert simulating(1.0, 3)(halves).tolist() == [0.0, 2.0, 2.0, 0.0]
