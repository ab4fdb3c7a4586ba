"""The columns of a layer's input, and the moments of many of them or of those that are drawn."""

import pytest
import torch
from torch import Tensor, fx, nn

from distiq.quantization import moments as moments_file
from distiq.quantization.graph import export_graph
from distiq.quantization.moments import Sums, columns, enough
from distiq.quantization.operations import WEIGHTED, aten
from distiq.quantization.weights import as_rows, from_rows

LAYERS = {
    "plain": (nn.Conv2d(4, 6, 3, padding=1), (5, 4, 9, 7)),
    "strided": (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2)), (5, 4, 9, 7)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), (5, 4, 9, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (5, 4, 9, 7)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (5, 4, 9, 7)),
    "same": (nn.Conv2d(4, 6, (3, 2), padding="same"), (5, 4, 9, 7)),
    "one": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 11)),
    "one same": (nn.Conv1d(4, 6, 4, padding="same"), (5, 4, 11)),
    "transposed": (nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 2)), (5, 4, 5, 7)),
    "transposed grouped": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=2), (5, 4, 5, 7)),
    "transposed one": (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=3), (5, 4, 7)),
    "transposed, cut": (nn.ConvTranspose2d(4, 6, 2, padding=2), (5, 4, 9, 7)),
    "linear": (nn.Linear(4, 6), (5, 4)),
    "linear of tokens": (nn.Linear(4, 6), (5, 3, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", LAYERS)
def test_columns_times_weights_are_the_layer(kind: str):
    layer, shape = LAYERS[kind]
    x = torch.randn(shape)
    graph = export_graph(layer, x)
    (node,) = (node for node in graph.graph.nodes if node.target in WEIGHTED)
    products = as_rows(node, layer.weight) @ columns(node, x, layer.weight.shape)
    expected = layer(x) - layer.bias.view(
        (-1, *[1] * (x.ndim - 2)) if node.target is not aten.linear.default else (-1,)
    )
    axis = 1 if node.target is not aten.linear.default else expected.ndim - 1
    torch.testing.assert_close(products.flatten(0, 1), expected.movedim(axis, 0).flatten(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(from_rows(node, as_rows(node, layer.weight), layer.weight.shape), layer.weight)


@pytest.fixture
def layer() -> fx.Node:
    graph = export_graph(nn.Conv2d(2, 3, 3), torch.randn(2, 2, 8, 8))
    (node,) = (node for node in graph.graph.nodes if node.target in WEIGHTED)
    return node


def moments(layer: fx.Node, weight: Tensor, inputs: Tensor, ideal: Tensor, chunk: int):
    sums = Sums(layer, weight, len(inputs))
    for given, original in zip(inputs.split(chunk), ideal.split(chunk), strict=True):
        sums.add(given, original)
    return sums.moments(centred=True)


def test_moments_are_those_of_all_columns_whatever_the_chunks(layer: fx.Node):
    torch.manual_seed(0)
    weight, ideal = torch.randn(3, 2, 3, 3), torch.randn(12, 2, 8, 8)
    inputs = ideal + 0.1 * torch.randn_like(ideal)
    given, original = (columns(layer, value, weight.shape)[0].double() for value in (inputs, ideal))
    error = weight.flatten(1).double() @ (original - given)
    for chunk in (3, 12):
        found = moments(layer, weight, inputs, ideal, chunk)
        torch.testing.assert_close(found.covariance[0], given.cov(correction=0).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.error_mean[0], error.mean(1).float(), rtol=1e-4, atol=1e-5)
        centred = (error - error.mean(1, keepdim=True)) @ (given - given.mean(1, keepdim=True)).T / given.shape[1]
        torch.testing.assert_close(found.cross[0], centred.float(), rtol=1e-3, atol=1e-5)


def test_every_second_sample_is_of_one_half_whatever_the_chunks(layer: fx.Node):
    torch.manual_seed(0)
    weight, inputs = torch.randn(3, 2, 3, 3), torch.randn(10, 2, 8, 8)
    ideal = torch.randn_like(inputs)
    for chunk in (1, 3, 10):
        sums = Sums(layer, weight, len(inputs))
        for given, original in zip(inputs.split(chunk), ideal.split(chunk), strict=True):
            sums.add(given, original)
        for half, own in zip(sums.halves(centred=True), (slice(0, None, 2), slice(1, None, 2)), strict=True):
            alone = moments(layer, weight, inputs[own], ideal[own], 5)
            for found, expected in zip(half, alone, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_row_of_a_linear_layer_belongs_to_its_sample():
    graph = export_graph(nn.Linear(4, 2), torch.randn(2, 3, 4))
    (node,) = (node for node in graph.graph.nodes if node.target in WEIGHTED)
    inputs, weight = torch.randn(6, 3, 4), torch.randn(2, 4)
    sums = Sums(node, weight, 6)
    sums.add(inputs, inputs)
    first, second = sums.halves(centred=False)
    torch.testing.assert_close(first.input_mean[0], inputs[::2].flatten(0, 1).mean(0))
    torch.testing.assert_close(second.input_mean[0], inputs[1::2].flatten(0, 1).mean(0))


def test_a_single_sample_has_no_halves(layer: fx.Node):
    sums = Sums(layer, torch.randn(3, 2, 3, 3), 1)
    sums.add(torch.randn(1, 2, 8, 8), torch.randn(1, 2, 8, 8))
    assert sums.halves(centred=True) == ()


def test_halves_of_one_position_each_have_no_variance():
    graph = export_graph(nn.Linear(4, 2), torch.randn(2, 4))
    (node,) = (node for node in graph.graph.nodes if node.target in WEIGHTED)
    for samples, count in ((2, 0), (3, 0), (4, 2)):
        sums = Sums(node, torch.randn(2, 4), samples)
        sums.add(torch.randn(samples, 4), torch.randn(samples, 4))
        assert len(sums.halves(centred=True)) == count


@pytest.mark.parametrize("centred", [True, False])
def test_small_variances_around_a_large_mean_are_not_lost(layer: fx.Node, centred: bool):
    """At 1,000 a step of float32 is 6e-5, of its square 0.06: a variance of 1e-4 is far below."""
    torch.manual_seed(0)
    weight, ideal = torch.randn(3, 2, 3, 3), 1000 + 0.01 * torch.randn(12, 2, 8, 8)
    inputs = ideal + 0.01 * torch.randn_like(ideal)
    given, original = (columns(layer, value, weight.shape)[0].double() for value in (inputs, ideal))
    error = weight.flatten(1).double() @ (original - given)
    sums = Sums(layer, weight, len(inputs))
    for pair in zip(inputs.split(3), ideal.split(3), strict=True):
        sums.add(*pair)
    found = sums.moments(centred)
    mean = given.mean(1, keepdim=True) if centred else torch.zeros(18, 1)
    error = error - error.mean(1, keepdim=True) if centred else error
    expected = (given - mean) @ (given - mean).T / given.shape[1]
    torch.testing.assert_close(found.covariance[0], expected.float(), rtol=1e-5, atol=1e-9)
    cross = error @ (given - mean).T / given.shape[1]
    torch.testing.assert_close(found.cross[0], cross.float(), rtol=1e-4, atol=1e-9 if centred else 1e-4)


def test_one_position_has_no_variance_at_all():
    """Noise in its place would be inverted: at 4 bits it once made scales of 1e20."""
    graph = export_graph(nn.Linear(4, 2), torch.randn(2, 4))
    (node,) = (node for node in graph.graph.nodes if node.target in WEIGHTED)
    sums, weight = Sums(node, torch.randn(2, 4), 1), torch.randn(1, 4)
    sums.add(weight + 0.1, weight)
    found = sums.moments(centred=True)
    assert not found.covariance.any()
    assert not found.cross.any()


def test_of_large_maps_positions_are_drawn(layer: fx.Node):
    torch.manual_seed(0)
    side = 32
    inputs = torch.randn(8, 2, side, side)
    assert 8 * side**2 > 1.9 * enough(18)
    sums = Sums(layer, torch.randn(3, 2, 3, 3), 8)
    for chunk in inputs.split(4):
        sums.add(chunk, chunk)
    assert 0.99 * enough(18) <= sums.count <= enough(18)
    # Independent values of variance 1: a covariance of n positions is off by sqrt(2 / n), one deviation.
    off = sums.moments(centred=True).covariance[0] - torch.eye(18)
    assert off.abs().max() < 5 * (2 / sums.count) ** 0.5


def test_a_layer_of_many_weights_gets_more_positions(layer: fx.Node, monkeypatch: pytest.MonkeyPatch):
    """32 for each of the 18 weights of an output channel, where that is more than is enough for others."""
    monkeypatch.setattr(moments_file, "ENOUGH", 64)
    monkeypatch.setattr(moments_file, "MOST", 64)
    sums = Sums(layer, torch.randn(3, 2, 3, 3), 8)
    sums.add(torch.randn(8, 2, 30, 30), torch.randn(8, 2, 30, 30))
    assert 0.9 * 32 * 18 <= sums.count <= 32 * 18
