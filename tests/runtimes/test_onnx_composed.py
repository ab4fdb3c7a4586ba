"""with_hard_swish(): every way to write it computes what it did, and is one gate and one product afterwards."""

from collections import Counter

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from distiq.runtimes.onnx_composed import with_hard_swish

ADD, CLIP = helper.make_node("Add", ["x", "three"], ["a"]), helper.make_node("Clip", ["a", "zero", "six"], ["b"])
VALUES = {"zero": 0, "one": 1, "three": 3, "six": 6, "sixth": 1 / 6}


@pytest.mark.parametrize(
    ("nodes", "written"),
    [
        ([ADD, CLIP, helper.make_node("Mul", ["x", "b"], ["c"]), helper.make_node("Div", ["c", "six"], ["y"])],
         {"HardSigmoid": 1, "Mul": 1}),
        ([ADD, CLIP, helper.make_node("Mul", ["b", "sixth"], ["c"]), helper.make_node("Mul", ["c", "x"], ["y"])],
         {"HardSigmoid": 1, "Mul": 1}),
        ([ADD, CLIP, helper.make_node("Div", ["b", "six"], ["y"])], {"HardSigmoid": 1}),
        ([helper.make_node("Add", ["x", "one"], ["a"]), CLIP, helper.make_node("Div", ["b", "six"], ["y"])],
         {"Add": 1, "Clip": 1, "Div": 1}),
    ],
)  # fmt: skip
def test_it_computes_the_same(nodes: list[NodeProto], written: dict[str, int]):
    held = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in VALUES.items()]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None])] for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "graph", *ends, held))
    x = np.linspace(-5, 5, 21, dtype=np.float32)
    (before,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert with_hard_swish(model.graph) == (written.get("HardSigmoid", 0))
    assert Counter(node.op_type for node in model.graph.node) == written
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], before, atol=1e-6)
