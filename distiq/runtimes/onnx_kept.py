"""Layers that stay in float32 between integers: ONNX Runtime would quantize their weights by itself."""

from collections.abc import Collection

from onnx import GraphProto, NodeProto, TensorProto, helper

from distiq.runtimes.onnx_graph import DQ, Q, consumers_of

LAYERS = {"Conv", "ConvTranspose", "Gemm"}
CARRYING = {
    "Relu",
    "Clip",
    "LeakyRelu",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "MaxPool",
    "Identity",
}
"""What ONNX Runtime moves a pair past, or fuses with a layer."""


def is_copy(node: NodeProto) -> bool:
    """Whether a node is a Max of a single input: it computes nothing, and ONNX Runtime does not remove it."""
    return node.op_type == "Max" and len(node.input) == 1


def keep_float_layers(graph: GraphProto, floats: Collection[str]) -> None:
    """Makes layers with float32 weights that stand between DQ and Q read a copy of their input, in place.

    Args:
        floats: the float32 constants of this graph and of those around it.
    """
    producers, consumers = {name: node for node in graph.node for name in node.output}, consumers_of(graph)
    for node in list(graph.node):
        if node.op_type not in LAYERS or not _is_constant(node.input[1], floats, producers):
            continue
        if not _comes_from_integers(node.input[0], producers) or not _is_quantized(node.output[0], consumers):
            continue
        copied = f"{node.output[0]}/copied"
        place = next(number for number, other in enumerate(graph.node) if other is node)
        graph.node.insert(
            place, helper.make_node("Max", [node.input[0]], [copied], f"{node.name}/copy" if node.name else "")
        )
        node.input[0] = copied


def float_constants(graph: GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _is_constant(name: str, floats: Collection[str], producers: dict[str, NodeProto]) -> bool:
    """Whether weights are float32, or cast to it when the file is loaded."""
    maker = producers.get(name)
    return name in floats or (maker is not None and maker.op_type in ("Cast", "Mul", "Constant"))


def _comes_from_integers(name: str, producers: dict[str, NodeProto]) -> bool:
    maker = producers.get(name)
    while maker is not None and maker.op_type in CARRYING:
        maker = producers.get(maker.input[0])
    return maker is not None and maker.op_type == DQ


def _is_quantized(name: str, consumers: dict[str, list[NodeProto]]) -> bool:
    return any(
        user.op_type == Q or (user.op_type in CARRYING and any(_is_quantized(one, consumers) for one in user.output))
        for user in consumers.get(name, [])
    )
