"""An ONNX graph: its constants, the readers of each value, what nothing reads, its opset."""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

Q, DQ, DYNAMIC_Q = "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def value_of(constants: dict[str, TensorProto], name: str) -> np.ndarray | None:
    return numpy_helper.to_array(constants[name]) if name in constants else None


def consumers_of(graph: GraphProto) -> dict[str, list[NodeProto]]:
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return consumers


NARROW_OPSET = 21  # the first with INT4, and with activations of 16 bits


def raise_opset(proto: ModelProto) -> None:
    """Raises the opset of standard operations to NARROW_OPSET, unless it is higher already."""
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, NARROW_OPSET)


def drop_dead_ends(graph: GraphProto) -> None:
    """Removes nodes and constants that nothing reads."""
    outputs = {output.name for output in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        dead = [node for node in graph.node if not any(name in read for name in node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in read:
            graph.initializer.remove(tensor)
