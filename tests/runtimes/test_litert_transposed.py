"""Transposed convolutions of every padding in LiteRT."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import differences, export, load
from distiq.runtimes.litert_transposed import without_padding

SETTINGS = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},  # twice the size: what decoders mostly have
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 5, "stride": 2, "padding": 2},
    {"kernel_size": 2, "stride": 3, "output_padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 2},
]


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("settings", SETTINGS)
def test_padding_becomes_a_cut(settings: dict[str, int], dimensions: int):
    torch.manual_seed(0)
    kind = nn.ConvTranspose1d if dimensions == 1 else nn.ConvTranspose2d
    layer, inputs = kind(4, 6, **settings), torch.randn(2, 4, *[9] * dimensions)
    expected = layer(inputs)
    assert torch.allclose(without_padding(nn.Sequential(layer))(inputs), expected, atol=1e-5)


class Enlarged(nn.Module):
    """A layer that is told its output's size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ConvTranspose2d(3, 4, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images, output_size=[2 * side for side in images.shape[2:]])


def test_an_output_size_stays_one():
    images = torch.randn(2, 3, 6, 7)
    network = Enlarged()
    expected = network(images)
    assert torch.allclose(without_padding(network)(images), expected, atol=1e-5)


def test_shared_and_hooked_layers_keep_their_values():
    torch.manual_seed(0)
    layer = nn.utils.weight_norm(nn.ConvTranspose1d(4, 4, 3, 2, 1, 1))
    network, inputs = nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 4, 9)
    expected = network(inputs)
    changed = without_padding(network)
    with torch.no_grad():
        layer.weight_g *= 2  # what a hook makes the weight of
    assert sum(type(one).__name__ == "_Unpadded" for one in changed) == 2
    assert torch.allclose(changed(inputs), nn.Sequential(layer, nn.ReLU(), layer)(inputs), atol=1e-5)
    assert not torch.allclose(changed(inputs), expected, atol=1e-2)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_the_file_enlarges_as_the_network(form: str, groups: int, dimensions: int, tmp_path: Path):
    pytest.importorskip("litert_torch", reason="LiteRT is not installed")
    torch.manual_seed(0)
    convolution, enlarging = (nn.Conv1d, nn.ConvTranspose1d) if dimensions == 1 else (nn.Conv2d, nn.ConvTranspose2d)
    layers = convolution(3, 8, 3), nn.ReLU(), enlarging(8, 8, 3, 2, 1, 1, groups=groups), nn.ReLU()
    model, inputs = nn.Sequential(*layers, convolution(8, 4, 1)).eval(), torch.randn(16, 3, *(10, 12)[-dimensions:])
    network = model if form == "float32" else quantize(model, inputs)
    path = export(network, tmp_path / "model.tflite", inputs[:2])
    with torch.no_grad():
        assert sqnr_db(network(inputs), load(path)(inputs)) > 80
    assert form == "float32" or differences(network, path) == ""
