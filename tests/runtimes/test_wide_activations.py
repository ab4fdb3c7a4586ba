"""16-bit activations: the int16 x int8 kernels of LiteRT, TFLM and C keep what 8 bits of a wide range lose."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, operations, require, runtime_named


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


def installed(name: str) -> bool:
    try:
        require(runtime_named(name), to_write=True)
    except UserError:
        return False
    return True


RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(name), reason=f"{name} is not installed"))
    for name in ("litert", "tflm", "c99")
]
LINEAR = {"litert": "fully_connected", "tflm": "fully_connected", "c99": "linear"}


@torch.no_grad()
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_regression_that_loses_its_values_in_int8_keeps_them(runtime: str, tmp_path: Path):
    network, inputs = regression(), features(500, 2)
    scores = {}
    for bits in (8, 16):
        quantized = quantize(network, features(500, 1), Scheme(activation_bits=bits))
        path = export(quantized, tmp_path / f"{bits}{runtime_named(runtime).suffix}", inputs[:2])
        scores[bits] = r_squared(load(path)(inputs), network(inputs))
        assert differences(quantized, path) == ""
    assert scores[8] < 90
    assert scores[16] > 99.5
    assert operations(path)[LINEAR[runtime]] == ({"int16": 2} if runtime == "c99" else {"int16": 1, "float32": 1})


KINDS = {
    "litert": ("conv_2d", "depthwise_conv_2d", "add", "mean"),
    "c99": ("conv", "depthwise", "add", "average", "linear"),
}


@torch.no_grad()
@pytest.mark.parametrize("runtime", [one for one in RUNTIMES if one.values[0] in KINDS])
def test_every_layer_is_of_int16_and_gives_the_simulation_s_values(runtime: str, tmp_path: Path):
    torch.manual_seed(0)
    inputs = torch.randn(64, 3, 12, 12)
    quantized: QuantizedModel = quantize(Images().eval(), inputs, Scheme(activation_bits=16))
    path = export(quantized, tmp_path / f"wide{runtime_named(runtime).suffix}", inputs[:2])
    assert all(operations(path)[kind] == {"int16": 1} for kind in KINDS[runtime])
    far = 1e-3 * float(quantized(inputs).std())
    for options in ({}, {"define": "DISTIQ_Q31"}) if runtime == "c99" else ({},):
        torch.testing.assert_close(load(path, 1, options)(inputs), quantized(inputs), rtol=0, atol=far)


@torch.no_grad()
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_layer_of_16_bits_is_enough_where_it_alone_needs_them(runtime: str, tmp_path: Path):
    """Behind it both inputs have one range."""
    network, inputs = nn.Sequential(nn.Linear(2, 2), nn.ReLU6(), *regression()).eval(), features(500, 2)
    network[0].weight.copy_(torch.tensor([[0.01, 0.0], [0.0, 1.0]]))
    network[0].bias.fill_(3.0)
    network[2].bias.copy_(-3 * network[2].weight.sum(1))
    last = {"int8": 1} if runtime == "c99" else {"float32": 1}  # its result is float32, and so is a small one's kernel
    for wide, first in ((), {"int8": 2}), (("0",), {"int16": 1, "int8": 1}):
        quantized = quantize(network, features(500, 1), Scheme(wide_modules=wide))
        path = export(quantized, tmp_path / f"{len(wide)}{runtime_named(runtime).suffix}", inputs[:2])
        assert Counter(operations(path)[LINEAR[runtime]]) == Counter(first) + Counter(last)
        assert differences(quantized, path) == ""
        score = r_squared(load(path)(inputs), network(inputs))
        assert score > 99.5 if wide else score < 90
    assert str(quantized.scheme) == "static W8A8, mse, 0 with 16-bit activations"


class Joined(nn.Module):
    """What only moves, cuts, pads and pools 16-bit values, and functions of one value between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 6, (1, 3), groups=2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self.first(images))
        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(F.hardswish(x), 2)], 1)
        return self.last(F.pad(x, (1, 1))).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("scheme", [Scheme(activation_bits=16), Scheme(wide_modules=("last",))])
@pytest.mark.skipif(not installed("c99"), reason="no C compiler is installed")
def test_c_has_a_kernel_of_16_bits_for_each_of_8(scheme: Scheme, tmp_path: Path):
    torch.manual_seed(0)
    inputs = 3 * torch.randn(64, 3, 12, 12)
    quantized = quantize(Joined().eval(), inputs, scheme)
    path = export(quantized, tmp_path / "joined.c", inputs[:2])
    for options in ({}, {"define": "DISTIQ_Q31"}):
        assert sqnr_db(quantized(inputs), load(path, 1, options)(inputs)) > 45
    counts = operations(path)
    assert counts["conv"].get("int16", 0) == (2 if scheme.activation_bits == 16 else 1)
    assert ("requantize" in counts) == bool(scheme.wide_modules)


def test_a_sum_beyond_32_bits_is_exact_in_c(tmp_path: Path):
    """600 products of 32767 and 127 are 2.5 * 10 ** 9."""
    if not installed("c99"):
        pytest.skip("no C compiler is installed")
    layer = nn.Linear(600, 5)
    nn.init.constant_(layer.weight, 1.0)
    nn.init.zeros_(layer.bias)
    quantized = quantize(layer.eval(), torch.ones(4, 600), Scheme(activation_bits=16))
    path = export(quantized, tmp_path / "sum.c", torch.ones(2, 600))
    for options in ({}, {"define": "DISTIQ_Q31"}):
        torch.testing.assert_close(load(path, 1, options)(torch.ones(2, 600)), torch.full((2, 5), 600.0))
