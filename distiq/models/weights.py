"""What every network is before it is used: its weights are finite, and float32."""

import copy

import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.signature import type_name
from distiq.progress import Watch

SHOWN = 3
STATISTICS = ("running_mean", "running_var")


def usable(model: nn.Module, where: str, watch: Watch | None = None) -> nn.Module:
    """The model, in place, in float32; half, bfloat16 and double weights are converted, with a note.

    Args:
        where: the model came from, for messages.

    Raises:
        UserError: a weight is NaN or infinite; its name is given. Masks may be infinite: other buffers than statistics
            of a batch norm, and matrices of zeros and infinities.
    """
    parameters = dict(model.named_parameters())
    floats = {name: value for name, value in (parameters | dict(model.named_buffers())).items()
              if value.is_floating_point()}  # fmt: skip
    if broken := [name for name, value in floats.items() if not _is_sound(name, value, name in parameters)]:
        more = f", ... ({len(broken)} tensors)" if len(broken) > SHOWN else ""
        raise UserError(
            f"{where}: NaN or infinite values in {', '.join(broken[:SHOWN])}{more}; the training that made them broke"
            " down: load an earlier checkpoint"
        )
    others = sorted({type_name(value.dtype) for value in floats.values()} - {"float32"})
    if others:
        model.float()
        if watch:
            watch.note(f"{where}: its weights are {' and '.join(others)}; brought to float32")
    return model


def in_float32(model: nn.Module, where: str, watch: Watch | None = None) -> nn.Module:
    """The model where its weights are float32, else a copy of it in float32; see `usable`."""
    floats = (value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point())
    others = any(value.dtype != torch.float32 for value in floats)
    return usable(copy.deepcopy(model) if others else model, where, watch)


def _is_sound(name: str, value: Tensor, is_parameter: bool) -> bool:
    if value.element_size() < 2:  # float8 has few functions
        value = value.float()
    if is_parameter or name.rpartition(".")[2] in STATISTICS:
        finite = torch.isfinite(value)
        return bool(finite.all()) or _is_mask(value, finite)
    return not torch.isnan(value).any()


def _is_mask(value: Tensor, finite: Tensor) -> bool:
    """Whether a matrix holds zeros and infinities alone: ONNX files keep masks among their weights."""
    is_zero = bool(finite.any()) and not value[finite].any()
    return is_zero and value.ndim > 1 and not torch.isnan(value).any()
