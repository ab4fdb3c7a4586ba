import pytest
import torch

from distiq.models.segmenter import Segmenter
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import export, load, operations


def test_every_pixel_has_its_classes_whatever_the_sides():
    network = Segmenter(3, encoder="resnet", stem=8, stages=((8, 1, 2), (12, 1, 2)), width=8).eval()
    for sides in ((21, 30), (8, 8)):
        assert network(torch.zeros(2, 3, *sides)).shape == (2, 3, *sides)


@pytest.mark.slow
def test_the_int8_file_enlarges_and_moves_integers(tmp_path):
    network = Segmenter(3, encoder="resnet", stem=8, stages=((8, 1, 2), (12, 1, 2)), width=8).eval()
    images = torch.randn(4, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    quantized = quantize(network, images)
    export(quantized, tmp_path / "model.onnx", images[:2])
    assert operations(tmp_path / "model.onnx")["Resize"] == {"int8": 1}
    assert torch.allclose(load(tmp_path / "model.onnx")(images), quantized(images), atol=1e-4)
