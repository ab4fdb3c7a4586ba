"""What each quantized tensor costs at the output: against networks in which the cause was planted."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import divergence, enough, mean_share, quantized_tensors, sensitivity


def weights_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def test_every_layer_stands_once(network: nn.Module, images: Tensor):
    tensors = quantized_tensors(quantize(network, images, Scheme()))
    assert sorted(tensor.place for tensor in tensors if tensor.part == "weights") == sorted(weights_of(network))
    assert tensors[0].part == "weights"
    assert {"input"} <= {tensor.place for tensor in tensors if tensor.part == "activations"}
    assert len({id(tensor.fake_quantize) for tensor in tensors}) == len(tensors)


def test_all_tensors_together_are_the_quantized_network(network: nn.Module, images: Tensor):
    quantized = quantize(network, images, Scheme())
    expected = quantized(images)
    sensitivity(quantized, images[:16])
    assert torch.equal(quantized(images), expected)  # the fake-quantize modules are on again


def test_the_planted_layer_is_found(mixed: nn.Module, images: Tensor):
    calm = sensitivity(quantize(mixed, images, Scheme()), images[:64])
    with torch.no_grad():
        weight = mixed.get_submodule("project").weight
        weight[:, 0] *= 400  # every channel's range has to span this one input, which hardly ever speaks
        mixed.get_submodule("depthwise").weight[0] /= 400
        mixed.get_submodule("norm2").running_mean[0] /= 400
        mixed.get_submodule("norm2").running_var[0] /= 400**2
        mixed.get_submodule("norm2").weight[0] /= 400
        mixed.get_submodule("norm2").bias[0] /= 400
    found = sensitivity(quantize(mixed, images, Scheme()), images[:64])
    assert found.worst_layers(1)[0] == ("project",)
    assert found.weights_share > calm.weights_share
    assert found.weights.sqnr_db < calm.weights.sqnr_db - 10


def test_an_outlier_is_the_activations_fault(mixed: nn.Module, images: Tensor):
    samples = images.clone()
    samples[0, 0, 0, 0] = 3000.0
    found = sensitivity(quantize(mixed, samples, Scheme()), images[1:65])
    calm = sensitivity(quantize(mixed, images, Scheme()), images[1:65])
    assert found.weights_share < 0.1
    at_input = [next(noise.sqnr_db for noise in record.tensors if noise.place == "input") for record in (found, calm)]
    assert at_input[0] < at_input[1] - 20


def test_leaving_the_worst_layer_in_float_takes_its_noise_away(mixed: nn.Module, images: Tensor):
    quantized = quantize(mixed, images, Scheme())
    layer = sensitivity(quantized, images[:64]).worst_layers(1)[0][0]
    left = quantize(mixed, images, Scheme(float_modules=(layer,)))
    assert layer not in [tensor.place for tensor in quantized_tensors(left) if tensor.part == "weights"]
    with torch.no_grad():
        reference = copy.deepcopy(mixed)(images)
        assert sqnr_db(reference, left(images)) > sqnr_db(reference, quantized(images))


def test_shares_by_hand(images: Tensor):
    layer = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    with torch.no_grad():
        layer[1].weight.copy_(torch.randint(-127, 128, (4, 144)).float())
        layer[1].weight[:, 0] = 127.0  # so that the scale is 1 and the weights are integers
    found = sensitivity(quantize(layer, images, Scheme()), images[:32])
    assert found.weights.sqnr_db == math.inf
    assert found.weights_share == 0.0
    assert found.worst_layers(3) == (("1",), 0.0)


def test_the_share_of_the_mean_by_hand():
    outputs = torch.tensor([[1.0, 3.0], [1.0, -3.0]])  # the mean error is (1, 0), the mean square is 5
    assert mean_share(torch.zeros(2, 2), outputs) == pytest.approx((1 / 2) / 5)
    assert mean_share(outputs, outputs) == 0.0


def test_what_moved_scales_would_change_is_told(mixed: nn.Module, resnet: nn.Module, images: Tensor):
    assert sensitivity(quantize(mixed, images, Scheme()), images[:16]).balanced_share is None
    found = sensitivity(quantize(resnet, images, Scheme()), images[:16])
    power = {(noise.place, noise.part): 10 ** (-noise.sqnr_db / 10) for noise in found.tensors}
    second = [power[place, part] for place, part in power if part == "weights" and place.endswith("conv2")]
    assert sum(second) / sum(power.values()) < found.balanced_share < 1


def test_divergence_of_two_coins():
    reference, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    assert divergence(reference, other) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert divergence(other, other) == 0.0


def test_divergence_of_a_single_output_is_half_the_squared_difference():
    assert divergence(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [1.0]])) == pytest.approx((0.25 + 1) / 4)


def test_large_inputs_are_looked_at_in_smaller_number():
    assert [enough(3 * side * side) for side in (32, 96, 192, 1024)] == [128, 128, 32, 16]
