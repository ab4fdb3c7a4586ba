"""Operations that only move values, or clip them, on integers: between Q and DQ ONNX Runtime would do it in float32."""

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from distiq.runtimes.onnx_graph import DQ, Q, consumers_of, initializers, value_of

MOVES = {"Slice", "Split", "Tile", "ReduceMax", "DepthToSpace", "SpaceToDepth", "Pad", "Relu", "Clip"}
"""Those whose pairs ONNX Runtime does not take away by itself, and that have a kernel for uint8."""


def move_integers(graph: GraphProto) -> None:
    """Removes the pairs around such operations, in place, where both have the same quantization parameters."""
    constants = initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    outputs = {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type in MOVES]:
        source, consumers = producers.get(node.input[0]), consumers_of(graph)
        behind = [user for name in node.output for user in consumers.get(name, [])]
        if source is None or source.op_type != DQ or source.input[0] in constants or not behind:
            continue
        same = all(user.op_type == Q and list(user.input[1:]) == list(source.input[1:]) for user in behind)
        if not same or outputs.intersection(node.output):
            continue
        if not _on_integers(graph, node, source):
            continue
        node.input[0] = source.input[0]
        for quantize in behind:
            for user in consumers.get(quantize.output[0], []):
                user.input[:] = [quantize.input[0] if name == quantize.output[0] else name for name in user.input]
            graph.node.remove(quantize)


def _on_integers(graph: GraphProto, node: NodeProto, source: NodeProto) -> bool:
    """Puts a node's constants, limits of a clip and what is padded with, among the integers; False where it cannot."""
    constants = initializers(graph)
    scale, zero_point = value_of(constants, source.input[1]), value_of(constants, source.input[2])
    assert scale is not None
    assert zero_point is not None
    limits = np.iinfo(zero_point.dtype)

    def integer(value: np.ndarray, name: str) -> str:
        steps = np.clip(np.rint(value / scale) + zero_point, limits.min, limits.max).astype(zero_point.dtype)
        graph.initializer.append(numpy_helper.from_array(steps.reshape(()), name))
        return name

    prefix = f"{node.output[0]}_integer"
    if node.op_type == "Relu":
        node.op_type = "Clip"
        node.input.append(integer(np.zeros(()), f"{prefix}_0"))
    elif node.op_type == "Clip":
        bounds = [value_of(constants, name) if name else None for name in node.input[1:]]
        if any(bound is None and name for bound, name in zip(bounds, node.input[1:], strict=True)):
            return False
        names = ["" if bound is None else integer(bound, f"{prefix}_{place}") for place, bound in enumerate(bounds)]
        node.input[1:] = names
    elif node.op_type == "Pad":
        modes = [helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "mode"]
        given = node.input[2] if len(node.input) > 2 else ""
        value = value_of(constants, given) if given else np.zeros(())
        if value is None:
            return False
        if modes in ([], [b"constant"]):
            rest = list(node.input[3:])
            node.input[2:] = [integer(value, f"{prefix}_value"), *rest]
    return True
