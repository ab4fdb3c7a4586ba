"""A teacher is a value with one method: whatever stands behind it, it turns a batch into knowledge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from distiq.distillation.taps import tapped
from distiq.training import Batch


@dataclass(frozen=True)
class Knowledge:
    """A teacher's answer to a batch: logits (B, classes) float32 and activations by module path."""

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)


class Teacher(Protocol):
    """Answers a batch. The answer carries no gradient."""

    def __call__(self, batch: Batch) -> Knowledge: ...


class LiveTeacher:
    """A network that runs at every step: frozen, in eval mode, without gradients, in full precision.

    Args:
        model: is moved to the batch's device when it is first used; the caller's object is not changed otherwise.
        paths: modules whose activations are wanted.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str] = ()) -> None:
        self.model, self.paths = freeze(model), tuple(paths)

    def __call__(self, batch: Batch) -> Knowledge:
        self.model.to(batch.images.device)
        with (
            torch.no_grad(),
            torch.autocast(batch.images.device.type, enabled=False),
            tapped(self.model, self.paths) as features,
        ):
            logits = self.model(batch.images)
        return Knowledge(logits.float(), features)

    def __deepcopy__(self, _memo: dict) -> "LiveTeacher":
        return self  # copies of an objective (a moving average, a trial of its speed) share their teacher


def freeze(model: nn.Module) -> nn.Module:
    """The same model in eval mode, with parameters that take no gradient."""
    return model.eval().requires_grad_(False)
