"""Activations that a file composes of several operations, written as the ones that integer kernels know."""

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, helper, numpy_helper

from distiq.runtimes.onnx_graph import initializers
from distiq.runtimes.onnx_plan import captured, readers_of


def with_hard_swish(graph: GraphProto) -> int:
    """Writes x * clip(x + 3, 0, 6) / 6, in every order of its four nodes, as x * HardSigmoid(x). Returns how many.

    Howard et al. 2019, "Searching for MobileNetV3" (arXiv:1905.02244), equation 1. The gate alone is written so, too.
    """
    return _Composed(graph).rewritten()


class _Composed:
    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants, self.readers = initializers(graph), readers_of(graph)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.outputs = {output.name for output in graph.output}

    def rewritten(self) -> int:
        count = 0
        for node in list(self.graph.node):
            inner = self._sixth(node)
            if inner is None:
                continue
            product = self._alone(inner, "Mul")
            if product is not None and (source := self._gated(product)) is not None:
                self._replace(node, source)
            elif (source := self._clipped(inner)) is not None:
                node.CopyFrom(_gate(node.name, source, node.output[0]))
            else:
                continue
            count += 1
        drop_unread(self.graph)
        return count

    def _scalar(self, name: str) -> float | None:
        value = numpy_helper.to_array(self.constants[name]) if name in self.constants else None
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def _alone(self, name: str, kind: str) -> NodeProto | None:
        """The node of this kind that makes a value for one reader alone."""
        node = self.makers.get(name)
        if node is None or node.op_type != kind or name in self.outputs:
            return None
        return node if len(self.readers.get(name, [])) == 1 else None

    def _sixth(self, node: NodeProto) -> str | None:
        """What a node divides by six."""
        if node.op_type == "Div" and self._scalar(node.input[1]) == 6.0:
            return node.input[0]
        for one, other in _orders(node) if node.op_type == "Mul" else ():
            if (factor := self._scalar(other)) is not None and abs(factor - 1 / 6) < 1e-6:
                return one
        return None

    def _clipped(self, name: str) -> str | None:
        """x of clip(x + 3, 0, 6)."""
        clip = self._alone(name, "Clip")
        if clip is None or self._bounds(clip) != [0.0, 6.0]:
            return None
        add = self._alone(clip.input[0], "Add")
        return next((one for one, other in _orders(add) if self._scalar(other) == 3.0), None) if add else None

    def _bounds(self, clip: NodeProto) -> list[float | None]:
        """The bounds of a Clip: its inputs, before opset 11 its attributes."""
        if len(clip.input) == 3:
            return [self._scalar(name) for name in clip.input[1:]]
        stated = {entry.name: entry.f for entry in clip.attribute}
        return [stated.get("min"), stated.get("max")]

    def _gated(self, product: NodeProto) -> str | None:
        """x of x * clip(x + 3, 0, 6)."""
        return next((one for one, other in _orders(product) if self._clipped(other) == one), None)

    def _replace(self, node: NodeProto, source: str) -> None:
        gate = _gate(f"{node.name}_gate", source, f"{node.output[0]}_gate")
        place = next(number for number, other in enumerate(self.graph.node) if other is node)
        product = helper.make_node("Mul", [source, gate.output[0]], [node.output[0]], node.name)
        self.graph.node.remove(node)
        self.graph.node.insert(place, product)
        self.graph.node.insert(place, gate)


def _orders(node: NodeProto) -> Iterator[tuple[str, str]]:
    yield node.input[0], node.input[1]
    yield node.input[1], node.input[0]


def _gate(name: str, source: str, result: str) -> NodeProto:
    return helper.make_node("HardSigmoid", [source], [result], name, alpha=1 / 6, beta=0.5)


def drop_unread(graph: GraphProto) -> None:
    """Removes nodes and constants that no output is made from."""
    outputs = {output.name for output in graph.output}
    while True:
        read = {name for node in graph.node for name in (*node.input, *captured(node))} | outputs
        unread = [node for node in graph.node if not any(name in read for name in node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
