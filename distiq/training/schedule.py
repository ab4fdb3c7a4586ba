"""Learning rate, optimizer, and moving average of the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distiq.recipe.training import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int, total: int) -> float:
    """Linear warm-up over the first share of the steps, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; vectors (biases, normalization) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An update of averaged weights for `AveragedModel`, with a warm-up: after n updates the next keeps the share

        d = min(decay, n / (n + 1)),    average <- d * average + (1 - d) * weights,

    so the average is the plain mean of the first 1 / (1 - decay) steps, then exponential. A fixed decay would leave
    decay^steps of the first step's weights in it: 37 % after 1,000 steps at 0.999. Integers are copied.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor) -> None:
        count = int(updates)
        share = 1 - min(decay, count / (count + 1))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, share)
            else:
                average.copy_(weight)

    return update
