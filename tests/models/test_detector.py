import pytest
import torch

from distiq.models.detector import Detector, joined, strides_of
from distiq.models.signature import tensors_of
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import export, load

SMALL = {"encoder": "resnet", "stem": 8, "stages": ((8, 1, 2), (12, 1, 2), (12, 1, 2)), "width": 8}


def test_classes_and_boxes_of_every_stride_stand_apart():
    network = Detector(2, **SMALL).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, 40, 56))
    assert {name: tuple(one.shape) for name, one in outputs.items()} == {
        "classes_8": (1, 2, 5, 7), "boxes_8": (1, 4, 5, 7), "classes_16": (1, 2, 3, 4), "boxes_16": (1, 4, 3, 4),
    }  # fmt: skip
    assert strides_of(outputs) == [8, 16] and joined(outputs).shape == (1, 6, 5 * 7 + 3 * 4)
    assert float(outputs["classes_8"].sigmoid().mean()) == pytest.approx(0.01, abs=0.003), "a class is rare"


@pytest.mark.slow
def test_the_int8_file_has_the_same_outputs(tmp_path):
    network = Detector(2, **SMALL).eval()  # type: ignore[arg-type]
    images = torch.randn(4, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    quantized = quantize(network, images)
    export(quantized, tmp_path / "model.onnx", images[:2])
    here, there = load(tmp_path / "model.onnx")(images), quantized(images)
    assert isinstance(here, dict) and here.keys() == there.keys()
    for one, other in zip(tensors_of(here), tensors_of(there), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(joined(here), joined(network(images)), atol=3.0)


def test_a_stride_that_the_encoder_lacks_is_refused():
    with pytest.raises(ValueError, match="the encoder has no map of stride 64"):
        Detector(2, strides=(8, 64), **SMALL)  # type: ignore[arg-type]
