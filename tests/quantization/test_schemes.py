"""Schemes beside the static one: what they quantize, and how; what cannot be is refused with the nearest."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.numerics import dynamic_fake_quantize
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import sensitivity

decomposed = torch.ops.quantized_decomposed
DYNAMIC, WEIGHT_ONLY = Scheme(mode="dynamic"), Scheme(mode="weight_only")
GROUPED = Scheme(4, mode="weight_only", group_size=16)
SCHEMES = (DYNAMIC, WEIGHT_ONLY, GROUPED, Scheme(activation_bits=16))


class Words(nn.Module):
    """A table, two layers of which the second is too narrow for groups of 16, a mean over the text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.down = nn.Embedding(20, 32), nn.Linear(32, 24), nn.Linear(24, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(self.embedding(tokens))).mean(1))


@pytest.fixture
def words() -> Words:
    torch.manual_seed(0)
    return Words().eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 20, (64, 6), generator=torch.Generator().manual_seed(0))


def weights_of(quantized: QuantizedModel) -> dict[tuple[int, ...], tuple[Tensor, Tensor]]:
    """Integers and scales of the reference graph, by the shape of the integers."""
    reference = quantized.reference()
    nodes = [node for node in reference.graph.nodes if node.target == decomposed.dequantize_per_channel.default]
    pairs = [[getattr(reference, str(source.target)) for source in node.args[:2]] for node in nodes]
    return {tuple(integers.shape): (integers, scales) for integers, scales in pairs}


@pytest.mark.parametrize("values", [[-1.0, 0.3, 2.0], [0.1, 5.0], [-3.0, -0.2], [0.0, 0.0]])
def test_dynamic_quantization_is_that_of_the_onnx_specification(values: list[float]):
    x = np.array(values, np.float32)
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    expected = (np.clip(np.rint(x / scale) + zero_point, 0, 255) - zero_point) * scale
    torch.testing.assert_close(dynamic_fake_quantize(torch.tensor(x)), torch.tensor(expected), rtol=0, atol=0)


def test_the_gradient_passes_straight_through_dynamic_quantization():
    x = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True)
    (dynamic_fake_quantize(x) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_simulation_reference_and_restored_model_give_the_same(scheme: Scheme, words: Words, tokens: Tensor):
    quantized = quantize(words, tokens, scheme)
    again = restore(words, tokens[:2], scheme, quantized.state_dict())
    with torch.no_grad():
        for part in (tokens, tokens[:1, :3]):
            assert torch.equal(quantized.reference()(part), quantized(part))
            assert torch.equal(again(part), quantized(part))


def test_a_group_has_the_scale_of_its_largest_weight(words: Words, tokens: Tensor):
    found = weights_of(quantize(words, tokens, GROUPED))
    groups = words.up.weight.detach().reshape(48, 16)  # 24 outputs, 32 inputs in two groups
    integers, scales = found[48, 16]
    torch.testing.assert_close(scales, groups.abs().amax(1) / 7)
    assert torch.equal(integers, torch.round(groups / scales.unsqueeze(1)).to(torch.int8))
    assert (3, 24) in found, "24 inputs are no multiple of 16: one scale for each output"
    assert int(found[20, 32][0].abs().max()) == 127, "tables have 8 bits"


def test_weight_only_is_the_network_with_rounded_weights(words: Words, tokens: Tensor):
    quantized = quantize(words, tokens, WEIGHT_ONLY)
    with torch.no_grad():
        for parameter in (words.embedding.weight, words.up.weight, words.down.weight):
            scale = parameter.abs().amax(1, keepdim=True) / 127
            parameter.copy_(torch.round(parameter / scale) * scale)
        torch.testing.assert_close(quantized(tokens), words(tokens), rtol=1e-6, atol=1e-6)


def test_closed_form_rounding_knows_groups(words: Words, tokens: Tensor):
    with torch.no_grad():
        wanted = words(tokens)
        nearest, closed = (
            (quantize(words, tokens, Scheme(4, mode="weight_only", group_size=16, rounding=rounding))(tokens) - wanted)
            for rounding in ("nearest", "gptq")
        )
        assert closed.square().sum() < 0.7 * nearest.square().sum()


@pytest.mark.parametrize(("scheme", "shares"), [(DYNAMIC, (0.01, 0.99)), (WEIGHT_ONLY, (1, 1))], ids=str)
def test_the_noise_of_dynamic_quantization_is_that_of_activations(scheme: Scheme, shares, words: Words, tokens: Tensor):
    found = sensitivity(quantize(words, tokens, scheme), tokens)
    assert shares[0] <= found.weights_share <= shares[1]


@pytest.mark.parametrize("scheme", [DYNAMIC, GROUPED], ids=str)
def test_they_can_be_trained_quantized(scheme: Scheme, words: Words, tokens: Tensor):
    quantized = quantize(words, tokens, scheme)
    quantized(tokens).square().sum().backward()
    gradients = [p.grad for p in quantized.parameters() if p.ndim > 1]
    assert len(gradients) == 3
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "dynamic", "activation_bits": 16}, 'nearest: mode = "static"'),
        ({"mode": "weight_only", "activation_bits": 16}, "nearest: leave activation_bits out"),
        ({"mode": "dynamic", "activation_bits": 4}, 'activation_bits = 4, but mode = "dynamic" has 8-bit activations'),
        ({"activation_bits": 4, "reduce_range": True}, "changes nothing at activation_bits = 4"),
        ({"activation_bits": 4, "integer_io": True}, "needs 8-bit inputs and logits"),
        ({"weight_bits": 4, "group_size": 32}, 'nearest: mode = "weight_only", or group_size = 0'),
        (
            {"weight_bits": 4, "group_size": 30, "mode": "weight_only"},
            "kernels have 0, 16, 32, 64, 128, 256; nearest: 32",
        ),
        ({"group_size": 32, "mode": "weight_only"}, "nearest: weight_bits = 4, or group_size = 0"),
        ({"mode": "weight_only", "reduce_range": True}, "where nothing saturates"),
        ({"mode": "dynamic", "attention": True}, "has no calibrated ranges of activations"),
        ({"attention": True, "reduce_range": True}, "set one of the two to false"),
        ({"mode": "dynamic", "equalize": True}, 'nearest: rounding = "gptq"'),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(settings: dict, message: str):
    with pytest.raises(UserError, match=r"^Scheme: ") as refused:
        Scheme(**settings)
    assert message in str(refused.value)


def test_a_scheme_without_integer_kernels_claims_no_speed():
    assert str(GROUPED) == "weight-only W4 in groups of 16, int8 tables, computed in float32: no speed is claimed"
    assert (
        str(Scheme(activation_bits=16))
        == "static W8A16, mse, computed in float32 but in LiteRT, TFLM and C: no speed is claimed"
    )
    assert str(Scheme(4, 4)) == "static W4A4, mse, simulated alone"
    assert str(DYNAMIC) == "dynamic W8A8 linear layers, int8 tables"
