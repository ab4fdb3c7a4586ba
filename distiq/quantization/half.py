"""Half precision: weights rounded to float16; vectors, and layers beyond its range, stay in float32."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from distiq.models.signature import Tensors
from distiq.numerics import is_halved, sqnr_db
from distiq.quantization.annotate import is_within
from distiq.quantization.streaming import chunks_of
from distiq.quantization.weights import constant_of

LARGEST = torch.finfo(torch.float16).max  # 65,504
LEAST_DB = 60.0  # of rounded weights; 11 significant bits give 72 or more, values below 6e-5 have fewer bits


@torch.no_grad()
def halve(prepared: fx.GraphModule, calibration: Tensors, kept: tuple[str, ...]) -> tuple[str, ...]:
    """Rounds weights to the nearest float16, in place, but vectors such as biases; they are stored as float32 all the
    same.

    Args:
        prepared: with batch norm folded, without fake-quantizers.
        kept: module paths that stay in float32.

    Returns:
        The paths of further modules that stay in float32, since a weight, or an activation that they read or give on
        the calibration samples, is beyond 65,504, or since their weights are so small that float16 would lose bits.
    """
    readers: dict[str, list[fx.Node]] = {}
    for node in prepared.graph.nodes:
        for source in node.all_input_nodes:
            if _weight(prepared, source) is not None:
                readers.setdefault(str(source.target), []).append(node)
    beyond, largest = _beyond(prepared), _Largest(prepared)
    for chunk in chunks_of(prepared, calibration):
        largest.run(*chunk)
    for name, nodes in readers.items():
        if any(_most(largest.values, (node, *node.all_input_nodes)) > LARGEST for node in nodes):
            beyond[_layer(name, nodes)] = None
    for name, nodes in readers.items():
        if _layer(name, nodes) not in beyond and not any(is_within(node, kept) for node in nodes):
            value = operator.attrgetter(name)(prepared)
            value.data.copy_(value.data.half().float())
    return tuple(path for path in beyond if path not in kept)


def _beyond(prepared: fx.GraphModule) -> dict[str, None]:
    """The layers with weights that float16 does not hold."""
    beyond: dict[str, None] = {}
    for node in prepared.graph.nodes:
        weight = _weight(prepared, node)
        if weight is None:
            continue
        half = weight.half().float()
        if half.isfinite().ne(weight.isfinite()).any() or (weight.any() and sqnr_db(weight, half) < LEAST_DB):
            beyond[_layer(str(node.target), list(node.users))] = None
    return beyond


def _weight(prepared: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The stored float32 tensor that a node reads, if it is rounded; see `is_halved`."""
    value = constant_of(prepared, node)
    return value if value is not None and value.dtype == torch.float32 and is_halved(value.shape) else None


def _layer(name: str, readers: list[fx.Node]) -> str:
    """The module path that a constant belongs to; for one lifted out of its module, that of its first consumer."""
    stacks = [path for node in readers for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    owner = name.rpartition(".")[0]
    return owner if owner in stacks or not stacks else stacks[-1]


def _most(values: dict[fx.Node, float], nodes: Iterable[fx.Node]) -> float:
    return max((values.get(node, 0.0) for node in nodes), default=0.0)


class _Largest(fx.Interpreter):
    """The largest magnitude of what each node gives, over all runs."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.values: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel() and n.op != "get_attr":
            finite = result[result.isfinite()]  # masks of attention hold infinities
            if finite.numel():
                self.values[n] = max(self.values.get(n, 0.0), finite.abs().max().item())
        return result
