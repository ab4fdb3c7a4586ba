"""Losses are computed in float32 or wider, whatever autocast makes of their inputs: in bfloat16 they are noise."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The same loss with autocast off and half-precision tensors widened; float64 stays float64."""

    @functools.wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        named = {key: widened(value) for key, value in kwargs.items()}
        with torch.autocast(_device((*args, *kwargs.values())), enabled=False):
            return loss(*(widened(value) for value in args), **named)  # type: ignore[arg-type]

    return computed


def widened(value: Any) -> Any:
    """Half-precision tensors as float32, also inside tuples and lists; everything else unchanged."""
    if isinstance(value, tuple | list):
        return tuple(widened(item) for item in value)
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def _device(values: tuple[Any, ...]) -> str:
    flat = [item for value in values for item in (value if isinstance(value, tuple | list) else (value,))]
    return next((item.device.type for item in flat if isinstance(item, Tensor)), "cpu")


def refuse_unless(fits: bool, loss: str, student: Tensor, teacher: Tensor, remedy: str) -> None:
    """Raises ValueError with both shapes and what to do about them."""
    if not fits:
        raise ValueError(
            f"{loss}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not fit; {remedy}"
        )
