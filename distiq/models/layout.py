"""The order of a network's weights in memory."""

import torch
from torch import nn


def make_contiguous(model: nn.Module) -> nn.Module:
    """Gives every weight its standard strides, in place.

    An exporter writes the strides of channels_last into the graph, as operations of their own. `contiguous()` is not
    enough: it leaves those of a weight of one channel, which counts as contiguous either way.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model
