"""What a model costs: operations and parameters."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """oneDNN computes a whole LSTM as one operation, in which no counter sees products."""
    was = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(was)


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-add operations (MACs) of one sample in convolutions and matrix products. example: (B, ...)."""
    with without_onednn(), FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).cpu().eval()(example[:1])
    return counter.get_total_flops() // 2
