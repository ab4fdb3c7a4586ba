"""What a model costs: operations and parameters."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-add operations (MACs) of one sample in convolutions and matrix products. example: (B, ...)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).cpu().eval()(example[:1])
    return counter.get_total_flops() // 2
