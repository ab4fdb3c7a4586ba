"""Graphs of other floating-point types become graphs of float32; inputs and outputs keep their types."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distiq.commands.quantize_file import quantize_file
from distiq.data.inputs import Preparation
from distiq.quantization.scheme import Scheme
from distiq.runtimes.onnx_floats import with_floats
from distiq.runtimes.onnx_session import open_session

SIZE = 32
RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((SIZE, SIZE)) / np.sqrt(SIZE)).astype(np.float32)


def network(kind: str) -> ModelProto:
    """y = 2 relu(x w) w, with a branch that captures the input, and a float32 part in the middle."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    held = [numpy_helper.from_array(WEIGHT.astype(kind), "w")]
    result = helper.make_tensor_value_info("doubled", number, None)
    inner = helper.make_graph([helper.make_node("Add", ["x", "x"], ["doubled"])], "branch", [], [result])
    nodes = [
        helper.make_node("If", ["flag"], ["x2"], then_branch=inner, else_branch=inner),
        helper.make_node("MatMul", ["x2", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=number),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", number, ["n", SIZE]),
              helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]  # fmt: skip
    graph = helper.make_graph(nodes, "graph", inputs, [helper.make_tensor_value_info("y", number, ["n", SIZE])], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_it_computes_the_same_in_float32(kind: str):
    before, after = network(kind), network(kind)
    with_floats(after)
    assert {tensor.data_type for tensor in after.graph.initializer} == {TensorProto.FLOAT}
    x = RNG.standard_normal((8, SIZE)).astype(kind)
    first, second = (
        open_session(one.SerializeToString(), 1).run(None, {"x": x, "flag": np.array(True)})[0]
        for one in (before, after)
    )
    assert second.dtype == kind
    np.testing.assert_allclose(second.astype("f8"), first.astype("f8"), atol=0.02)


def test_a_file_of_halves_becomes_an_integer_file(tmp_path: Path):
    onnx.save(network("float16"), tmp_path / "net.onnx")
    x = RNG.standard_normal((64, SIZE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, flag=np.array(True))
    out = tmp_path / "out.onnx"
    how = Scheme(), Preparation()
    record = quantize_file(tmp_path / "net.onnx", tmp_path / "data.npz", out, *how, rounds=1, seconds=0.002)
    assert record.delivered == "int8" and record.sqnr_db > 30
    (given,), exact = open_session(out, 1).run(None, {"x": x.astype("f2"), "flag": np.array(True)}), x.astype("f8")
    expected = np.maximum(2 * exact @ WEIGHT, 0) @ WEIGHT
    assert given.dtype == np.float16
    assert 10 * np.log10(np.square(expected).sum() / np.square(given - expected).sum()) > 30
