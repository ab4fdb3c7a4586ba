"""Learning rate, optimizer, and moving average of the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distiq.models.checkpoint import LOADED
from distiq.recipe.training import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int, total: int) -> float:
    """Linear warm-up over the first share of the steps, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; vectors (biases, normalization) are not decayed.

    A group's "share" is that of the learning rate: `pretrained_rate` for weights that were loaded; see `load_weights`.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loaded = _loaded(model) if settings.pretrained_rate != 1 else set()
    groups: list[dict[str, Any]] = []
    for share, own in (
        (1.0, [p for p in trained if p not in loaded]),
        (settings.pretrained_rate, [p for p in trained if p in loaded]),
    ):
        for decay, is_decayed in ((settings.weight_decay, True), (0.0, False)):
            params = [p for p in own if (p.ndim > 1) == is_decayed]
            groups += [{"params": params, "weight_decay": decay, "share": share}] if own else []
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def _loaded(model: nn.Module) -> set[nn.Parameter]:
    """The parameters whose values were loaded from a file of weights."""
    found = set[nn.Parameter]()
    for module in model.modules():
        if names := getattr(module, LOADED, ()):
            own = dict(module.named_parameters(remove_duplicate=False))  # a file may name tied ones by either name
            found |= {own[name] for name in names if name in own}
    return found


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
