"""Samples: what can be counted and fetched by index; a split is samples with labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.numerics import drawn

if TYPE_CHECKING:
    from distiq.data.preprocessing import Preprocessing


class Samples(Protocol):
    """Raw samples of one shape and type, wherever they lie. Batches, evaluation and calibration read them by `fetch`.

    shape: of one sample, such as (C, H, W).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __len__(self) -> int: ...
    def fetch(self, indices: Tensor) -> Tensor:
        """Samples (B, ...) at `indices` (B,) int64, in that order."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Samples that lie in memory as one tensor (N, ...)."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def fetch(self, indices: Tensor) -> Tensor:
        return self.values[indices]


@dataclass(frozen=True)
class Split:
    """Samples with labels.

    Args:
        samples: N of them, of the form that their preprocessing asks for.
        labels: (N,) int64, the class of each; or (N, classes) int64, where a sample has several labels: 1 at each
            that it has, 0 elsewhere; or (N,) float32, a number each, as networks answer it (see `Target`).
            `UNLABELLED`, of numbers NaN, in a training split: such a sample is learned from through a teacher alone.
    """

    samples: Samples
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """All samples in memory, (N, ...)."""
        return self.samples.values if isinstance(self.samples, InMemory) else self.fetch(torch.arange(len(self)))

    def fetch(self, indices: Tensor) -> Tensor:
        """Raw samples (B, ...) at `indices` (B,)."""
        return self.samples.fetch(indices)

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All samples in order, at most `size` at a time."""
        return (self.fetch(indices) for indices in torch.arange(len(self)).split(size))

    def take(self, indices: Tensor | slice) -> "Split":
        """The split of the samples at `indices` alone, in that order."""
        indices = torch.arange(len(self))[indices]
        return in_memory(self.fetch(indices), self.labels[indices])

    def drawn(self, most: int) -> "Split":
        """At most so many of the samples, drawn at random, always the same ones."""
        return self.take(drawn(len(self), most))


def in_memory(inputs: Tensor, labels: Tensor) -> Split:
    """A split of samples (N, ...) that lie in memory."""
    return Split(InMemory(inputs), labels)


class Loaded(NamedTuple):
    """What a source of samples gives.

    Args:
        preprocessing: how raw samples become inputs.
        notes: what was changed, missing, unknown, cut or left out.
        validation: samples to steer by, where the source has some of its own.
        groups: of each training sample, which belong together, such as by speaker; empty where nobody says.
        names: of the training and of the test samples; empty where they have none.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    preprocessing: "Preprocessing"
    notes: tuple[str, ...] = ()
    validation: Split | None = None
    groups: tuple[str, ...] = ()
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


class Encoded(NamedTuple):
    """Inputs (B, ...) as a network takes them, and sentences about what was changed, missing, cut or unknown."""

    inputs: Tensor
    notes: tuple[str, ...] = ()


# Numbers to inputs ----------------------------------------------------------------------------------------------------


def standardized(inputs: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Numbers (B, C, ...) of any type as float32: integers over their span, then minus mean, by std, per channel.

    Args:
        mean, std: per channel; empty leaves the numbers as they are.
    """
    scale = {torch.uint8: 255.0, torch.int16: 32768.0}.get(inputs.dtype, 1.0)
    inputs = inputs.float() / scale
    if not mean:
        return inputs
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    means, deviations = (torch.tensor(values, device=inputs.device).view(shape) for values in (mean, std))
    return (inputs - means) / deviations


def channel_statistics(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel (dimension 1), of images scaled to 0..1 where they are uint8."""
    scale = 255.0 if inputs.dtype == torch.uint8 else 1.0
    total = torch.zeros(inputs.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    others = [dimension for dimension in range(inputs.ndim) if dimension != 1]
    for chunk in inputs.split(4096):
        values = chunk.double() / scale
        total += values.sum(others)
        squares += values.square().sum(others)
    count = inputs.numel() / inputs.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def refuse_floats(dtype: torch.dtype, noun: str, where: str) -> None:
    """Raises UserError if a model was made from samples of a type that no file holds."""
    if dtype == torch.float32:
        raise UserError(
            f"{where}: this model was made from float32 {noun}, which files do not hold; it answers prepared inputs"
            " alone (`distiq.bundle.Bundle.answer`)"
        )


def name_of(dtype: torch.dtype) -> str:
    """A type's name, such as "uint8"."""
    return str(dtype).removeprefix("torch.")
