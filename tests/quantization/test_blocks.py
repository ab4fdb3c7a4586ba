"""Blocks are found in the graph: every node stands in one part, and no join is cut."""

import pytest
import torch
from torch import Tensor, nn

from distiq.models.mobilenet import MobileNetV2
from distiq.models.resnet import ResNet
from distiq.quantization.blocks import Span, block_spans, layer_spans
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.regions import constant_nodes
from distiq.quantization.scheme import Scheme
from tests.quantization.test_token_graphs import Block


def spans(model: nn.Module, example: Tensor, scheme: Scheme | None = None) -> tuple[list[Span], list[Span]]:
    """By blocks, and by layers; together they are the graph."""
    prepared = prepare(export_graph(model.eval(), example), scheme or Scheme())
    constant = set(constant_nodes(prepared))
    moving = [node for node in prepared.graph.nodes if node.op.startswith("call") and node not in constant]
    found = block_spans(prepared), layer_spans(prepared)
    for parts in found:
        assert [node for part in parts for node in part.nodes] == moving
    return found


def described(parts: list[Span]) -> list[tuple[str, int, str]]:
    return [(part.name, len(part.layers), part.nodes[-1].name) for part in parts if part.layers]


def test_residual_blocks(images: Tensor):
    blocks, layers = spans(ResNet(4, 1, (4, 8), (2, 1)), images[:2])
    assert described(blocks) == [
        ("stem.0", 1, "relu"),
        ("stages.0.0", 2, "relu_2"),
        ("stages.0.1", 2, "relu_4"),
        ("stages.1.0", 3, "relu_6"),  # with the convolution of its shortcut
        ("classifier", 1, "linear"),
    ]
    assert [len(part.layers) for part in layers] == [1] * 9
    assert described(layers)[1:3] == [("stages.0.0.conv1", 1, "relu_1"), ("stages.0.0.conv2", 1, "conv2d_2")]


@pytest.mark.parametrize(("activation", "squeeze", "layers"), [("relu6", 0.0, 3), ("silu", 0.25, 5)])
def test_inverted_residuals_with_and_without_a_shortcut(activation: str, squeeze: float, layers: int, images: Tensor):
    stages = ((4, 16, 1, 2), (4, 16, 1, 1), (4, 24, 2, 2))
    model = MobileNetV2(4, 1, 1, 8, 1, stages, 0, activation, squeeze)
    blocks = described(spans(model, images[:2])[0])
    names = ["stem.0", "stages.0.0", "stages.1.0", "stages.2.0", "stages.2.1", "classifier"]
    assert [(name, count) for name, count, _ in blocks] == list(zip(names, [1, *[layers] * 4, 1], strict=True))


class Unet(nn.Module):
    """Eleven layers, of which the first is read again by the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1, 1, 1) for _ in range(11))
        self.classifier = nn.Linear(144, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.layers[0](x)
        for layer in self.layers[1:-1]:
            x = torch.relu(layer(x))
        return self.classifier(self.layers[-1](x + first).flatten(1))


def test_what_is_too_large_for_a_block_goes_by_layers(images: Tensor):
    blocks, _ = spans(Unet(), images[:2])
    assert [len(part.layers) for part in blocks if part.layers] == [1] * 12


class Plain(nn.Module):
    """Layers in a row, of which no module holds a few alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()) for _ in range(9)))
        self.classifier = nn.Sequential(nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def test_layers_in_a_row_stand_together_by_modules(images: Tensor):
    blocks = described(spans(Plain(), images[:2])[0])
    assert [count for _, count, _ in blocks] == [*[1] * 9, 2]
    assert blocks[-1][0] == "classifier"


def test_what_stays_float_is_no_layer(images: Tensor):
    blocks, layers = spans(Plain(), images[:2], Scheme(float_modules=("classifier",)))
    assert [len(part.layers) for part in blocks] == [*[1] * 9, 0]
    assert [len(part.layers) for part in layers] == [*[1] * 9, 0]


def test_a_block_of_a_transformer_ends_behind_its_normalization():
    tokens = torch.randint(0, 20, (2, 6))
    assert described(spans(Block(), tokens)[0]) == [("", 2, "layer_norm"), ("classifier", 1, "linear_2")]
