"""What a file computes in float32 is named, whatever kind of operation it is: in every runtime, of float32 and int8."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.runtimes.export import RUNTIMES, export, operations, runtime_named
from tests.contracts.test_runtimes import CONVERTING, case


class Islands(nn.Module):
    """Operations that files left in float32 while their record said "none"."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.prelu, self.norm, self.up = nn.PReLU(16), nn.InstanceNorm2d(16), nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.prelu(self.a(x)))
        x = F.interpolate(torch.tanh(self.norm(x)), scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(F.elu(F.gelu(self.b(x))).amax((2, 3)))


class Pieces(nn.Module):
    """Parts of tensors, and arithmetic that no integer kernel has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).split(8, 1)
        left = torch.sin(self.b(left)).softmax(1)[:, :, 1:-1, 1:-1]
        right = torch.maximum(torch.exp(right), torch.abs(right))[:, :, 1:-1, 1:-1]
        return self.head(torch.cat([left, right], 1).mean((2, 3)))


NETWORKS = {"islands": Islands, "pieces": Pieces}
EXPECTED: dict[str, dict[str, set[str]]] = {
    "islands": {
        "onnxruntime": {"Conv", "PRelu", "ConvTranspose", "InstanceNormalization", "Tanh", "Resize", "Gelu", "Elu",
                        "ReduceMax", "Gemm"},
        "openvino": {"Convolution", "PRelu", "Deconvolution", "MVN", "Tanh", "Interpolate", "Gelu", "Elu", "Reduce",
                     "FullyConnected"},
        "litert": {"conv_2d", "relu", "transpose_conv", "mean", "rsqrt", "tanh", "resize_bilinear", "gelu", "exp",
                   "greater_equal", "select", "reduce_max", "fully_connected"},
        "executorch": {"conv2d", "prelu", "convtranspose2d", "tanh", "gelu", "fullyconnected", "outside XNNPACK"},
    },
    "pieces": {
        "onnxruntime": {"Conv", "Split", "Softmax", "Sin", "Slice", "Exp", "Abs", "Max", "Concat", "ReduceMean"},
        "litert": {"conv_2d", "softmax", "sin", "exp", "abs", "maximum", "mean", "fully_connected"},
    },
}  # fmt: skip
"""Kinds that the float32 file must name; other runtimes fuse or rewrite some of them."""
QUICK = [runtime.name for runtime in RUNTIMES if runtime.name not in ("inductor", "c99", "tflm")]
"""C and TFLM have no kernel of some of these operations, and are refused: test_c99.py, test_tflm.py."""


def kinds(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition("(")[2].removesuffix(")") for name in names}


@functools.cache
def made(network: str) -> tuple[nn.Module, QuantizedModel, Tensor]:
    """A network, the same quantized, and what it was calibrated on."""
    torch.manual_seed(0)
    model, x = NETWORKS[network]().eval(), torch.randn(16, 3, 32, 32)
    return model, quantize(model, x), x


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [case(name, compiles=True) for name in [*QUICK, "inductor"]])
def test_every_float_operation_is_named(name: str, network: str, tmp_path: Path):
    (model, quantized, x), runtime = made(network), runtime_named(name)
    plain = export(model, tmp_path / f"float{runtime.suffix}", x[:2])
    assert kinds(runtime.float_operations(plain)) >= EXPECTED[network].get(name, set())

    int8 = export(quantized, tmp_path / f"int8{runtime.suffix}", x[:2])
    left = {part.lower() for one in runtime.float_operations(int8) for part in (one.partition(" (")[0], *kinds((one,)))}
    counted = {kind.lower() for kind, counts in operations(int8).items() if "float32" in counts}
    assert counted <= left | CONVERTING | {"convert", "transpose", "statictranspose"}
    assert left, "tanh and sin have no integer kernel here, and the record says so"
