"""Where the quantize / dequantize pairs stand: counted by hand for one network with everything in it."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.quantization.quantize import activation_fake_quantizers, quantize

aten, decomposed = torch.ops.aten, torch.ops.quantized_decomposed
Q, DQ = decomposed.quantize_per_tensor.default, decomposed.dequantize_per_tensor.default


@pytest.fixture
def reference(mixed: nn.Module, images: Tensor) -> fx.GraphModule:
    return quantize(mixed, images[:64]).reference()


@pytest.fixture
def graph(reference: fx.GraphModule) -> fx.Graph:
    return reference.graph


def nodes(graph: fx.Graph, target: object) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target == target]


def source(dequantized: fx.Node) -> tuple[fx.Node, tuple]:
    """What a dequantize node gives quantized, and its parameters."""
    assert dequantized.target == DQ
    quantized = dequantized.args[0]
    assert quantized.target == Q
    assert quantized.args[1:] == dequantized.args[1:]
    return quantized.args[0], quantized.args[1:]


def test_one_pair_per_value(graph: fx.Graph):
    # input, conv + relu, depthwise + relu6, 1x1 conv, add + relu, cat, max pool, average pool, flatten
    assert len(nodes(graph, Q)) == 9
    assert len(nodes(graph, decomposed.dequantize_per_channel.default)) == 4  # weights
    assert all(any(user.target == DQ for user in node.users) for node in nodes(graph, Q))


def test_every_operation_reads_quantized_values(graph: fx.Graph):
    reading = [
        aten.conv2d.default,
        aten.add.Tensor,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.linear.default,
    ]
    for target in reading:
        for node in nodes(graph, target):
            count = 2 if target == aten.add.Tensor else 1
            assert all(argument.target == DQ for argument in node.args[:count]), node
    for part in nodes(graph, aten.cat.default)[0].args[0]:
        assert part.target == DQ


def test_biases_are_multiples_of_their_accumulator_s_scale(reference: fx.GraphModule):
    """Multiples of (scale of the input) * (scale of the weights), per channel (Jacob et al. 2018, section 2.4)."""
    layers = [*nodes(reference.graph, aten.conv2d.default), *nodes(reference.graph, aten.linear.default)]
    assert len(layers) == 4
    for node in layers:
        image, weight, bias = node.args[:3]
        scale = image.args[1] * operator.attrgetter(weight.args[1].target)(reference).double()
        steps = operator.attrgetter(bias.target)(reference).detach().double() / scale
        assert steps.abs().max() > 1
        torch.testing.assert_close(steps, steps.round(), rtol=1e-6, atol=1e-6)


def test_no_pair_between_a_layer_and_its_activation(graph: fx.Graph):
    activations = [*nodes(graph, aten.relu.default), *nodes(graph, aten.relu6.default)]
    assert len(activations) == 3
    before = {node.args[0].target for node in activations}
    assert before == {aten.conv2d.default, aten.add.Tensor}
    assert all([user.target for user in node.users] == [Q] for node in activations)


def test_the_last_layer_stays_float(graph: fx.Graph):
    (linear,) = nodes(graph, aten.linear.default)
    assert [user.op for user in linear.users] == ["output"]


def test_concatenated_values_share_their_parameters_with_the_result(graph: fx.Graph):
    (cat,) = nodes(graph, aten.cat.default)
    parameters = {source(part)[1] for part in cat.args[0]}
    (behind,) = cat.users
    assert parameters == {behind.args[1:]}


@pytest.mark.parametrize("target", [aten.max_pool2d.default, aten.flatten.using_ints])
def test_moving_values_keeps_their_parameters(target: object, graph: fx.Graph):
    (node,) = nodes(graph, target)
    (behind,) = node.users
    assert source(node.args[0])[1] == behind.args[1:]


def test_an_average_gets_its_own_parameters(graph: fx.Graph):
    (node,) = nodes(graph, aten.avg_pool2d.default)
    (behind,) = node.users
    assert source(node.args[0])[1] != behind.args[1:]


def test_a_value_of_two_readers_is_quantized_once(graph: fx.Graph):
    """relu of the first convolution feeds the depthwise one and the addition."""
    (first,) = [node for node in nodes(graph, aten.relu.default) if node.args[0].target == aten.conv2d.default]
    (quantized,) = first.users
    assert quantized.target == Q
    assert len(quantized.users) == 2


def test_an_activation_of_a_shared_value_is_not_fused(images: Tensor):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 2, 3), nn.Linear(200, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.linear((y.relu() + y).flatten(1))

    quantized = quantize(Shared(), images)
    (conv,) = nodes(quantized.reference().graph, aten.conv2d.default)
    assert [user.target for user in conv.users] == [Q]
    with torch.no_grad():
        assert torch.equal(quantized(images), quantized.reference()(images))


class Joined(nn.Module):
    """Concatenates what it is told: by name, two values of one network and its input."""

    def __init__(self, parts: str) -> None:
        super().__init__()
        self.parts, self.conv, self.other = parts, nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)
        self.classifier = nn.Linear(144 * len(parts), 4)

    def forward(self, x: Tensor) -> Tensor:
        known = {"x": x, "y": torch.relu(self.conv(x)), "z": self.other(x)}
        return self.classifier(torch.cat([known[part] for part in self.parts], 1).flatten(1))


@pytest.mark.parametrize("parts", ["yy", "xx", "yzy", "zyy"])
def test_a_value_may_be_joined_with_itself(parts: str, images: Tensor):
    quantized = quantize(Joined(parts).eval(), images[:64])
    reference = quantized.reference()
    parameters = {source(part)[1] for part in nodes(reference.graph, torch.ops.aten.cat.default)[0].args[0]}
    assert len(parameters) == 1
    with torch.no_grad():
        assert torch.equal(reference(images), quantized(images))


@pytest.mark.parametrize(("gated", "through"), [(nn.SiLU, F.silu), (nn.Hardswish, F.hardswish), (nn.Sigmoid, None)])
def test_an_observer_in_front_of_a_gated_product_knows_what_is_made_of_its_values(
    gated: type[nn.Module], through: object, images: Tensor
):
    channels = images.shape[1]
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), gated(), nn.Flatten(), nn.LazyLinear(2))
    model(images[:2])
    _, behind_conv, *rest = activation_fake_quantizers(quantize(model.eval(), images[:8]))
    assert behind_conv.through is through
    assert all(one.through is None for one in rest)


@pytest.mark.parametrize(
    ("move", "in_bytes"),
    [
        (nn.PixelShuffle(2), True),
        (nn.Upsample(scale_factor=2.0), True),
        (nn.Upsample(scale_factor=2.0, mode="bilinear"), False),  # computes
        (nn.PixelUnshuffle(2), False),  # no larger map
        (nn.Flatten(), False),
    ],
    ids=["shuffled", "repeated", "computed", "smaller", "flat"],
)
def test_a_map_that_moves_enlarge_is_moved_in_bytes_and_dequantized_at_the_end(move: nn.Module, in_bytes: bool):
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    quantized = quantize(nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), move), images)
    (given,) = quantized.reference().graph.output_node().all_input_nodes
    assert (given.target == DQ) is in_bytes
