"""quantize(): the simulated model, its reference graph, its state, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import activation_fake_quantizers, quantize, restore
from distiq.quantization.scheme import Scheme

SCHEMES = [Scheme(), Scheme(ranges="percentile", percentile=99.9), Scheme(ranges="minmax")]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.ranges)
def test_simulated_is_the_reference_bit_for_bit_and_near_float(scheme: Scheme, network: nn.Module, images: Tensor):
    quantized = quantize(network, images, scheme)
    with torch.no_grad():
        simulated = quantized(images)
        assert torch.equal(simulated, quantized.reference()(images))
        assert sqnr_db(network(images), simulated) > 25


def test_activations_of_4_bits_take_16_values(network: nn.Module, images: Tensor):
    quantized = quantize(network, images, Scheme(activation_bits=4))
    values: list[Tensor] = []
    for module in activation_fake_quantizers(quantized):
        module.register_forward_hook(lambda _module, _inputs, result: values.append(result))
    with torch.no_grad():
        simulated = quantized(images)
        assert torch.equal(simulated, quantized.reference()(images))
    assert 8 < max(len(one.unique()) for one in values) <= 2**4


def test_the_model_is_not_changed(resnet: nn.Module, images: Tensor):
    resnet.train()
    before = copy.deepcopy(resnet.state_dict())
    quantize(resnet, images)
    assert all(torch.equal(before[key], value) for key, value in resnet.state_dict().items())
    assert resnet.training
    assert all(parameter.requires_grad for parameter in resnet.parameters())


def test_reference_has_integer_weights_and_no_batch_norm(network: nn.Module, images: Tensor):
    reference = quantize(network, images, Scheme()).reference()
    assert not [node for node in reference.graph.nodes if "batch_norm" in str(node.target)]
    weights = [value for name, value in reference.named_buffers() if "_frozen" in name]
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sorted(weight.numel() for weight in weights) == sorted(layer.weight.numel() for layer in layers)
    for weight in weights:
        assert weight.dtype == torch.int8
        # Every channel's largest weight becomes the largest integer.
        assert (weight.int().flatten(1).abs().amax(1) == 127).all()


def test_train_mode_changes_nothing(resnet: nn.Module, images: Tensor):
    quantized = quantize(resnet, images)
    with torch.no_grad():
        assert torch.equal(quantized.eval()(images), quantized.train()(images))


def test_any_batch_size(resnet: nn.Module, images: Tensor):
    quantized = quantize(resnet, images)
    with torch.no_grad():
        together = quantized(images[:7])
        alone = torch.cat([quantized(image) for image in images[:7].split(1)])
    # Another batch sums in another order: at most a value on the edge of two steps falls to the other one.
    assert sqnr_db(together, alone) > 30


def test_state_survives_saving(network: nn.Module, images: Tensor):
    scheme = Scheme(ranges="percentile")
    quantized = quantize(network, images, scheme)
    with torch.no_grad():
        for parameter in quantized.parameters():
            parameter.mul_(1.1)  # as if it had been trained
    again = restore(network, images[:2], scheme, quantized.state_dict())
    with torch.no_grad():
        expected = quantized(images)
        assert torch.equal(again.reference()(images), expected), "also before it ran once"
        assert torch.equal(again(images), expected)


def test_reference_follows_the_weights_without_a_run(resnet: nn.Module, images: Tensor):
    quantized = quantize(resnet, images)
    with torch.no_grad():
        for parameter in quantized.parameters():
            parameter.data = parameter.data * 1.5
        reference = quantized.reference()
        assert torch.equal(reference(images), quantized(images))


def test_one_calibration_image_is_enough(resnet: nn.Module, images: Tensor):
    quantized = quantize(resnet, images[:1])
    with torch.no_grad():
        assert torch.isfinite(quantized(images)).all()


def test_calibration_does_not_depend_on_its_order(resnet: nn.Module, images: Tensor):
    one, other = (quantize(resnet, samples) for samples in (images, images.flip(0)))
    for a, b in zip(activation_fake_quantizers(one), activation_fake_quantizers(other), strict=True):
        torch.testing.assert_close(a.scale, b.scale, rtol=1e-5, atol=0)
        assert a.zero_point == b.zero_point


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite_is_refused(value: float, resnet: nn.Module, images: Tensor):
    images[3, 0, 2, 2] = value
    with pytest.raises(UserError, match="calibration set holds NaN or infinite values; remove"):
        quantize(resnet, images)


def test_empty_calibration_is_refused(resnet: nn.Module, images: Tensor):
    with pytest.raises(UserError, match="calibration set is empty"):
        quantize(resnet, images[:0])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(144, 4)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if flat.sum() > 0:
            flat = -flat
        return self.linear(flat)


class ThroughNumpy(Branching):
    def forward(self, images: Tensor) -> Tensor:
        return self.linear(torch.from_numpy(images.flatten(1).numpy()))


@pytest.mark.parametrize(("model", "said"), [(Branching, "if flat.sum() > 0:"), (ThroughNumpy, ".numpy()")])
def test_a_model_that_cannot_be_traced_is_refused_with_its_line(model: type[nn.Module], said: str, images: Tensor):
    with pytest.raises(UserError) as error:
        quantize(model(), images)
    message = str(error.value)
    assert said in message
    assert "test_quantize.py" in message
    assert "line " in message
    assert "rewrite that operation" in message


def test_rounding_sees_samples_from_all_of_a_sorted_calibration_set():
    """What lies behind the first 256 samples has features of its own; rounding them to the nearest loses more."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(24, 16).eval()
    mixed = torch.randn(512, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    mixed += 0.1 * torch.randn(512, 12, generator=generator)
    first, second = F.pad(mixed[:400], (0, 12)), F.pad(mixed[400:], (12, 0))
    lost = {}
    for rounding in ("gptq", "nearest"):
        quantized = quantize(model, torch.cat([first, second]), Scheme(weight_bits=4, rounding=rounding))
        with torch.no_grad():
            lost[rounding] = float((model(second) - quantized(second)).square().mean())
    assert lost["gptq"] < 0.7 * lost["nearest"]
