"""A prepared graph over many samples without all of their values in memory: in chunks, part by part of the graph."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.models.signature import Tensors, batch_size, each, for_graph
from distiq.numerics import drawn
from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    BiasFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
)

FAKE_QUANTIZERS = (ActivationFakeQuantize, DynamicFakeQuantize, PerChannelWeightFakeQuantize, BiasFakeQuantize)
CHUNK_BYTES = 2**23
"""Of the largest value between two nodes, in float32, at a time: larger ones leave the cache, and above 32 MB glibc
maps their memory anew each time."""
MOST_SAMPLES = 256
KEPT_BYTES = 2**30
"""Of what is kept between two parts, at most: the samples are as many as that allows."""


class FloatRun(fx.Interpreter):
    """Runs a prepared graph and bypasses all fake-quantizers; they observe nothing."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        passes = isinstance(self.fetch_attr(target), FAKE_QUANTIZERS)
        return args[0] if passes else super().call_module(target, args, kwargs)


class _Sizes(FloatRun):
    """Notes how many numbers each node gives, and the length of their first axis; 0 of what is no tensor."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.values: dict[fx.Node, int] = {}
        self.rows: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        is_tensor = isinstance(value, Tensor)
        self.values[n] = value.numel() if is_tensor else 0
        self.rows[n] = len(value) if is_tensor and value.ndim else 0
        return value


@torch.no_grad()
def _sizes(prepared: fx.GraphModule, inputs: Sequence[Tensor], samples: int) -> _Sizes:
    probe = _Sizes(prepared)
    probe.run(*(one[:samples] for one in inputs))
    return probe


def _fitting(values: int) -> int:
    """How many samples of that many values each are processed at a time."""
    return max(1, min(MOST_SAMPLES, CHUNK_BYTES // (4 * max(1, values))))


def few(samples: Tensors, most: int) -> Tensors:
    """The samples (N, ...), or `most` of them drawn at random."""
    count = batch_size(samples)
    return samples if count <= most else each(lambda one: one[drawn(count, most)], samples)


def chunks_of(prepared: fx.GraphModule, samples: Tensors) -> list[tuple[Tensor, ...]]:
    """The samples (N, ...) in chunks whose values between the nodes take about `CHUNK_BYTES` each.

    Each chunk holds the graph's inputs in their order.
    """
    inputs = for_graph(samples, prepared)
    values = _sizes(prepared, inputs, 1).values
    size = _fitting(max((values[node] for node in values if node.op.startswith("call")), default=1))
    return list(zip(*(one.split(size) for one in inputs), strict=True))


def compute(
    node: fx.Node, value_of: Callable[[fx.Node], Any], modules: Mapping[str, nn.Module], quantized: bool
) -> Any:
    """What a node that calls something gives, from what its sources give.

    Args:
        quantized: whether fake-quantizers quantize, or let values pass.
    """
    values: Any = fx.map_arg((node.args, dict(node.kwargs)), value_of)
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
    """A pair behind a fake-quantizer in three bytes per value: the integer, and the float value's distance from it."""

    integers: Tensor
    distances: Tensor  # of bfloat16: an error of 2^-9 of the distance, 54 dB below the quantization noise
    scale: float
    zero_point: int

    @classmethod
    def of(cls, pair: Pair, fake_quantize: ActivationFakeQuantize) -> "_Packed":
        scale, zero_point = (entry.item() for entry in fake_quantize.calculate_qparams())
        integers = (pair.quantized * (1 / scale)).round_().add_(zero_point).to(fake_quantize.dtype)
        return cls(integers, (pair.original - pair.quantized).bfloat16(), scale, int(zero_point))

    def pair(self) -> Pair:
        quantized = self.integers.float().sub_(self.zero_point).mul_(self.scale)
        return Pair(quantized + self.distances, quantized)

    def split(self, sizes: Sequence[int]) -> "list[_Packed]":
        parts = zip(self.integers.split(sizes), self.distances.split(sizes), strict=True)
        return [self._replace(integers=integers, distances=distances) for integers, distances in parts]


def _together(entries: Sequence[Any]) -> Pair:
    """One pair of those of neighbouring chunks."""
    first = entries[0]
    if isinstance(first, _Packed):
        integers, distances = ([getattr(one, name) for one in entries] for name in ("integers", "distances"))
        if len(entries) > 1:
            first = first._replace(integers=torch.cat(integers), distances=torch.cat(distances))
        return first.pair()
    if len(entries) == 1:
        return first
    original = torch.cat([one.original for one in entries])
    alike = first.original is first.quantized
    return Pair(original, original if alike else torch.cat([one.quantized for one in entries]))


class SideBySide:
    """The float and the quantized network over samples that are drawn, advanced part by part.

    Only what a later part reads is kept between parts, `KEPT_BYTES` at most; a part takes as many samples at a time as
    its largest value allows. The quantized network follows its parameters, the float one keeps those that it began
    with.

    Args:
        samples: (N, ...) as the network sees them.
        is_layer: whether a part begins with this node. `parts` has what lies before each of `layers`, and the rest.
    """

    def __init__(self, prepared: fx.GraphModule, samples: Tensors, is_layer: Callable[[fx.Node], bool]) -> None:
        self.prepared = prepared
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        self.constants: dict[fx.Node, Pair] = {}
        self.layers: list[fx.Node] = []
        self.parts: list[list[fx.Node]] = [[]]
        entries: list[fx.Node] = []
        for node in prepared.graph.nodes:
            if node.op == "placeholder":
                entries.append(node)
            elif node.op != "output" and all(source in self.constants for source in node.all_input_nodes):
                self.constants[node] = self._constant(node)
            elif node.op != "output":
                if is_layer(node):
                    self.layers.append(node)
                    self.parts.append([])
                self.parts[-1].append(node)
        moving = [node for part in self.parts for node in part]
        self.last_reader = {source: node for node in moving for source in node.all_input_nodes}
        inputs = for_graph(samples, prepared)
        self.values = _sizes(prepared, inputs, 1).values
        self.count = min(len(inputs[0]), MOST_SAMPLES, max(1, KEPT_BYTES // max(1, self._kept_bytes())))
        inputs = for_graph(few(samples, self.count), prepared)
        self.unit = _fitting(max(self.values[node] for node in moving) if moving else 1)
        self.sizes = [len(chunk) for chunk in inputs[0].split(self.unit)]
        self.divisible = len(self.sizes) > 1 and self._is_divisible(moving, inputs)
        self.kept: dict[fx.Node, list[Any]] = {
            node: [Pair(chunk, chunk) for chunk in one.split(self.unit)]
            for node, one in zip(entries, inputs, strict=True)
        }

    def _kept_bytes(self) -> int:
        """The largest number of bytes per sample that is kept between two parts."""
        place = {node: number for number, part in enumerate(self.parts) for node in part}
        held = [0] * len(self.parts)
        for node, first in place.items():
            last = place[self.last_reader[node]] if node in self.last_reader else first
            for number in range(first, last):
                held[number] += self.values[node] * (3 if self._is_packed(node) else 8)
        return max(held)

    def _is_divisible(self, nodes: Sequence[fx.Node], inputs: Sequence[Tensor]) -> bool:
        """Whether the first axis of all that could be kept counts samples, so that chunks can be joined and split."""
        counts = {count: _sizes(self.prepared, inputs, count).rows for count in (2, 3)}
        return all(rows[node] == count for count, rows in counts.items() for node in nodes if node in self.last_reader)

    def _constant(self, node: fx.Node) -> Pair:
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.prepared)
            return Pair(value.detach().clone() if isinstance(value, Tensor) else value, value)
        return Pair(
            compute(node, lambda source: self.constants[source].original, self.modules, False),
            compute(node, lambda source: self.constants[source].quantized, self.modules, True),
        )

    def renew(self, node: fx.Node) -> None:
        """Recomputes a constant node of the quantized network from the new values of its parameters."""
        for source in node.all_input_nodes:
            self.renew(source)
        quantized = (
            operator.attrgetter(str(node.target))(self.prepared)
            if node.op == "get_attr"
            else compute(node, lambda source: self.constants[source].quantized, self.modules, True)
        )
        self.constants[node] = self.constants[node]._replace(quantized=quantized)

    def advance(self, nodes: Sequence[fx.Node], to: fx.Node, visit: Callable[[Pair], None]) -> None:
        """Computes a part for all samples, and keeps what later parts read.

        Args:
            to: a node of this part, or of one before; `visit` sees its value for each chunk.
        """
        inside = set(nodes)
        read = {source for node in nodes for source in node.all_input_nodes} | {to}
        entering = [source for source in read - inside if source in self.kept]
        leaving = [node for node in nodes if any(user not in inside and user.op != "output" for user in node.users)]
        done = [source for source in entering if self.last_reader[source] in inside]
        for node in leaving:
            self.kept[node] = []
        for chunks in self._groups([*nodes, *entering]):
            values = {source: _together(self.kept[source][chunks]) for source in entering}
            for node in nodes:
                values[node] = self._pair(node, values)
            visit(values[to])
            for node in leaving:
                self.kept[node] += self._packed(node, values[node], self.sizes[chunks])
            for source in done:
                self.kept[source][chunks] = [None] * len(self.sizes[chunks])
        for source in done:
            del self.kept[source]

    def _groups(self, nodes: Sequence[fx.Node]) -> list[slice]:
        """Chunks that a part takes together: as many as its largest value allows."""
        most = _fitting(max(self.values[node] for node in nodes)) // self.unit if self.divisible else 1
        return [slice(start, start + max(1, most)) for start in range(0, len(self.sizes), max(1, most))]

    def _pair(self, node: fx.Node, values: Mapping[fx.Node, Pair]) -> Pair:
        def of(source: fx.Node) -> Pair:
            return values[source] if source in values else self.constants[source]

        return Pair(
            compute(node, lambda source: of(source).original, self.modules, False),
            compute(node, lambda source: of(source).quantized, self.modules, True),
        )

    def _is_packed(self, node: fx.Node) -> bool:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        return isinstance(module, ActivationFakeQuantize) and module.mode == "simulate" and module.enabled

    def _packed(self, node: fx.Node, pair: Pair, sizes: Sequence[int]) -> list[Any]:
        """What is kept of a node, chunk by chunk."""
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ActivationFakeQuantize) and self._is_packed(node):
            return _Packed.of(pair, module).split(sizes) if len(sizes) > 1 else [_Packed.of(pair, module)]
        if len(sizes) == 1:
            return [pair]
        return [Pair(*both) for both in zip(pair.original.split(sizes), pair.quantized.split(sizes), strict=True)]
