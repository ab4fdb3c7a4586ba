"""16-bit activations: LiteRT's and TFLM's kernels of int16 x int8 keep what 8 bits of a wide range lose."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, operations

pytest.importorskip("litert_torch", reason="LiteRT is not installed")


def features(count: int, seed: int) -> Tensor:
    """A value that matters beside one of a hundred times its range that hardly does."""
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([100.0, 1.0])


def regression() -> nn.Module:
    """y = |b| - 0.5 + a / 10,000, of inputs (a, b), as a network of two layers."""
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        network[0].weight[:4] = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])
        network[2].weight[0, :4] = torch.tensor([1.0, 1.0, 1e-4, -1e-4])
        network[2].bias.fill_(-0.5)
    return network.eval()


class Images(nn.Module):
    """Convolutions, a sum, a mean: kernels of int16 one behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first(images))
        return self.last((x + torch.relu(self.second(x))).mean((2, 3)))


def r_squared(outputs: Tensor, targets: Tensor) -> float:
    """In percent."""
    return 100 * (1 - float(((outputs - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()))


RUNTIMES = [".tflite", ".tflm"]


@torch.no_grad()
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_regression_that_loses_its_values_in_int8_keeps_them(suffix: str, tmp_path: Path):
    if suffix == ".tflm":
        pytest.importorskip("tflite_micro", reason="TFLM is not installed")
    network, inputs = regression(), features(500, 2)
    scores = {}
    for bits in (8, 16):
        quantized = quantize(network, features(500, 1), Scheme(activation_bits=bits))
        path = export(quantized, tmp_path / f"{bits}{suffix}", inputs[:2])
        scores[bits] = r_squared(load(path)(inputs), network(inputs))
        assert differences(quantized, path) == ""
    assert scores[8] < 90
    assert scores[16] > 99.5
    assert operations(path)["fully_connected"] == {"int16": 1, "float32": 1}


@torch.no_grad()
def test_every_layer_is_of_int16_and_gives_the_simulation_s_values(tmp_path: Path):
    torch.manual_seed(0)
    inputs = torch.randn(64, 3, 12, 12)
    quantized: QuantizedModel = quantize(Images().eval(), inputs, Scheme(activation_bits=16))
    path = export(quantized, tmp_path / "wide.tflite", inputs[:2])
    counted = operations(path)
    assert all(counted[kind] == {"int16": 1} for kind in ("conv_2d", "depthwise_conv_2d", "add", "mean"))
    torch.testing.assert_close(
        load(path)(inputs), quantized(inputs), rtol=0, atol=1e-3 * float(quantized(inputs).std())
    )


@torch.no_grad()
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_one_layer_of_16_bits_is_enough_where_it_alone_needs_them(suffix: str, tmp_path: Path):
    """Behind it both inputs have one range."""
    if suffix == ".tflm":
        pytest.importorskip("tflite_micro", reason="TFLM is not installed")
    network, inputs = nn.Sequential(nn.Linear(2, 2), nn.ReLU6(), *regression()).eval(), features(500, 2)
    network[0].weight.copy_(torch.tensor([[0.01, 0.0], [0.0, 1.0]]))
    network[0].bias.fill_(3.0)
    network[2].bias.copy_(-3 * network[2].weight.sum(1))
    for wide, counts in ((), {"int8": 2}), (("0",), {"int16": 1, "int8": 1}):
        quantized = quantize(network, features(500, 1), Scheme(wide_modules=wide))
        path = export(quantized, tmp_path / f"{len(wide)}{suffix}", inputs[:2])
        assert operations(path)["fully_connected"] == {**counts, "float32": 1}
        assert differences(quantized, path) == ""
        score = r_squared(load(path)(inputs), network(inputs))
        assert score > 99.5 if wide else score < 90
    assert str(quantized.scheme) == "static W8A8, mse, 0 with 16-bit activations"
