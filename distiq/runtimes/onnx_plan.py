"""Where quantize-dequantize pairs stand in an ONNX graph that somebody else wrote, whatever operations it holds.

A graph is planned once: which layers multiply integers, which tensors are quantized for them, which tensors share their
quantization parameters. Whatever is not in the plan, including control flow, states and unknown operations, stays
unchanged and computes in float32. The pairs are placed according to what ONNX Runtime fuses into integer kernels.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from onnx import GraphProto, NodeProto, TensorProto, helper

from distiq.models.onnx_file import subgraphs_of
from distiq.runtimes.onnx_branches import branches_of, every_graph
from distiq.runtimes.onnx_graph import initializers

STANDARD = ("", "ai.onnx")
PRODUCTS = {"Gemm", "MatMul"}
FUSED = {"Relu", "Clip"}
"""Activations that a layer's integer kernel fuses: they are the clipping of its output."""
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Slice", "Resize", "DepthToSpace",
         "SpaceToDepth", "Split", "Gather", "Expand", "Identity"}  # fmt: skip
"""Operations whose results are values of their first input, or lie between them."""
PAIRED = {"Add", "Mul"}
POOLED = {"GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu"}


def _counts_beyond(node: NodeProto) -> bool:
    """Whether an average counts its padding and reaches over the edge, where ONNX Runtime's integers divide wrongly."""
    given = {one.name: one.i for one in node.attribute}
    return node.op_type == "AveragePool" and bool(given.get("ceil_mode")) and bool(given.get("count_include_pad"))


class Layer(NamedTuple):
    """A layer that multiplies integers.

    Attributes:
        bias: its name, empty where there is none. output: what it gives, behind a fused activation.
        channels: the axis of the weight along which every channel has a scale.
    """

    node: NodeProto
    source: str
    weight: str
    bias: str
    output: str
    channels: int

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def gives_integers(self) -> bool:
        """Whether ONNX Runtime has no integer kernel with a float32 result: of convolutions and a MatMul with Relu."""
        return self.node.op_type == "Conv" or (self.node.op_type == "MatMul" and self.output != self.node.output[0])


class Plan(NamedTuple):
    """What is quantized.

    Attributes:
        shared: quantized tensors; each names the tensor whose quantization parameters it has.
        integer: names of nodes whose results are quantized where integers make them.
        joints: concatenations of quantized tensors that no layer reads: they may join results of unlike range.
    """

    layers: tuple[Layer, ...]
    shared: dict[str, str]
    integer: frozenset[str]
    joints: tuple[NodeProto, ...]

    def groups(self) -> dict[str, list[str]]:
        """The tensors that share quantization parameters, by the tensor that they are named after."""
        groups: dict[str, list[str]] = {}
        for name, root in self.shared.items():
            groups.setdefault(root, []).append(name)
        return groups


def attributes_of(node: NodeProto) -> dict[str, object]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def captured(node: NodeProto) -> Iterator[str]:
    """All names that the graphs inside a node read, wherever they are defined."""
    for graph in subgraphs_of(node):
        for inner in graph.node:
            yield from (*inner.input, *captured(inner))
        yield from (output.name for output in graph.output)


def readers_of(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Every tensor's readers; a node whose graphs read it is one of them."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys([*node.input, *captured(node)]):
            if name:
                readers.setdefault(name, []).append(node)
    return readers


def plan(
    graph: GraphProto, without: Iterable[str] = (), apart: Iterable[str] = (), unbounded: Iterable[str] = ()
) -> Plan:
    """Which layers multiply integers, and which tensors are quantized for them.

    Args:
        without: names of layers that stay in float32.
        apart: names of concatenations that stay in float32, since they join results of unlike range.
        unbounded: tensors that have no finite range.
    """
    return _with_branches(graph, {}, set(without), set(apart), set(unbounded))


def _with_branches(
    graph: GraphProto, outer: Mapping[str, TensorProto], without: set[str], apart: set[str], unbounded: set[str]
) -> Plan:
    """The plan of a graph and of its branches, whose values have names of their own."""
    constants = {**outer, **initializers(graph)}
    own = _Planner(graph, constants, without, apart, unbounded).plan()
    for _, _, branch in branches_of(graph):
        inner = _with_branches(branch, constants, without, apart, unbounded)
        own = Plan(
            own.layers + inner.layers, own.shared | inner.shared, own.integer | inner.integer, own.joints + inner.joints
        )
    return own


class _Planner:
    def __init__(
        self,
        graph: GraphProto,
        constants: Mapping[str, TensorProto],
        without: set[str],
        apart: set[str],
        unbounded: set[str],
    ) -> None:
        self.graph, self.without, self.apart, self.unbounded = graph, without, apart, unbounded
        self.constants, self.readers = constants, readers_of(graph)
        self.outputs = {output.name for output in graph.output}
        self.shared: dict[str, str] = {}
        self.integer: set[str] = set()

    def plan(self) -> Plan:
        layers = {
            node.name: layer
            for node in self.graph.node
            if (layer := self._layer(node)) is not None and not self.unbounded & {layer.source, layer.output}
        }
        sources = {layer.source for layer in layers.values()}
        self.shared |= {name: name for name in sources}
        self.leading = self._leading(sources)
        joints = []
        for node in self.graph.node:
            layer = layers.get(node.name)
            if layer is not None:
                self.shared[layer.output] = layer.output
                self.integer.add(node.name)
            elif self._joins(node):
                joints += [] if sources & set(node.output) else [node]
                if node.name not in self.apart:
                    self._join(node)
            elif self._passes(node):
                self._pass(node)
        self._drop_needless({layer.output for layer in layers.values() if layer.gives_integers} | sources)
        return Plan(tuple(layers.values()), self._settled(), frozenset(self.integer), tuple(joints))

    def _leading(self, sources: set[str]) -> set[str]:
        """Tensors that lead to a later layer: after the last layers, integers would only cost accuracy."""
        leading = set(sources)
        for node in reversed(self.graph.node):
            if leading.intersection(node.output):
                leading |= {*node.input, *captured(node)}
        return leading

    def _layer(self, node: NodeProto) -> Layer | None:
        if node.domain not in STANDARD or node.op_type not in PRODUCTS | {"Conv"} or node.name in self.without:
            return None
        source, weight, bias = (*node.input, "", "")[:3]
        if source in self.constants or not self._is_float(weight) or (bias and not self._is_float(bias)):
            return None
        attributes, axes = attributes_of(node), len(self.constants[weight].dims)
        match node.op_type:
            case "Conv":
                return Layer(node, source, weight, bias, self._behind(node), 0)
            case "MatMul":
                return Layer(node, source, weight, "", self._behind(node), 1) if axes == 2 else None
        is_plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
        is_vector = not bias or all(size == 1 for size in self.constants[bias].dims[:-1])
        channels = 0 if attributes.get("transB") else 1
        return Layer(node, source, weight, bias, self._behind(node), channels) if is_plain and is_vector else None

    def _is_float(self, name: str) -> bool:
        return name in self.constants and self.constants[name].data_type == TensorProto.FLOAT

    def _behind(self, node: NodeProto) -> str:
        """The layer's result behind an activation that integer kernels fuse."""
        name = node.output[0]
        behind = self.readers.get(name, [])
        if name in self.outputs or len(behind) != 1 or behind[0].op_type not in FUSED:
            return name
        bounds = behind[0].input[1:]
        return behind[0].output[0] if all(bound in self.constants or not bound for bound in bounds) else name

    def _joins(self, node: NodeProto) -> bool:
        return node.op_type == "Concat" and all(name in self.shared for name in node.input)

    def _passes(self, node: NodeProto) -> bool:
        """Whether an operation has an integer kernel, integers to read, and a layer further on to give them to."""
        results = set(node.output)
        if node.domain not in STANDARD or not self.leading & results or self.unbounded & results:
            return False
        if node.op_type in PAIRED:
            ready = [name in self.shared or self._is_float(name) for name in node.input]
            return all(ready) and any(name in self.shared for name in node.input)
        return node.op_type in MOVES | POOLED and node.input[0] in self.shared and not _counts_beyond(node)

    def _pass(self, node: NodeProto) -> None:
        root = self.shared[node.input[0]] if node.op_type in MOVES else None
        for output in filter(None, node.output):
            self.shared[output] = root or output
        self.integer.add(node.name)

    def _join(self, node: NodeProto) -> None:
        """All parts of a concatenation share its quantization parameters."""
        root = node.output[0]
        if root not in self.leading or root in self.unbounded:
            return
        others = {self.shared[name] for name in node.input}
        self.shared = {name: root if own in others else own for name, own in self.shared.items()}
        self.shared[root] = root
        self.integer.add(node.name)

    def _drop_needless(self, kept: set[str]) -> None:
        """Drops pairs that no integer operation reads: in front of float32 consumers they only cost time and accuracy.

        Args:
            kept: what layers read, and what those give that cannot give float32.
        """
        for node in reversed(self.graph.node):
            for name in node.output:
                if name not in self.shared or name in kept:
                    continue
                if not any(reader.name in self.integer for reader in self.readers.get(name, [])):
                    del self.shared[name]
                    if node.op_type not in PRODUCTS:
                        self.integer.discard(node.name)

    def _settled(self) -> dict[str, str]:
        """Maps tensors to the root of their group; where that is no longer quantized, to the first of the group."""
        first: dict[str, str] = {}
        for name, root in self.shared.items():
            first.setdefault(root, root if root in self.shared else name)
        return {name: first[root] for name, root in self.shared.items()}


def observed(graph: GraphProto, planned: Plan) -> list[str]:
    """The quantized tensors whose values determine all ranges: the others of their groups are only moved from them."""
    moved = {
        name: node.input[0]
        for part in every_graph(graph)
        for node in part.node
        if node.op_type in MOVES and node.domain in STANDARD
        for name in node.output
    }
    shared = planned.shared
    return [name for name, root in shared.items() if shared.get(moved.get(name, ""), "") != root]
