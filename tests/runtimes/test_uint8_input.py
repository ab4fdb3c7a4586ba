"""Files that take pixels: the same answers as those that take normalized inputs, and nothing computed where none is."""

import functools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.resnet import ResNet
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import differences, export, load
from distiq.runtimes.litert import LITERT
from distiq.runtimes.onnx_read import float_operations, operation_counts
from distiq.runtimes.uint8_input import Uint8Input

GREY = Uint8Input((0.286,), (0.353,))
COLOUR = Uint8Input((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images_of(pixels: Uint8Input, count: int = 64) -> Tensor:
    """uint8 images that hold every value."""
    shape = (count, len(pixels.mean), 8, 8)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalized(images: Tensor, pixels: Uint8Input) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in pixels)
    return (images.float() / 255 - mean) / std


@functools.cache
def network(pixels: Uint8Input, for_qat: bool) -> nn.Module:
    torch.manual_seed(0)
    model = ResNet(4, len(pixels.mean), (4, 8), 1).eval()
    return quantize(model, normalized(images_of(pixels), pixels)) if for_qat else model


Both = Callable[[Uint8Input, bool], tuple[Path, Path]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The file that takes normalized inputs and the one that takes pixels, of each network made once."""

    @functools.cache
    def files(pixels: Uint8Input, for_qat: bool) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("uint8")
        model, example = network(pixels, for_qat), normalized(images_of(pixels, 2), pixels)
        return (
            export(model, folder / "normalized.onnx", example),
            export(model, folder / "pixels.onnx", example, pixels),
        )

    return files


@pytest.mark.parametrize("for_qat", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_the_answers_are_the_same_bits(pixels: Uint8Input, for_qat: bool, both: Both):
    before, after = both(pixels, for_qat)
    images = images_of(pixels)
    assert torch.equal(load(after)(images), load(before)(normalized(images, pixels)))
    assert onnx.load(after).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_a_grey_pixel_is_its_integer_and_nothing_is_computed_for_it(both: Both):
    before, after = both(GREY, True)
    assert operation_counts(before) - operation_counts(after) == {"QuantizeLinear": 1}
    assert operation_counts(after) - operation_counts(before) == {}
    assert float_operations(after) == ()


def test_colours_of_their_own_scale_are_normalized_in_the_file_by_name(both: Both):
    _, after = both(COLOUR, True)
    assert all(name.startswith("pixels/") for name in float_operations(after))
    assert len(float_operations(after)) == 3  # two divisions and a subtraction


def test_a_range_that_does_not_hold_every_pixel_is_not_taken_for_one_that_does(tmp_path):
    model = quantize(network(GREY, False), normalized(images_of(GREY) // 2, GREY))  # calibration saw the darker half
    images, example = images_of(GREY), normalized(images_of(GREY, 2), GREY)
    before = export(model, tmp_path / "normalized.onnx", example)
    after = export(model, tmp_path / "pixels.onnx", example, GREY)
    assert operation_counts(after)["QuantizeLinear"] == operation_counts(before)["QuantizeLinear"]
    assert torch.equal(load(after)(images), load(before)(normalized(images, GREY)))


def test_openvino_files_take_pixels(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model, images = network(GREY, True), images_of(GREY)
    path = export(model, tmp_path / "pixels.xml", normalized(images[:2], GREY), GREY)
    with torch.no_grad():
        simulated = model(normalized(images, GREY))
    assert (load(path)(images).argmax(1) == simulated.argmax(1)).double().mean() > 0.95  # of 64, near ties


@pytest.mark.parametrize("for_qat", [pytest.param(False, marks=pytest.mark.slow), True], ids=["float32", "int8"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_litert_files_take_pixels(pixels: Uint8Input, for_qat: bool, tmp_path: Path):
    pytest.importorskip("litert_torch", reason="LiteRT is not installed")
    model, images = network(pixels, for_qat), images_of(pixels)
    example = normalized(images[:2], pixels)
    before = export(model, tmp_path / "normalized.tflite", example)
    after = export(model, tmp_path / "pixels.tflite", example, pixels)
    assert LITERT.signature(after).inputs[0][1:3] == ((-1, len(pixels.mean), 8, 8), torch.uint8)
    torch.testing.assert_close(load(after)(images), load(before)(normalized(images, pixels)), rtol=0, atol=1e-5)
    added = set(litert_operations(after)) - set(litert_operations(before))
    if for_qat:
        assert differences(model, after) == ""
        assert sum(name.startswith("pixels/") for name in added) == (0 if pixels is GREY else 3)


def litert_operations(path: Path) -> tuple[str, ...]:
    return LITERT.float_operations(path)


def test_runtimes_without_a_form_for_it_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"ExecuTorch take normalized float32, not uint8; those that can: \.onnx"):
        export(network(GREY, False), tmp_path / "model.pte", normalized(images_of(GREY, 2), GREY), GREY)
