"""Opening a float32 ONNX file that somebody else wrote, and the graphs within it."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto

from distiq.errors import UserError, first_line

QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
             "ConvInteger", "MatMulInteger", "MatMulNBits"}  # fmt: skip


def open_onnx(path: Path) -> ModelProto:
    """The file's model; functions of its own are put in the place of their calls.

    Raises:
        UserError: the file is missing, damaged, empty or quantized already, in a branch of an If, too.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        proto = onnx.load(str(path))
        proto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # protobuf's and onnx's kinds share no base
        raise UserError(f"{path}: damaged, or no ONNX file ({first_line(error)}); copy it again") from error
    if not proto.graph.node:
        raise UserError(f"{path}: holds no operations, or is no ONNX file")
    if quantized := sorted({node.op_type for node in every_node(proto.graph)} & QUANTIZED):
        raise UserError(
            f"{path}: is quantized already ({', '.join(quantized)}); give the float32 file that it was made from"
        )
    return proto


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs within them."""
    for node in graph.node:
        yield node
        for inner in subgraphs_of(node):
            yield from every_node(inner)


def subgraphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node's attributes hold, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
