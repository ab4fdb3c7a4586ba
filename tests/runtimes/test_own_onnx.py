"""Networks read back from their float ONNX files: the same answers, the same integers."""

from pathlib import Path

import pytest
import torch

from distiq.models.from_onnx import read_onnx
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import export, load, runtime_of


@pytest.fixture(scope="module")
def read(exported) -> torch.nn.Module:
    return read_onnx(exported.float_file)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_read_back_answers_the_same(exported, read, images: torch.Tensor, batch: int):
    with torch.no_grad():
        torch.testing.assert_close(read(images[:batch]), exported.model(images[:batch]), rtol=1e-5, atol=1e-5)


def test_quantized_it_is_the_integer_file_of_the_original(exported, read, images: torch.Tensor, tmp_path: Path):
    calibration = torch.randn(256, 1, 12, 12, generator=torch.Generator().manual_seed(1))  # that of `exported`
    file = export(quantize(read, calibration), tmp_path / "int8.onnx", images[:2])
    assert runtime_of(file).float_operations(file) == ()
    again, first = load(file)(images), load(exported.int8_file)(images)
    assert float((again.argmax(1) == first.argmax(1)).double().mean()) >= 0.998
    torch.testing.assert_close(again, first, rtol=0, atol=0.03 * float(first.abs().max()))
