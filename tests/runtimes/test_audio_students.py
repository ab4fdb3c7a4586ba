"""Students that hear, as files: float32 and int8 answer as their networks do."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.errors import UserError
from distiq.models.audio import DSCNN, AudioGRU
from distiq.models.bc_resnet import BCResNet
from distiq.models.conformer import Conformer
from distiq.models.frontend import front_end
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, operations, size_bytes
from distiq.runtimes.onnx_read import float_operations

CLIPS = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0)) / 4


def gru() -> nn.Module:
    return AudioGRU(3, front_end(4000, bands=16), width=8, hidden=8)


def ds_cnn() -> nn.Module:
    return DSCNN(3, front_end(4000, bands=16), stem=8, widths=(8,), strides=(1,))


def bc_resnet() -> nn.Module:
    return BCResNet(
        3, front_end(4000, bands=16), stem=4, widths=(4, 6), blocks=(1, 2), strides=(1, 2), dilations=(1, 2), last=8
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


def test_a_conformer_of_16_kilobytes(tmp_path: Path):
    """Between its layers it computes in float32, its weighted layers in integers, convolutions among them."""
    torch.manual_seed(0)
    model, clips = Conformer(10, front_end(8000)).eval(), torch.randn(8, 4000) / 4
    quantized = quantize(model, clips, Scheme(float_modules=("frontend",)))
    path = export(quantized, tmp_path / "int8.onnx", clips)
    assert size_bytes(path) <= 16_384
    assert not differences(quantized, path)
    torch.testing.assert_close(load(path)(clips), quantized(clips), atol=0.02, rtol=0)  # a value may fall off its step
    assert sqnr_db(model(clips).detach(), load(path)(clips)) > 30
    left = [name for name in float_operations(path) if not name.startswith("frontend/")]
    assert not [name for name in left if "Conv)" in name or "Gemm)" in name]
    assert sum("MatMul)" in name for name in left) == 2, "of queries and keys, of shares and values"


@pytest.mark.slow
def test_a_conformer_in_openvino(tmp_path: Path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    torch.manual_seed(0)
    model = Conformer(3, front_end(4000, bands=16), width=8, hidden=8, kernel=3).eval()
    quantized = quantize(model, CLIPS, Scheme(float_modules=("frontend",)))
    torch.testing.assert_close(
        load(export(model, tmp_path / "float.xml", CLIPS))(CLIPS), model(CLIPS), atol=1e-4, rtol=0
    )
    path = export(quantized, tmp_path / "int8.xml", CLIPS)
    assert not differences(quantized, path)
    torch.testing.assert_close(load(path)(CLIPS), quantized(CLIPS), atol=0.05, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("build", [ds_cnn, bc_resnet])
def test_in_executorch(build, tmp_path: Path):
    """The batch stays free behind the front-end, and the front-end's formulas are not left to its slow kernels."""
    pytest.importorskip("executorch", reason="ExecuTorch is not installed")
    torch.manual_seed(0)
    model, clips = build().eval(), torch.randn(26, 1000) / 4
    quantized = quantize(model, CLIPS, Scheme(float_modules=("frontend",)))
    for network, name in ((model, "float.pte"), (quantized, "int8.pte")):
        path = export(network, tmp_path / name, CLIPS)
        torch.testing.assert_close(load(path)(clips), network(clips), atol=1e-4, rtol=0)
        torch.testing.assert_close(load(path)(clips[:1]), network(clips[:1]), atol=1e-4, rtol=0)
        assert not {"aten::convolution", "aten::arange"} & set(operations(path))
    assert not differences(quantized, path)
    with pytest.raises(UserError, match=r"int8\.pte: ExecuTorch cannot run this file on an input of \(2, 999\)"):
        load(path)(clips[:2, :999])
