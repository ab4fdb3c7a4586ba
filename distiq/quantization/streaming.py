"""A prepared graph over many samples without all of their values in memory: in chunks, part by part of the graph."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.models.signature import Tensors, for_graph
from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    BiasFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
)

FAKE_QUANTIZERS = (ActivationFakeQuantize, DynamicFakeQuantize, PerChannelWeightFakeQuantize, BiasFakeQuantize)
CHUNK_BYTES = 2**25
"""Of the largest value between two nodes, in float32, at a time."""
MOST_SAMPLES = 256
LARGEST_HALF = 65504.0


class FloatRun(fx.Interpreter):
    """Runs a prepared graph with all fake-quantizers passed by; they see nothing of it."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        passes = isinstance(self.fetch_attr(target), FAKE_QUANTIZERS)
        return args[0] if passes else super().call_module(target, args, kwargs)


class _Largest(FloatRun):
    values = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op.startswith("call") and isinstance(value, Tensor):
            self.values = max(self.values, value.numel())
        return value


@torch.no_grad()
def chunks_of(prepared: fx.GraphModule, samples: Tensors) -> list[tuple[Tensor, ...]]:
    """The samples (N, ...) in chunks whose values between the nodes take about `CHUNK_BYTES` each.

    Each chunk holds the graph's inputs in their order.
    """
    inputs = for_graph(samples, prepared)
    probe = _Largest(prepared)
    probe.run(*(one[:1] for one in inputs))
    size = max(1, min(MOST_SAMPLES, CHUNK_BYTES // (4 * max(1, probe.values))))
    return list(zip(*(one.split(size) for one in inputs), strict=True))


def compute(node: fx.Node, known: Callable[[fx.Node], Any], modules: Mapping[str, nn.Module], quantized: bool) -> Any:
    """What a node that calls something gives, from what its sources give.

    Args:
        quantized: whether fake-quantizers quantize, or let values pass.
    """
    values: Any = fx.map_arg((node.args, dict(node.kwargs)), known)
    args, kwargs = values
    if node.op == "call_module":
        module = modules[str(node.target)]
        return args[0] if isinstance(module, FAKE_QUANTIZERS) and not quantized else module(*args, **kwargs)
    assert node.op == "call_function", node.op
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        args = (args[0].clone(), *args[1:])  # `x += ...` must not change what is kept of x
    return node.target(*args, **kwargs)  # type: ignore[operator]


class Pair(NamedTuple):
    """A node's value in the float and in the quantized network."""

    original: Any
    quantized: Any


class _Packed(NamedTuple):
    """A pair behind a fake-quantizer in three bytes a value: integers, and how far the float value is, in steps."""

    integers: Tensor
    distances: Tensor
    scale: float
    zero_point: int

    @classmethod
    def of(cls, pair: Pair, fake_quantize: ActivationFakeQuantize) -> "_Packed":
        scale, zero_point = (entry.item() for entry in fake_quantize.calculate_qparams())
        integers = (pair.quantized * (1 / scale)).round_().add_(zero_point).to(fake_quantize.dtype)
        distances = (pair.original - pair.quantized).mul_(1 / scale).clamp_(-LARGEST_HALF, LARGEST_HALF)
        return cls(integers, distances.half(), scale, int(zero_point))

    def pair(self) -> Pair:
        quantized = self.integers.float().sub_(self.zero_point).mul_(self.scale)
        return Pair(self.distances.float().mul_(self.scale).add_(quantized), quantized)


class SideBySide:
    """The float and the quantized network over all samples, advanced part by part.

    Only what a later part reads is kept between parts. The quantized network follows its parameters, the float one
    keeps those that it began with.
    """

    def __init__(self, prepared: fx.GraphModule, samples: Tensors) -> None:
        self.prepared = prepared
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        self.chunks = chunks_of(prepared, samples)
        self.constants: dict[fx.Node, Pair] = {}
        self.kept: dict[fx.Node, list[Any]] = {}
        self.moving: list[fx.Node] = []
        for node in prepared.graph.nodes:
            if node.op == "placeholder":
                place = len(self.kept)
                self.kept[node] = [Pair(chunk[place], chunk[place]) for chunk in self.chunks]
            elif node.op != "output" and all(source in self.constants for source in node.all_input_nodes):
                self.constants[node] = self._constant(node)
            elif node.op != "output":
                self.moving.append(node)
        self.last_reader = {source: node for node in self.moving for source in node.all_input_nodes}

    def _constant(self, node: fx.Node) -> Pair:
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.prepared)
            return Pair(value.detach().clone() if isinstance(value, Tensor) else value, value)
        return Pair(
            compute(node, lambda source: self.constants[source].original, self.modules, False),
            compute(node, lambda source: self.constants[source].quantized, self.modules, True),
        )

    def renew(self, node: fx.Node) -> None:
        """Takes up new values of the parameters behind a constant node, in the quantized network."""
        for source in node.all_input_nodes:
            self.renew(source)
        quantized = (
            operator.attrgetter(str(node.target))(self.prepared)
            if node.op == "get_attr"
            else compute(node, lambda source: self.constants[source].quantized, self.modules, True)
        )
        self.constants[node] = self.constants[node]._replace(quantized=quantized)

    def advance(self, nodes: Sequence[fx.Node], to: fx.Node, visit: Callable[[Pair], None]) -> None:
        """Computes a part for all chunks, and keeps what later parts read.

        Args:
            to: a node of this part, or of one before; `visit` sees its value for each chunk.
        """
        inside = set(nodes)
        read = {source for node in nodes for source in node.all_input_nodes} | {to}
        entering = [source for source in read - inside if source in self.kept]
        leaving = [node for node in nodes if any(user not in inside and user.op != "output" for user in node.users)]
        done = [source for source in entering if self.last_reader[source] in inside]
        for number in range(len(self.chunks)):
            values = {source: self._unpacked(source, number) for source in entering}
            for node in nodes:
                values[node] = self._pair(node, values)
            visit(values[to])
            for node in leaving:
                self.kept.setdefault(node, []).append(self._packed(node, values[node]))
            for source in done:
                self.kept[source][number] = None
        for source in done:
            del self.kept[source]

    def _pair(self, node: fx.Node, values: Mapping[fx.Node, Pair]) -> Pair:
        def of(source: fx.Node) -> Pair:
            return values[source] if source in values else self.constants[source]

        return Pair(
            compute(node, lambda source: of(source).original, self.modules, False),
            compute(node, lambda source: of(source).quantized, self.modules, True),
        )

    def _packed(self, node: fx.Node, pair: Pair) -> Any:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ActivationFakeQuantize) and module.mode == "simulate" and module.enabled:
            return _Packed.of(pair, module)
        return pair

    def _unpacked(self, node: fx.Node, number: int) -> Pair:
        found = self.kept[node][number]
        return found.pair() if isinstance(found, _Packed) else found
