"""Reading an ONNX graph: its constants, and the readers of each value."""

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

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
