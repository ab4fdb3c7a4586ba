"""with_integer_tables(): rows come back to within half a step of each row's own scale."""

import numpy as np
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from distiq.runtimes.onnx_tables import with_integer_tables

TABLE = np.random.default_rng(0).standard_normal((128, 32)).astype(np.float32) * np.logspace(-3, 3, 128)[:, None]
TABLE[5] = 0


def graph_of(*nodes: NodeProto) -> GraphProto:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    return helper.make_graph(
        list(nodes), "graph", inputs, outputs, [numpy_helper.from_array(TABLE.astype("f4"), "table")]
    )


def test_each_row_has_a_scale():
    graph = graph_of(
        helper.make_node("Gather", ["table", "ids"], ["y"]), helper.make_node("Gather", ["table", "ids"], ["z"])
    )
    with_integer_tables(graph)
    ids = np.arange(128).reshape(8, 16)
    results = ReferenceEvaluator(helper.make_model(graph)).run(None, {"ids": ids})
    half_a_step = np.abs(TABLE).max(1) / 127 / 2
    for rows in results:
        assert np.all(np.abs(rows.reshape(TABLE.shape) - TABLE).max(1) <= half_a_step * 1.001)
    assert sum(numpy_helper.to_array(one).nbytes for one in graph.initializer) == 128 * 32 + 128 * 4


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Gather", ["table", "ids"], ["y"], axis=1)],
        [helper.make_node("Gather", ["table", "ids"], ["y"]), helper.make_node("Relu", ["table"], ["z"])],
    ],
)
def test_what_is_read_otherwise_stays(nodes: list[NodeProto]):
    graph = graph_of(*nodes)
    before = graph.SerializeToString()
    with_integer_tables(graph)
    assert graph.SerializeToString() == before
