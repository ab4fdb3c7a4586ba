"""The order of a network's weights in memory, and the dimensions of its input that an exported graph leaves free."""

from typing import Any

import torch
from torch import Tensor, nn

LARGEST_BATCH = 65536


def free_dimensions(example: Tensor) -> dict[int, Any]:
    """For `torch.export`: the batch; of token numbers (B, L) int64 also the length, from 2 to that of the example."""
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if example.dtype == torch.int64 and example.ndim == 2:
        free[1] = torch.export.Dim("length", min=2, max=example.shape[1])
    return free


def make_contiguous(model: nn.Module) -> nn.Module:
    """Gives every weight its standard strides, in place.

    An exporter writes the strides of channels_last into the graph, as operations of their own. `contiguous()` is not
    enough: it leaves those of a weight of one channel, which counts as contiguous either way.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model
