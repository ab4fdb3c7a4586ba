"""The order of a network's weights in memory, and the dimensions of its inputs that an exported graph leaves free."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.models.signature import Positional

LARGEST_BATCH = 65536
FEWEST_TOKENS = 4
"""The shortest length of a second trace, where a network computes otherwise on one of two tokens (MobileBERT)."""


def free_dimensions(network: Positional, largest_batch: int = LARGEST_BATCH) -> list[dict[int, Any]]:
    """Of each input: the batch; of token numbers (B, L) also the length, from 2 to that of the example.

    The length stays fixed where the network was traced so, or says so itself (`fixed_length`).
    """
    batch = torch.export.Dim("batch", min=1, max=largest_batch)
    free: list[dict[int, Any]] = [{0: batch} for _ in network.inputs]
    tokens = [number for number, one in enumerate(network.inputs) if one.dtype == torch.int64 and one.ndim == 2]
    if tokens and not _has_fixed_length(network.module, tokens[0]):
        length = torch.export.Dim("length", min=2, max=network.inputs[tokens[0]].shape[1])
        for number in tokens:
            free[number][1] = length
    return free


def for_longer(free: Sequence[dict[int, Any]]) -> list[dict[int, Any]]:
    """The same for texts of at least `FEWEST_TOKENS`: some networks compute otherwise on shorter ones."""
    lengths = {axes[1] for axes in free if 1 in axes and axes[1].min < FEWEST_TOKENS < axes[1].max}
    longer = {one: torch.export.Dim("length", min=FEWEST_TOKENS, max=one.max) for one in lengths}
    return [{axis: longer.get(one, one) for axis, one in axes.items()} for axes in free]


def dynamic_shapes(network: Positional, free: Sequence[dict[int, Any]]) -> tuple[Any, ...]:
    """Free dimensions as `torch.export` wants them for how the module declares its inputs."""
    declared = inspect.signature(network.module.forward).parameters.values()
    takes_any = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in declared)
    return (tuple(free),) if takes_any else tuple(free)


def _has_fixed_length(model: nn.Module, number: int) -> bool:
    if not isinstance(model, fx.GraphModule):
        return getattr(model, "fixed_length", False)
    entry = [node for node in model.graph.nodes if node.op == "placeholder"][number]
    traced = entry.meta.get("val")
    return traced is not None and isinstance(traced.shape[1], int)


def make_contiguous(model: nn.Module) -> nn.Module:
    """Gives every weight its standard strides, in place.

    An exporter writes the strides of channels_last into the graph, as operations of their own. `contiguous()` is not
    enough: it leaves those of a weight of one channel, which counts as contiguous either way.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model


def plain_copy(tensor: Tensor) -> Tensor:
    """A copy with standard strides."""
    return tensor.clone(memory_format=torch.contiguous_format)
