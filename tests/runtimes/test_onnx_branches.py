"""Branches of `If`: their values get names of their own, can be observed from outside, and their layers become int8."""

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from distiq.commands.calibrate_graph import calibrate
from distiq.data.calls import Calls, Column
from distiq.quantization.scheme import Scheme
from distiq.runtimes.onnx_half import round_to_halves
from distiq.runtimes.onnx_plan import plan
from distiq.runtimes.onnx_qdq import open_graph, values_of
from distiq.runtimes.onnx_read import float_operations
from distiq.runtimes.onnx_session import open_session

SIZE = 40
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, SIZE)).astype(np.float32)


def branch(factor: float, level: str = "", inside: GraphProto | None = None) -> GraphProto:
    """tanh(a w) w, and an `If` of the next level behind; the branches of one level call their values alike."""
    weight = factor * RNG.standard_normal((SIZE, SIZE)) / np.sqrt(SIZE)
    w, b, c, d, e = (f"{name}{level}" for name in "wbcde")
    nodes = [
        helper.make_node("Constant", [], [w], value=numpy_helper.from_array(weight.astype(np.float32))),
        helper.make_node("MatMul", ["d" if level else "a", w], [b]),
        helper.make_node("Tanh", [b], [c]),
        helper.make_node("MatMul", [c, w], [d]),
    ]
    if inside is not None:
        nodes.append(helper.make_node("If", ["flag"], [e], "inner", then_branch=inside, else_branch=branch(3.0, "_")))
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [output])


@pytest.fixture
def model(tmp_path: Path) -> ModelProto:
    choice = helper.make_node(
        "If", ["flag"], ["y"], "If", then_branch=branch(1.0, inside=branch(2.0, "_")), else_branch=branch(1.0)
    )
    nodes = [helper.make_node("Abs", ["x"], ["a"]), choice]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE]),
              helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    return open_graph(tmp_path / "net.onnx", ["x", "flag"], tmp_path)


def run(model: ModelProto, flag: bool) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X, "flag": np.array(flag)})[0]


def test_values_are_seen_from_outside_where_their_branch_is_taken(model: ModelProto):
    sources = [layer.source for layer in plan(model.graph).layers]
    assert len(sources) == len(set(sources)) == 8  # four branches of two layers, each value under its own name
    (values,) = values_of(model, sources, iter([{"x": X, "flag": np.array(True)}]), 1)
    assert [one.size for one in values.values()].count(0) == 4  # of the two branches that were not taken
    (source,) = (name for name in sources if name.endswith("then_branch/a"))
    np.testing.assert_array_equal(values[source], np.abs(X))


def test_the_layers_of_the_branches_that_calibration_takes_become_int8(model: ModelProto):
    calls = Calls({"x": Column(X, 0, False), "flag": Column(np.array(True), None, False)}, tuple(range(6)), 1)
    found = calibrate(model, calls, Scheme(), "net")
    assert len(found.plan.layers) == 4
    written = found.written(found.plan)
    for flag in (True, False):
        exact, close = run(model, flag), run(written, flag)
        error = np.square(close - exact).sum() / np.square(exact).sum()
        assert error < 10**-2.5 if flag else error == 0  # 25 dB; the branch that was not taken stays as it was
    session = open_session(written.SerializeToString(), 1)
    assert [one.name for one in session.get_outputs()] == ["y"]


def test_weights_within_branches_are_stored_in_float16(model: ModelProto):
    half = copy.deepcopy(model)
    round_to_halves(half)
    assert half.ByteSize() < 0.6 * model.ByteSize()
    np.testing.assert_allclose(run(half, True), run(model, True), atol=0.02)


def test_what_branches_compute_in_float32_is_named(model: ModelProto, tmp_path: Path):
    onnx.save(model, tmp_path / "net.onnx")
    named = float_operations(tmp_path / "net.onnx")
    kinds = Counter(name.rpartition("(")[2] for name in named)
    assert kinds == {"Abs)": 1, "MatMul)": 8, "Tanh)": 4}  # of four branches; the `If`s compute nothing themselves


def test_a_constant_of_several_branches_is_stored_once(tmp_path: Path):
    """Exporters unroll `If` around an LSTM: each branch has the weights of its own."""
    weight = numpy_helper.from_array(RNG.standard_normal((SIZE, SIZE)).astype(np.float32), "w")
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    sides = [
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["b"]), helper.make_node(kind, ["b"], ["z"])], kind,
                          [], [output], [weight]) for kind in ("Tanh", "Sigmoid")
    ]  # fmt: skip
    choice = helper.make_node("If", ["flag"], ["y"], "If", then_branch=sides[0], else_branch=sides[1])
    ends = [[helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE]),
             helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]]  # fmt: skip
    whole = helper.make_model(helper.make_graph([choice], "graph", *ends), opset_imports=[helper.make_opsetid("", 17)],
                              ir_version=8)  # fmt: skip
    onnx.save(whole, tmp_path / "net.onnx")
    opened = open_graph(tmp_path / "net.onnx", ["x", "flag"], tmp_path)
    assert 4 * SIZE * SIZE < opened.ByteSize() < 1.2 * 4 * SIZE * SIZE
    for flag in (True, False):
        np.testing.assert_array_equal(run(opened, flag), run(whole, flag))
    columns = {"x": Column(np.tile(X, (2, 1)), 0, False), "flag": Column(np.repeat([True, False], 6), 0, True)}
    calls = Calls(columns, tuple(range(12)), 1)
    found = calibrate(opened, calls, Scheme(), "net")
    written = found.written(found.plan)
    assert written.ByteSize() < 4 * SIZE * SIZE  # the float32 weight is no longer there
    for flag in (True, False):
        exact, close = run(whole, flag), run(written, flag)
        assert np.square(close - exact).sum() < 10**-2.5 * np.square(exact).sum()
