"""Networks read back from their float ONNX files: the same answers, the same integers."""

from pathlib import Path

import pytest
import torch

from distiq.models.from_onnx import read_onnx
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load, runtime_of
from tests.runtimes.conftest import images_of

CALIBRATION = images_of(256, 1)
"""That of `exported`."""


@pytest.fixture(scope="module")
def read(exported) -> torch.nn.Module:
    return read_onnx(exported.float_file)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_read_back_answers_the_same(exported, read, images: torch.Tensor, batch: int):
    with torch.no_grad():
        torch.testing.assert_close(read(images[:batch]), exported.model(images[:batch]), rtol=1e-5, atol=1e-5)


def test_quantized_it_is_the_integer_file_of_the_original(exported, read, images: torch.Tensor, tmp_path: Path):
    """Rounded each by itself: ONNX folds batch norms in another order, and one weight that lies between two integers
    would change those that the closed form rounds after it."""
    original = quantize(exported.model, CALIBRATION, Scheme())
    file = export(quantize(read, CALIBRATION, Scheme()), tmp_path / "int8.onnx", images[:2])
    assert runtime_of(file).float_operations(file) == ()
    with torch.no_grad():
        again, first = load(file)(images), original(images)
    assert float((again.argmax(1) == first.argmax(1)).double().mean()) >= 0.999
    torch.testing.assert_close(again, first, rtol=0, atol=0.02 * float(first.abs().max()))


def test_rounded_in_closed_form_it_is_as_close_to_the_network(exported, read, images: torch.Tensor):
    with torch.no_grad():
        expected, again = exported.model(images), quantize(read, CALIBRATION)(images)
        assert sqnr_db(expected, again) > sqnr_db(expected, exported.quantized(images)) - 1
