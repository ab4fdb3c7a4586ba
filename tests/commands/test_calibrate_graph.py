"""calibrate(): ranges of what is quantized, integers of weights, and what has no range."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distiq.commands.calibrate_graph import calibrate, nearest
from distiq.data.calls import Calls, Column
from distiq.errors import UserError
from distiq.quantization.scheme import Scheme
from distiq.runtimes.onnx_plan import Layer, plan

MINMAX = Scheme(ranges="minmax")


def model_of(*nodes: tuple[str, list[str], str], **constants: np.ndarray) -> ModelProto:
    made = [helper.make_node(kind, inputs, [output], output) for kind, inputs, output in nodes]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in ("x", made[-1].output[0])]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(made, "graph", *ends, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def calls_of(x: np.ndarray) -> Calls:
    return Calls({"x": Column(x.astype(np.float32), 0, apart=False)}, tuple(range(len(x))), 1)


def test_ranges_are_those_of_all_calls():
    model = model_of(("MatMul", ["x", "w"], "a"), ("Relu", ["a"], "b"), ("MatMul", ["b", "w"], "y"), w=np.eye(2))
    found = calibrate(model, calls_of(np.array([[-2.0, 1.0], [0.5, 3.0]])), MINMAX, "net")
    assert found.ranges == {"x": (-2.0, 3.0), "b": (0.0, 3.0)}
    assert found.activations(found.plan)["b"].scale == pytest.approx(3 / 255)
    assert found.weights["a"].integers.tolist() == [[127, 0], [0, 127]]


def test_parts_of_unlike_range_are_not_joined():
    nodes = [("MatMul", ["x", "w"], "a"), ("MatMul", ["x", "v"], "b"), ("Concat", ["a", "b"], "c"),
             ("Mul", ["c", "w"], "d"), ("MatMul", ["d", "w"], "y")]  # fmt: skip
    found = {}
    for factor in (1, 300):
        model = model_of(*nodes, w=np.eye(2), v=factor * np.eye(2))
        model.graph.node[2].attribute.append(helper.make_attribute("axis", 0))
        found[factor] = calibrate(model, calls_of(np.array([[1.0, 2.0], [3.0, 4.0]])), MINMAX, "net").apart
    assert found == {1: (), 300: ("c",)}


def test_a_layer_that_reads_infinite_values_stays_in_float32():
    model = model_of(("MatMul", ["x", "w"], "a"), ("Log", ["a"], "b"), ("MatMul", ["b", "w"], "y"), w=np.eye(2))
    found = calibrate(model, calls_of(np.array([[0.0, 1.0], [1.0, 1.0]])), MINMAX, "net")
    assert [layer.name for layer in found.plan.layers] == ["a"]


def test_a_graph_without_a_layer_is_refused():
    with pytest.raises(UserError, match="net: has no Conv, Gemm or MatMul whose weights are float32 constants"):
        calibrate(model_of(("Relu", ["x"], "y")), calls_of(np.ones((1, 2))), MINMAX, "net")


def test_the_bias_of_a_channel_without_weights_fits_into_its_integers():
    graph = model_of(("Gemm", ["x", "w", "b"], "y"), w=np.array([[1.0, 0.0]]), b=np.array([1.0, 5.0])).graph
    (layer,) = plan(graph).layers
    assert isinstance(layer, Layer)
    weight = nearest(layer, np.array([[1.0, 0.0]]), np.array([1.0, 5.0]), 1e-3)
    assert weight.scale.tolist() == pytest.approx([1 / 127, max(np.finfo(np.float32).eps, 5 / (1e-3 * 2**30))])
    assert np.all(np.abs(weight.bias / (weight.scale * 1e-3)) <= 2**30)
