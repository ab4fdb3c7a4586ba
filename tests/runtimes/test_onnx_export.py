"""Operations that torch.onnx or a runtime reads otherwise than PyTorch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import export, load
from distiq.runtimes.openvino import signature
from tests.contracts.test_runtimes import case

AVERAGES: dict[str, dict[str, Any]] = {
    "padded": {"kernel_size": 3, "stride": 1, "padding": 1},
    "padded, not counted": {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
    "over the edge": {"kernel_size": 2, "ceil_mode": True},
    "over the edge, padded": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
}


class Gate(nn.Module):
    """One half of the channels times the sigmoid of the other."""

    def forward(self, maps: Tensor) -> Tensor:
        half = maps.shape[1] // 2
        return maps[:, :half] * torch.sigmoid(maps[:, half:])


def averaging(dimensions: int, settings: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    convolution, pooling = (nn.Conv1d, nn.AvgPool1d) if dimensions == 1 else (nn.Conv2d, nn.AvgPool2d)
    layers = convolution(3, 8, 3, padding=1), nn.LeakyReLU(0.1), pooling(**settings), Gate(), convolution(4, 4, 1)
    return nn.Sequential(*layers).eval(), torch.randn(16, 3, *(12, 11)[-dimensions:])


@pytest.mark.parametrize("name", [case("onnxruntime"), case("openvino")])
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("kind", AVERAGES)
def test_averages_are_those_of_the_network(kind: str, dimensions: int, name: str, tmp_path: Path):
    suffix = {"onnxruntime": ".onnx", "openvino": ".xml"}[name]
    model, inputs = averaging(dimensions, AVERAGES[kind])
    for form in (model, quantize(model, inputs)):
        with torch.no_grad():
            assert sqnr_db(form(inputs), load(export(form, tmp_path / f"model{suffix}", inputs[:2]))(inputs)) > 60


def test_a_padded_average_of_a_padded_map_is_an_output_with_its_name(tmp_path: Path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.AvgPool2d(3, 1, 1)
    model, images = nn.Sequential(*layers).eval(), torch.randn(16, 3, 9, 9)
    for form in (model, quantize(model, images)):
        path = export(form, tmp_path / "model.xml", images[:2])
        with torch.no_grad():
            assert sqnr_db(form(images), load(path)(images)) > 60
        assert [one.name for one in signature(path).outputs] == ["logits"]


def test_a_divisor_is_kept(tmp_path: Path):
    model, inputs = averaging(2, {"kernel_size": 2, "divisor_override": 3})
    with torch.no_grad():
        assert sqnr_db(model(inputs), load(export(model, tmp_path / "model.onnx", inputs[:2]))(inputs)) > 100
