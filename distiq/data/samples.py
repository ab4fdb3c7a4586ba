"""Samples: what can be counted and fetched by index; a split is samples with labels."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.numerics import drawn

if TYPE_CHECKING:
    from distiq.data.preprocessing import Preprocessing

HASH_BYTES = 16
CHUNK, CHUNK_BYTES = 4096, 2**24  # samples that are read at a time, at most, and what they may take


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

    def take(self, indices: Tensor) -> "Samples":
        """The samples at `indices` alone, in that order; they lie where they lay."""
        ...

    def hashes(self) -> Tensor:
        """Of each sample its hash, (N, 16) uint8; see `hashes_of`."""
        ...

    def channel_sums(self) -> tuple[Tensor, Tensor]:
        """Of each channel (dimension 1) the sum of its values and of their squares, (C,) each."""
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

    def take(self, indices: Tensor) -> "InMemory":
        return InMemory(self.values[indices])

    def hashes(self) -> Tensor:
        return torch.cat([hashes_of(chunk) for chunk in in_chunks(self)])

    def channel_sums(self) -> tuple[Tensor, Tensor]:
        sums, squares = zip(*(channel_sums(chunk) for chunk in in_chunks(self)), strict=True)
        return sum(sums, torch.tensor(0)), sum(squares, torch.tensor(0))


@dataclass(frozen=True)
class Joined:
    """Samples of one form, those of `first` before those of `second`."""

    first: Samples
    second: Samples

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def fetch(self, indices: Tensor) -> Tensor:
        is_second = indices >= len(self.first)
        samples = torch.empty(len(indices), *self.shape, dtype=self.dtype)
        samples[~is_second] = self.first.fetch(indices[~is_second])
        samples[is_second] = self.second.fetch(indices[is_second] - len(self.first))
        return samples

    def take(self, indices: Tensor) -> Samples:
        return InMemory(self.fetch(indices))

    def hashes(self) -> Tensor:
        return torch.cat([self.first.hashes(), self.second.hashes()])

    def channel_sums(self) -> tuple[Tensor, Tensor]:
        (sums, squares), (more, more_squares) = self.first.channel_sums(), self.second.channel_sums()
        return sums + more, squares + more_squares


@dataclass(frozen=True)
class Split:
    """Samples with labels.

    Args:
        samples: N of them, in the form that their preprocessing takes.
        labels: (N,) int64, the class of each; or (N, classes) int64, where a sample has several labels: 1 at each
            that it has, 0 elsewhere; or (N,) float32, a number each, as networks predict it (see `Target`); or, of
            training samples, (N, classes) float32, the share of each class. `UNLABELLED`, of numbers and shares NaN, in
            a training split: such a sample is learned from through a teacher alone.
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
        """All samples in order, at most `size` at a time, and fewer of large ones."""
        return in_chunks(self.samples, size)

    def take(self, indices: Tensor | slice) -> "Split":
        """The split of the samples at `indices` alone, in that order."""
        indices = torch.arange(len(self))[indices]
        return Split(self.samples.take(indices), self.labels[indices])

    def drawn(self, most: int) -> "Split":
        """At most `most` of the samples, drawn at random, always the same ones."""
        return self.take(drawn(len(self), most))


def in_chunks(samples: Samples, most: int = CHUNK) -> Iterator[Tensor]:
    """All samples in order, at most `most` at a time and at most 16 MiB, unless a single one is larger."""
    a_sample = samples.dtype.itemsize * max(1, math.prod(samples.shape))
    size = max(1, min(most, CHUNK_BYTES // a_sample))
    return (samples.fetch(indices) for indices in torch.arange(len(samples)).split(size))


def hashes_of(samples: Tensor) -> Tensor:
    """BLAKE2b of the bytes of each sample (B, ...): (B, 16) uint8."""
    rows = samples.contiguous().numpy()
    digests = b"".join(hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in rows)
    return torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(samples), HASH_BYTES)


def in_memory(inputs: Tensor, labels: Tensor) -> Split:
    """A split of samples (N, ...) that lie in memory."""
    return Split(InMemory(inputs), labels)


class Loaded(NamedTuple):
    """What a source of samples gives.

    Args:
        preprocessing: how raw samples become inputs.
        notes: what was changed, missing, unknown, cut or left out.
        validation: samples to steer by, where the source has some of its own.
        groups: of each training sample, which belong together, such as by speaker; empty if unknown.
        names: of the training and of the test samples; empty where they have none.
        further: samples to train on alone: none of them is held out.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    preprocessing: "Preprocessing"
    notes: tuple[str, ...] = ()
    validation: Split | None = None
    groups: tuple[str, ...] = ()
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    further: Split | None = None


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


def channel_sums(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel of samples (B, C, ...) the sum and the sum of squares, (C,): exact of uint8, else float64."""
    others = [dimension for dimension in range(samples.ndim) if dimension != 1]
    if samples.dtype != torch.uint8:
        values = samples.double()
        return values.sum(others), values.square().sum(others)
    values = samples.int()
    return values.sum(others, dtype=torch.int64), values.square_().sum(others, dtype=torch.int64)


def channel_statistics(samples: Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel (dimension 1), of images scaled to 0..1 where they are uint8."""
    scale = 255.0 if samples.dtype == torch.uint8 else 1.0
    count = len(samples) * math.prod(samples.shape[1:])
    sums, squares = (total.double() for total in samples.channel_sums())
    mean = sums / count
    std = (squares / count - mean.square()).clamp(min=1e-12 * scale**2).sqrt()
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def refuse_floats(dtype: torch.dtype, noun: str, where: str) -> None:
    """Raises UserError if a model was made from samples of a type that no file holds."""
    if dtype == torch.float32:
        raise UserError(
            f"{where}: this model was made from float32 {noun}, which files do not hold; it predicts prepared inputs"
            " alone (`distiq.bundle.Bundle.classify`)"
        )


def name_of(dtype: torch.dtype) -> str:
    """A type's name, such as "uint8"."""
    return str(dtype).removeprefix("torch.")
