"""Students that hear, as files: float32 and int8 answer as their networks do."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.models.audio import AudioGRU
from distiq.models.bc_resnet import BCResNet
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load
from distiq.runtimes.onnx_runtime import float_operations

CLIPS = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0)) / 4


def gru() -> nn.Module:
    return AudioGRU(3, 4000, bands=16, width=8, hidden=8)


def bc_resnet() -> nn.Module:
    return BCResNet(
        3, 4000, bands=16, stem=4, widths=(4, 6), blocks=(1, 2), strides=(1, 2), dilations=(1, 2), last=8
    )  # fmt: skip


@pytest.mark.parametrize("build", [gru, bc_resnet])
def test_float_and_int8_files(build, tmp_path: Path):
    torch.manual_seed(0)
    model = build().eval()
    plain = load(export(model, tmp_path / "float.onnx", CLIPS))
    torch.testing.assert_close(plain(CLIPS[:3]), model(CLIPS[:3]), atol=1e-5, rtol=0)
    quantized = quantize(model, CLIPS, Scheme(float_modules=("frontend",)))
    path = export(quantized, tmp_path / "int8.onnx", CLIPS)
    torch.testing.assert_close(load(path)(CLIPS), quantized(CLIPS), atol=1e-5, rtol=0)
    assert not differences(quantized, path)
    left = {name.partition("(")[2] for name in float_operations(path) if not name.startswith("frontend/")}
    assert not left & {"Conv)", "Gemm)", "Add)", "AveragePool)"}
    assert ("GRU)" in left) == (build is gru), "its recurrence stays in float32"
