"""What an exported graph stores: parameters and buffers, by the nodes that read them."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.quantization.operations import TRANSPOSED, groups_of


def constant_of(graph: fx.GraphModule, node: object) -> Tensor | None:
    """The stored tensor that a node stands for; None for another kind of node, or for no node at all."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(graph)
    return value.detach() if isinstance(value, Tensor) else None  # else a part of the graph, as of a condition


def layer_of(weight: fx.Node) -> str:
    """The module path of the layer whose weight a node reads: "stages.0.conv" for "stages.0.conv.weight"."""
    return str(weight.target).rpartition(".")[0]


def as_rows(layer: fx.Node, weight: Tensor) -> Tensor:
    """A layer's weights by group and output: (G, O / G, K), with the inputs of a group and the kernel in K."""
    groups = groups_of(layer)
    if layer.target not in TRANSPOSED:
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    inputs, outputs = weight.shape[:2]  # (I, O / G, kernel)
    return weight.reshape(groups, inputs // groups, outputs, -1).transpose(1, 2).flatten(2)


def from_rows(layer: fx.Node, rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `as_rows`, given the weights' shape."""
    if layer.target not in TRANSPOSED:
        return rows.reshape(shape)
    groups, outputs, _ = rows.shape
    return rows.reshape(groups, outputs, shape[0] // groups, -1).transpose(1, 2).reshape(shape)


def replace_constant(graph: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    """Stores another parameter under the name that a node reads; nothing else may read it."""
    owner, _, name = str(node.target).rpartition(".")
    setattr(graph.get_submodule(owner), name, nn.Parameter(value.clone(memory_format=torch.contiguous_format)))


def new_weight(graph: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    """Stores a parameter under a dotted name, numbered if that is taken; returns a node for it before the given one."""
    path, _, last = name.rpartition(".")
    owner: nn.Module = graph
    for part in filter(None, path.split(".")):
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    number, free = 2, last
    while hasattr(owner, free):
        number, free = number + 1, f"{last}_{number}"
    owner.register_parameter(free, nn.Parameter(value.clone(memory_format=torch.contiguous_format)))
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(f"{path}.{free}" if path else free)
    node.meta["val"] = value.to("meta")
    return node


def drop_unread(graph: fx.GraphModule) -> None:
    """Takes away parameters and buffers that no node reads."""
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    stored: Any = [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)]
    for name in {name for name, _ in stored} - read:
        owner, _, last = name.rpartition(".")
        delattr(graph.get_submodule(owner), last)
