"""Embedding tables of an ONNX graph as int8: rows are gathered as integers, and their scales with the same indices."""

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.runtimes.onnx_graph import initializers
from distiq.runtimes.onnx_plan import STANDARD, attributes_of, readers_of

LEAST = 4096  # values of a table that is worth three operations
SMALLEST = float(np.finfo(np.float32).eps)


def with_integer_tables(graph: GraphProto) -> None:
    """Stores the constants that are read row by row alone as int8 with a scale for each row, in place."""
    readers = readers_of(graph)
    for name, tensor in initializers(graph).items():
        own_readers = readers.get(name, [])
        is_table = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims) >= LEAST
        if is_table and own_readers and all(_reads_rows(node, name) for node in own_readers):
            _store(graph, tensor, own_readers)


def _reads_rows(node: NodeProto, name: str) -> bool:
    if node.op_type != "Gather" or node.domain not in STANDARD or node.input[0] != name:
        return False
    return not attributes_of(node).get("axis", 0)


def _store(graph: GraphProto, tensor: TensorProto, readers: list[NodeProto]) -> None:
    name, rows = tensor.name, numpy_helper.to_array(tensor)
    scale = np.maximum(np.abs(rows).max(1, keepdims=True) / 127, SMALLEST).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(np.rint(rows / scale).astype(np.int8), f"{name}/integers"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
    for reader in readers:
        result, numbers = reader.output[0], reader.input[1]
        parts = [f"{result}/{part}" for part in ("integers", "float", "scale")]
        nodes = [
            helper.make_node("Gather", [f"{name}/integers", numbers], [parts[0]], f"{reader.name}/integers"),
            helper.make_node("Cast", [parts[0]], [parts[1]], f"{reader.name}/float", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}/scale", numbers], [parts[2]], f"{reader.name}/scale"),
            helper.make_node("Mul", [parts[1], parts[2]], [result], reader.name),
        ]
        place = next(number for number, other in enumerate(graph.node) if other is reader)
        graph.node.remove(reader)
        for offset, node in enumerate(nodes):
            graph.node.insert(place + offset, node)
