"""An ONNX file of somebody else's is opened, or refused by name."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from distiq.errors import UserError
from distiq.models.onnx_file import every_node, open_onnx


def saved(path: Path, nodes: list, functions: tuple = ()) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions), str(path))
    return path


def branches(*inner: str) -> list:
    """An If, either branch of which holds these operations."""
    names = ["x", *(f"v{number}" for number in range(len(inner)))]
    nodes = [helper.make_node(kind, [names[n]], [names[n + 1]]) for n, kind in enumerate(inner)]
    result = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1])
    branch = helper.make_graph(nodes, "branch", [], [result])
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return [condition, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]


def test_functions_of_its_own_are_put_in_place(tmp_path: Path):
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    path = saved(tmp_path / "own.onnx", [helper.make_node("Twice", ["x"], ["y"], domain="own")], (twice,))
    assert [node.op_type for node in open_onnx(path).graph.node] == ["Add"]


def test_nodes_of_branches_are_among_its_nodes(tmp_path: Path):
    proto = open_onnx(saved(tmp_path / "branches.onnx", branches("Relu", "Neg")))
    assert [node.op_type for node in every_node(proto.graph)] == ["Constant", "If", "Relu", "Neg", "Relu", "Neg"]


def test_what_cannot_be_quantized_is_refused(tmp_path: Path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\xff" * 40)
    within = saved(tmp_path / "within.onnx", branches("Relu", "MatMulNBits"))
    empty = saved(tmp_path / "empty.onnx", [])
    for path, said in (
        (tmp_path / "none.onnx", "no such file"),
        (damaged, "damaged, or no ONNX file"),
        (empty, "holds no operations"),
        (within, r"is quantized already \(MatMulNBits\)"),
    ):
        with pytest.raises(UserError, match=said):
            open_onnx(path)
