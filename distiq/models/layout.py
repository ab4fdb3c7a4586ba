"""The order of a network's weights in memory, and the dimensions of its input that an exported graph leaves free."""

from typing import Any

import torch
from torch import Tensor, fx, nn

LARGEST_BATCH = 65536


def free_dimensions(example: Tensor, model: nn.Module) -> dict[int, Any]:
    """For `torch.export`: the batch; of token numbers (B, L) int64 also the length, from 2 to that of the example.

    The length stays fixed where the model was traced so, or says so itself (`fixed_length`).
    """
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if example.dtype == torch.int64 and example.ndim == 2 and not _has_fixed_length(model):
        free[1] = torch.export.Dim("length", min=2, max=example.shape[1])
    return free


def _has_fixed_length(model: nn.Module) -> bool:
    if not isinstance(model, fx.GraphModule):
        return getattr(model, "fixed_length", False)
    entry = next(node for node in model.graph.nodes if node.op == "placeholder")
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
