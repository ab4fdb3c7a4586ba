"""export() and load() choose the runtime by the file's ending."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from distiq.errors import UserError
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import (
    RUNTIMES,
    _check_outputs,
    differences,
    export,
    files_of,
    load,
    refusal,
    require,
    runtime_named,
    runtime_of,
    size_bytes,
)
from distiq.runtimes.onnx_read import operation_counts
from distiq.runtimes.onnx_runtime import ONNX_RUNTIME
from distiq.runtimes.openvino import OPENVINO


@pytest.mark.parametrize("name", ["model.h5", "model.bin", "model"])
def test_an_unknown_ending_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"distiq writes and runs \.onnx, \.xml, .*, not"):
        runtime_of(tmp_path / name)
    with pytest.raises(UserError, match=name):
        export(torch.nn.Identity(), tmp_path / name, torch.zeros(2, 3))
    with pytest.raises(UserError, match=name):
        load(tmp_path / name)


def test_the_weights_beside_an_onnx_file_are_counted(tmp_path):
    path = export(torch.nn.Linear(64, 8).eval(), tmp_path / "whole.onnx", torch.zeros(2, 64))
    onnx.save(onnx.load(str(path)), str(tmp_path / "parts.onnx"), save_as_external_data=True, location="parts.data")
    assert files_of(tmp_path / "parts.onnx") == (tmp_path / "parts.onnx", tmp_path / "parts.data")
    assert size_bytes(tmp_path / "parts.onnx") > 64 * 8 * 4 > (tmp_path / "parts.onnx").stat().st_size


def test_every_suffix_and_every_name_is_of_one_runtime():
    assert [runtime_of(Path(f"model{runtime.suffix}")) for runtime in RUNTIMES] == list(RUNTIMES)
    assert [runtime_named(runtime.name) for runtime in RUNTIMES] == list(RUNTIMES)


@pytest.mark.parametrize("scheme", [Scheme(activation_bits=4), Scheme(activation_bits=4, wide_modules=("0",))], ids=str)
def test_activations_of_4_bits_are_simulated_alone(scheme: Scheme, tmp_path: Path):
    for runtime in RUNTIMES:
        assert "nearest: activation_bits = 8" in refusal(runtime, "static", 4, 0)
    quantized = quantize(torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), torch.randn(8, 3), scheme)
    with pytest.raises(UserError, match=r"model\.onnx: no runtime computes activations of 4 bits"):
        export(quantized, tmp_path / "model.onnx", torch.zeros(2, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_is_not_installed_is_refused_with_the_line_that_installs_it():
    absent = replace(OPENVINO, packages=("no_such_runtime",), install="no-such-runtime==1.0")
    with pytest.raises(UserError, match=r"OpenVINO is not installed here \(no_such_runtime\): pip install no-such-ru"):
        require(absent)
    require(ONNX_RUNTIME)


def test_a_model_s_size_is_that_of_all_its_files(tmp_path: Path):
    for name, content in (("model.xml", b"12"), ("model.bin", b"345"), ("model.onnx", b"6")):
        (tmp_path / name).write_bytes(content)
    assert size_bytes(tmp_path / "model.xml") == 5
    assert size_bytes(tmp_path / "model.onnx") == 1
    assert files_of(tmp_path / "model.xml")[0] == tmp_path / "model.xml"


def test_a_file_of_another_graph_is_told_from_the_graph_s(tmp_path: Path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    inputs = torch.randn(32, 6)
    quantized = quantize(model, inputs, Scheme())
    path = export(quantized, tmp_path / "model.onnx", inputs)
    assert differences(quantized, path) == ""
    assert "quantizes no activation so" in differences(quantize(model, 3 * inputs, Scheme()), path)
    with torch.no_grad():
        model[0].weight[0] *= -1
    assert "integer weights are not the graph's" in differences(quantize(model, inputs, Scheme()), path)


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


@pytest.mark.parametrize(("outputs", "said"), [(8, r"gives other outputs than the network \("), (5, "fails on the")])
def test_a_file_that_answers_otherwise_than_its_network_is_refused(outputs: int, said: str, tmp_path: Path):
    """As OpenVINO's file of a Fourier transform does: tests/contracts/test_architectures.py, fnet."""
    rows = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    path = export(torch.nn.Linear(6, 8).eval(), tmp_path / "model.onnx", rows)
    with pytest.raises(UserError, match=f"ONNX Runtime {said}.*; take another runtime"):
        _check_outputs(torch.nn.Linear(6, outputs).eval(), rows, path)
    assert list(tmp_path.iterdir()) == []
