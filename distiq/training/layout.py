"""In which memory layout a network is trained."""

import copy
import warnings
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distiq.recipe.training import TrainingSettings
from distiq.training.batches import Batches

NARROW = 16
"""The number of input channels from which oneDNN's 1x1 kernels need no more memory than they allocate."""


def memory_layout(
    objective: nn.Module, batches: Batches, settings: TrainingSettings, accelerator: Accelerator
) -> torch.memory_format:
    """Channels last where the settings want them and they are safe, else contiguous; all processes must call it.

    On CPUs they are unsafe where a 1x1 convolution skips positions and has fewer than 16 input channels: its backward
    pass writes past oneDNN's memory (uxlfoundation/oneDNN#6035), in float32 and bfloat16, which crashes the process or
    corrupts the gradients. A trial batch reveals such a convolution; the objective itself is not changed.
    """
    if not settings.channels_last:
        return torch.contiguous_format
    tensors = chain(objective.parameters(), objective.buffers())
    if accelerator.device.type != "cpu" or not any(_is_narrow(tensor) for tensor in tensors):
        return torch.channels_last
    batch = next(batches.epoch(0, 0, accelerator.process_index, accelerator.num_processes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of copied graphs
        trial = copy.deepcopy(objective).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _Strided() as strided:
        trial(batch)
    return torch.contiguous_format if strided.seen else torch.channels_last


def _is_narrow(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < NARROW


class _Strided(TorchDispatchMode):
    """Detects whether such a convolution is computed."""

    seen = False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten.convolution.default:
            weight, stride = args[1], args[3]
            self.seen |= _is_narrow(weight) and max(stride) > 1
        return operation(*args, **(kwargs or {}))
