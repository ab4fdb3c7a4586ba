"""export() and load() choose the runtime by the file's ending."""

from pathlib import Path

import pytest
import torch

from distiq.errors import UserError
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import RUNTIMES, check_ending, export, load
from distiq.runtimes.onnx_runtime import operation_counts


@pytest.mark.parametrize("name", ["model.tflite", "model.bin", "model"])
def test_an_unknown_ending_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"distiq writes and runs \.onnx, not"):
        check_ending(tmp_path / name)
    with pytest.raises(UserError, match=name):
        export(torch.nn.Identity(), tmp_path / name, torch.zeros(2, 3))
    with pytest.raises(UserError, match=name):
        load(tmp_path / name)


def test_every_known_ending_passes(tmp_path: Path):
    for ending in RUNTIMES:
        check_ending(tmp_path / f"model{ending}")


def test_one_example_is_enough_and_a_string_is_a_path(tmp_path: Path):
    model = torch.nn.Linear(3, 2).eval()
    path = export(model, str(tmp_path / "model.onnx"), torch.randn(1, 3))
    inputs = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(load(str(path))(inputs), model(inputs))


def test_a_quantized_model_is_not_changed(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    inputs = torch.randn(8, 1, 8, 8)
    quantized = quantize(model, inputs)
    with torch.no_grad():
        before = quantized(inputs)
        export(quantized, tmp_path / "model.onnx", inputs)
        assert torch.equal(quantized(inputs), before)


def test_the_layout_in_memory_leaves_no_trace_in_the_file(tmp_path: Path):
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(4, 2))
    inputs = torch.randn(8, 1, 8, 8)
    expected = [operation_counts(export(one, tmp_path / "a.onnx", inputs)) for one in (model, quantize(model, inputs))]
    model.to(memory_format=torch.channels_last)
    strided = inputs.to(memory_format=torch.channels_last)
    found = [operation_counts(export(one, tmp_path / "b.onnx", strided)) for one in (model, quantize(model, strided))]
    assert found == expected


def test_a_network_in_training_mode_is_exported_for_inference(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.9), torch.nn.BatchNorm1d(4)).train()
    path = export(model, tmp_path / "model.onnx", torch.randn(2, 4))
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(load(path)(torch.ones(1, 4)), model.eval()(torch.ones(1, 4)))
