"""Pairs in a graph of somebody else's: integer kernels, values by hand, old opsets."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distiq.errors import UserError
from distiq.runtimes.onnx_plan import plan
from distiq.runtimes.onnx_qdq import (
    Parameters,
    Weight,
    open_graph,
    parameters_of,
    quantized_graph,
    with_outputs,
)
from distiq.runtimes.onnx_read import operations


def gemm(opset: int = 13, ir_version: int = 8) -> ModelProto:
    weight = np.array([[1.0, -0.5], [0.25, 2.0]], np.float32)
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])] for name in "xy"]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    held = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1.0, -1.0], np.float32), "b")]
    graph = helper.make_graph(nodes, "graph", *ends, held)
    if ir_version < 4:
        graph.input.extend(helper.make_tensor_value_info(one.name, TensorProto.FLOAT, one.dims) for one in held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(("opset", "ir_version"), [(7, 3), (9, 4), (11, 6), (13, 8), (17, 8), (20, 9), (23, 11)])
def test_integers_compute_what_they_stand_for_at_every_opset(opset: int, ir_version: int, tmp_path: Path):
    onnx.save(gemm(opset, ir_version), tmp_path / "net.onnx")
    model = open_graph(tmp_path / "net.onnx", ["x"], tmp_path)
    planned = plan(model.graph)
    weight = Weight(np.array([[4, -2], [1, 8]], np.int8), np.array([0.25, 0.25]), np.array([1.0, -1.0]))
    written = quantized_graph(
        model, planned, dict.fromkeys(planned.groups(), Parameters(0.5, 4)), {planned.layers[0].name: weight}
    )
    x = np.array([[1.0, 0.5], [-1.5, 100.0]], np.float32)  # 100 is beyond the range: (255 - 4) / 2 = 125.5 is not
    exact = np.maximum(x @ np.array([[1.0, -0.5], [0.25, 2.0]]) + [1.0, -1.0], 0)
    np.testing.assert_array_equal(run(written, x), exact)
    (tmp_path / "int8.onnx").write_bytes(written.SerializeToString())
    assert operations(tmp_path / "int8.onnx")["QGemm"] == {"int8": 1}


@pytest.mark.parametrize("opset", [7, 9, 10, 12])
def test_convolutions_of_old_opsets_compute_with_integers(opset: int, tmp_path: Path):
    """ONNX Runtime has no integer convolution before opset 10, and rounds no bias before 11."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2, 1, 1])] for name in "xy"]
    weight = np.array([[1.0, 0.25], [-0.5, 2.0]], np.float32).reshape(2, 2, 1, 1)
    held = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1.0, -1.0], np.float32), "b")]
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["a"]), helper.make_node("Clip", ["a"], ["y"], min=0.0, max=6.0)]
    if opset > 10:
        nodes[1] = helper.make_node("Clip", ["a", "low", "high"], ["y"])
        held += [numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0), ("high", 6))]
    graph = helper.make_graph(nodes, "graph", *ends, held)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.save(whole, tmp_path / "net.onnx")
    model = open_graph(tmp_path / "net.onnx", ["x"], tmp_path)
    planned = plan(model.graph)
    integers = np.array([[4, 1], [-2, 8]], np.int8).reshape(2, 2, 1, 1)
    weights = {planned.layers[0].name: Weight(integers, np.array([0.25, 0.25]), np.array([1.0, -1.0]))}
    written = quantized_graph(model, planned, {"x": Parameters(0.5, 4), "y": Parameters(2**-6, 0)}, weights)
    x = np.array([[1.0, 0.5], [-1.5, 2.0]], np.float32).reshape(2, 2, 1, 1)
    exact = np.maximum(weight.reshape(2, 2) @ x.reshape(2, 2).T + [[1.0], [-1.0]], 0).T  # a multiple of 2^-6, below 4
    np.testing.assert_array_equal(run(written, x).reshape(2, 2), exact)
    (tmp_path / "int8.onnx").write_bytes(written.SerializeToString())
    assert operations(tmp_path / "int8.onnx")["QLinearConv"] == {"int8": 1}


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_old_upsampling_keeps_its_places(mode: str, tmp_path: Path):
    """Before opset 11 sample i of a doubled row lies at i / 2, in later ones by default at i / 2 - 1 / 4."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, None])] for name in "xy"]
    held = [numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")]
    graph = helper.make_graph([helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)], "graph", *ends, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=7), tmp_path / "net.onnx")
    model = open_graph(tmp_path / "net.onnx", ["x"], tmp_path)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [13]
    assert not any(size.dim_param for size in model.graph.output[0].type.tensor_type.shape.dim)  # as the file says it
    found = run(model, np.array([0.0, 2.0, 8.0], np.float32).reshape(1, 1, 1, 3)).ravel().tolist()
    assert found == ([0, 0, 2, 2, 8, 8] if mode == "nearest" else [0, 1, 2, 5, 8, 8])


def test_parameters_hold_zero_exactly():
    assert parameters_of(-1.0, 254.0) == Parameters(1.0, 1)
    assert parameters_of(2.0, 255.0) == Parameters(1.0, 0)


def test_a_part_computes_no_more_than_it_gives():
    part = with_outputs(gemm(), ["a"])
    assert Counter(node.op_type for node in part.graph.node) == {"Gemm": 1}
    assert run(part, np.zeros((1, 2), np.float32)).tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(("name", "message"), [("none.onnx", "no such file"), ("bad.onnx", "damaged, or no ONNX file")])
def test_files_that_are_none_are_refused(name: str, message: str, tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match=message):
        open_graph(tmp_path / name, ["x"], tmp_path)


def test_what_is_quantized_already_is_refused(tmp_path: Path):
    onnx.save(gemm(), tmp_path / "float.onnx")
    model = open_graph(tmp_path / "float.onnx", ["x"], tmp_path)
    planned = plan(model.graph)
    quantized = quantized_graph(model, planned, dict.fromkeys(planned.groups(), Parameters(1.0, 0)), {})
    onnx.save(quantized, tmp_path / "net.onnx")
    with pytest.raises(UserError, match="is quantized already"):
        open_graph(tmp_path / "net.onnx", ["x"], tmp_path)
