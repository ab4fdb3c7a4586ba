"""plan(): which layers multiply integers in a graph of any operations, and where values share their parameters."""

import numpy as np
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.runtimes.onnx_plan import observed, plan

RNG = np.random.default_rng(0)


def graph_of(nodes: list[NodeProto], output: str = "y", **constants: tuple[int, ...]) -> GraphProto:
    """A graph from x to one output, whose nodes are called after what they give."""
    for node in nodes:
        node.name = node.output[0]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in ("x", output)]
    held = [
        numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)
        for name, shape in constants.items()
    ]
    return helper.make_graph(nodes, "graph", *ends, held)


def node(kind: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def test_an_activation_is_fused_and_a_residual_is_added_in_integers():
    graph = graph_of(
        [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b w", "c"), node("Add", "b c", "d"),
         node("Conv", "d w", "y")],
        w=(4, 4, 1, 1),
    )  # fmt: skip
    planned = plan(graph)
    assert [layer.output for layer in planned.layers] == ["b", "c", "y"]
    assert planned.shared == {name: name for name in ("x", "b", "c", "d", "y")}
    assert planned.integer == {"a", "c", "d", "y"}


@pytest.mark.parametrize("counted", [0, 1])
def test_averages_that_count_what_is_beyond_the_edge_stay_float32(counted: int):
    pool = node("AveragePool", "a", "b", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=counted)
    graph = graph_of([node("Conv", "x w", "a"), pool, node("Conv", "b w", "y")], w=(4, 4, 1, 1))
    assert ("b" in plan(graph).integer) == (not counted)


def test_what_stands_behind_the_last_layer_computes_in_float32():
    graph = graph_of(
        [node("Conv", "x w", "a"), node("Sigmoid", "a", "b"), node("Mul", "b f", "y")], w=(4, 4, 1, 1), f=(1,)
    )
    assert plan(graph).shared == {"x": "x", "a": "a"}


def test_moved_values_share_their_parameters_and_need_not_be_observed():
    graph = graph_of(
        [node("Conv", "x w", "a"), node("Transpose", "a", "b"), node("Flatten", "b", "c"), node("Gemm", "c v", "y")],
        w=(4, 4, 1, 1), v=(4, 2),
    )  # fmt: skip
    planned = plan(graph)
    assert (planned.shared["b"], planned.shared["c"]) == ("a", "a")
    assert observed(graph, planned) == ["x", "a"]


def test_parts_of_a_concatenation_share_their_parameters_unless_they_are_kept_apart():
    nodes = [node("Conv", "x w", "a"), node("Conv", "x v", "b"), node("Concat", "a b", "c", axis=1),
             node("Mul", "c f", "d"), node("Conv", "d u", "y")]  # fmt: skip
    graph = graph_of(nodes, w=(4, 4, 1, 1), v=(4, 4, 1, 1), u=(2, 8, 1, 1), f=(1,))
    planned = plan(graph)
    assert {planned.shared[name] for name in ("a", "b", "c")} == {"c"}
    assert [joint.name for joint in planned.joints] == ["c"]
    apart = plan(graph, apart=["c"]).shared
    assert (apart["a"], apart["b"], "c" in apart, "d" in apart) == ("a", "b", False, True)


@pytest.mark.parametrize(
    "unknown", [node("If", "x", "y"), node("Bend", "x", "y", domain="own"), node("LSTM", "x w w", "y")]
)
def test_operations_without_an_integer_kernel_have_no_pairs(unknown: NodeProto):
    assert plan(graph_of([unknown], w=(4, 4))) == ((), {}, frozenset(), ())


@pytest.mark.parametrize(
    ("kind", "attributes", "bias", "is_layer"),
    [
        ("Gemm", {"transB": 1}, (4,), True),
        ("Gemm", {}, (1, 4), True),
        ("Gemm", {"alpha": 2.0}, (4,), False),
        ("Gemm", {"transA": 1}, (4,), False),
        ("Gemm", {}, (4, 4), False),
    ],
)
def test_a_gemm_is_a_layer_where_its_bias_is_a_vector(kind: str, attributes: dict, bias: tuple, is_layer: bool):
    graph = graph_of([node(kind, "x w b", "y", **attributes)], w=(4, 4), b=bias)
    assert bool(plan(graph).layers) == is_layer


def test_a_layer_stays_in_float32_where_it_is_asked_for_or_has_no_range():
    graph = graph_of([node("Conv", "x w", "a"), node("Conv", "a w", "y")], w=(4, 4, 1, 1))
    assert [layer.name for layer in plan(graph, without=["a"]).layers] == ["y"]
    assert [layer.name for layer in plan(graph, unbounded=["a"]).layers] == []
