"""The values on which an output's error is measured where the output itself would not show it.

Rows selected by `TopK` or `NonMaxSuppression` change places as soon as two scores are close, and a class index has no
error in itself. Box coordinates in the hundreds hide the error of scores below one that a `Concat` joins to them.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from distiq.models.onnx_file import every_node, subgraphs_of
from distiq.runtimes.onnx_graph import initializers
from distiq.runtimes.onnx_plan import PRODUCTS, captured

RANKING = {"TopK", "NonMaxSuppression", "NonZero", "Compress", "Unique"}
"""What is chosen by these changes places, or is more or less."""
CHOOSING = RANKING | {"ArgMax", "ArgMin"}
SIZES = {"Shape", "Size"}
MOVING = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"}
NUMBERS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.UNDEFINED}


class Origins(NamedTuple):
    """By names in `outputs`: `chosen` maps an output to the values it is selected from, `joined` to those it joins.

    The rows of those selected outputs that are in `ranked` may change places.
    """

    outputs: tuple[str, ...] = ()
    ranked: frozenset[str] = frozenset()
    chosen: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    joined: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def more(self) -> tuple[str, ...]:
        """What is not given by the file itself."""
        parts = (name for parts in (*self.chosen.values(), *self.joined.values()) for name in parts)
        return tuple(dict.fromkeys(name for name in parts if name not in self.outputs))


def origins_of(model: ModelProto) -> Origins:
    """The origins of a float32 graph's outputs; empty where the outputs themselves show their error."""
    return _Traced(model).origins()


class _Traced:
    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.outputs = tuple(output.name for output in graph.output)
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.fixed = {*initializers(graph), *(entry.name for entry in graph.input), ""}
        self.types = _types(model)
        tables = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self.rounded, self.behind, self.ranked = set[str](), set[str](), set[str]()
        for node in graph.node:
            read = _read(node)
            if _rounds(node, tables) or self.rounded.intersection(read):
                self.rounded.update(node.output)
            for reached, kinds in ((self.behind, CHOOSING), (self.ranked, RANKING)):
                if reached.intersection(read) or (_holds(node, kinds) and self.rounded.intersection(read)):
                    reached.update(node.output)

    def origins(self) -> Origins:
        chosen = {name: tuple(dict.fromkeys(self._before(name))) for name in self.outputs if name in self.behind}
        joined = {name: self._parts(name) for name in self.outputs if name not in self.behind}
        return Origins(
            self.outputs,
            frozenset(self.ranked.intersection(self.outputs)),
            {name: origins for name, origins in chosen.items() if origins},
            {name: parts for name, parts in joined.items() if len(parts) > 1},
        )

    def _before(self, name: str) -> Iterator[str]:
        """The floating-point values in front of every choice that a value depends on."""
        seen, waiting = set(self.fixed), [name]
        while waiting:
            one = waiting.pop()
            if one in seen or one not in self.makers:
                continue
            seen.add(one)
            maker = self.makers[one]
            if one not in self.behind and self.types.get(one, TensorProto.UNDEFINED) in NUMBERS:
                if one in self.rounded:
                    yield one
            elif maker.op_type not in SIZES:
                waiting += _read(maker)

    def _parts(self, name: str) -> tuple[str, ...]:
        """What `Concat`s join to a value, which is then moved at most; itself where none does."""
        maker = self.makers.get(name)
        while maker is not None and maker.op_type in MOVING:
            maker = self.makers.get(maker.input[0])
        if maker is None or maker.op_type != "Concat":
            return (name,)
        parts = (inner for part in maker.input if part not in self.fixed for inner in self._parts(part))
        return tuple(dict.fromkeys(parts))


def _holds(node: NodeProto, kinds: Collection[str]) -> bool:
    """Whether a node, or one in the graphs within it, is of these kinds."""
    inner = (one for graph in subgraphs_of(node) for one in every_node(graph))
    return node.op_type in kinds or any(one.op_type in kinds for one in inner)


def _rounds(node: NodeProto, tables: Collection[str]) -> bool:
    """Whether a node may become one of integers: all values before are exact, such as lengths that are sorted."""
    return _holds(node, PRODUCTS | {"Conv"}) or (node.op_type == "Gather" and node.input[0] in tables)


def _read(node: NodeProto) -> list[str]:
    return [*node.input, *captured(node)]


def _types(model: ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.output)}


def with_origins(model: ModelProto, origins: Origins) -> ModelProto:
    """A copy that gives the origins beside its outputs; the model itself where there are none."""
    if not origins.more:
        return model
    copied = copy.deepcopy(model)
    copied.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in origins.more)
    return copied
