"""Which values say the error of an output that chooses or joins them."""

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.commands.compare_calls import compared
from distiq.runtimes.onnx_origins import origins_of, with_origins
from distiq.runtimes.onnx_session import open_session

BOXES = np.array([[[300.0, 10.0], [20.0, 400.0], [0.0, 1.0]]], np.float32)
SCORES = np.array([[0.9, 0.901, 0.1]], np.float32)


def model(nodes: list[NodeProto], **outputs: int) -> ModelProto:
    inputs = [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 3, 2]),
              helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])]  # fmt: skip
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    held = [numpy_helper.from_array(np.array(value), name) for name, value in (("two", [2]), ("last", [-1]))]
    held += [numpy_helper.from_array(np.eye(size, dtype=np.float32), name) for name, size in (("w", 2), ("v", 3))]
    front = [helper.make_node("MatMul", ["boxes", "w"], ["b"]), helper.make_node("MatMul", ["scores", "v"], ["s"])]
    graph = helper.make_graph(front + nodes, "graph", inputs, given, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CHOOSING = [
    helper.make_node("TopK", ["s", "two"], ["best", "numbers"]),
    helper.make_node("Unsqueeze", ["numbers", "last"], ["rows"]),
    helper.make_node("GatherND", ["b", "rows"], ["kept"], batch_dims=1),
    helper.make_node("ArgMax", ["s"], ["label"], axis=1),
]


def test_what_is_chosen_is_compared_by_what_it_is_chosen_from():
    whole = model(CHOOSING, kept=TensorProto.FLOAT, best=TensorProto.FLOAT, label=TensorProto.INT64)
    origins = origins_of(whole)
    assert {name: set(of) for name, of in origins.chosen.items()} == {
        "kept": {"b", "s"}, "best": {"s"}, "label": {"s"}
    }  # fmt: skip
    assert origins.joined == {} and origins.ranked == {"kept", "best"}
    session = open_session(with_origins(whole, origins).SerializeToString(), 1)
    other = BOXES.copy()
    other[0, 2, 1] += 5  # a box that is not kept
    swapped = SCORES + np.array([[0.002, 0, 0]], np.float32)  # the first is now the best: rows change places
    calls = iter([{"boxes": BOXES, "scores": SCORES}, {"boxes": other, "scores": swapped}])

    class Next:
        get_outputs, run = session.get_outputs, staticmethod(lambda names, _: session.run(names, next(calls)))

    found = compared(Next, Next, [{}], origins)
    noise = 10 * np.log10(np.square(SCORES).sum() / 0.002**2)
    np.testing.assert_allclose([found.sqnr_db[name] for name in ("best", "label")], noise, atol=0.01)
    np.testing.assert_allclose(found.sqnr_db["kept"], 10 * np.log10(np.square(BOXES).sum() / 25), atol=0.01)
    assert found.agreement == {"label": 0.0}


def test_a_choice_among_values_that_no_layer_makes_is_exact():
    """As exporters sort the lengths of sequences."""
    nodes = [helper.make_node("TopK", ["scores", "two"], ["best", "numbers"]),
             helper.make_node("GatherND", ["b", "rows"], ["y"], batch_dims=1),
             helper.make_node("Unsqueeze", ["numbers", "last"], ["rows"])]  # fmt: skip
    assert origins_of(model([nodes[0], nodes[2], nodes[1]], y=TensorProto.FLOAT)).chosen == {}


def test_what_is_joined_is_compared_part_by_part():
    nodes = [
        helper.make_node("Unsqueeze", ["s", "last"], ["column"]),
        helper.make_node("Concat", ["b", "column"], ["both"], axis=2),
        helper.make_node("Transpose", ["both"], ["map"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["map", "map"], ["turned"], axis=2),  # as of two scales
    ]
    whole = model(nodes, turned=TensorProto.FLOAT)
    origins = origins_of(whole)
    assert origins.joined == {"turned": ("b", "column")} and origins.more == ("b", "column")
    exact, other = (
        {"turned": np.array([[300.0, score]]), "b": np.array([300.0]), "column": np.array([score])}
        for score in (1.0, 0.9)
    )
    outputs = [SimpleNamespace(name=name) for name in exact]
    sessions = [
        SimpleNamespace(get_outputs=lambda: outputs, run=lambda *_, given=given: list(given.values()))
        for given in (exact, other)
    ]
    found = compared(*sessions, [{}], origins)
    assert found.sqnr_db == pytest.approx({"turned": 10 * np.log10(90001 / 0.01)})
    assert found.hidden == {"turned": ("column", pytest.approx(20.0))}


def test_what_is_joined_in_float32_and_given_in_float16_is_compared_part_by_part():
    nodes = [
        helper.make_node("Unsqueeze", ["s", "last"], ["column"]),
        helper.make_node("Concat", ["b", "column"], ["both"], axis=2),
        helper.make_node("Cast", ["both"], ["half"], to=TensorProto.FLOAT16),
    ]
    assert origins_of(model(nodes, half=TensorProto.FLOAT16)).joined == {"half": ("b", "column")}


def test_plain_outputs_are_compared_themselves():
    whole = model([helper.make_node("Neg", ["s"], ["y"])], y=TensorProto.FLOAT)
    assert origins_of(whole).more == () and with_origins(whole, origins_of(whole)) is whole
