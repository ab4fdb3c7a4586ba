"""What a model costs: operations and parameters."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-add operations (MACs) of one sample in convolutions and matrix products. example: (B, ...)."""
    return layer_macs(model, example).get("", 0)


def layer_macs(model: nn.Module, example: Tensor) -> dict[str, int]:
    """The same of each module that computes any, with all that is in it, by its path; the model's own is ""."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).cpu().eval()(example[:1])
    return {name.partition(".")[2]: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
