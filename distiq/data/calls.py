"""Calls of a network of someone's own: what each of its inputs is given, from arrays or images, call by call.

A network need not take batches: states may have theirs on another axis, a sampling rate has none, a file may be fixed
to one sample. An array holds the samples of its input on the axis where the input has its batch, in front in place of
that axis, or before all axes; an array without an axis of samples is given to every call as it is.
"""

import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distiq.data.inputs import Preparation, arrays_of, image_inputs, is_finite, shares
from distiq.errors import UserError

LARGEST_CALL = 2**20  # bytes of a call's inputs: more samples would fill the memory with what lies between the layers
LARGEST_BATCH = 8


class Input(NamedTuple):
    """What a file says of an input: its name, its shape, -1 where a size is free, and its type; of sizes that are free
    the names, by their axes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    free: Mapping[int, str] = {}


class Column(NamedTuple):
    """The array of one input.

    Attributes:
        axis: of the samples; None where every call has the same. apart: whether the input itself has no such axis.
    """

    array: np.ndarray
    axis: int | None
    apart: bool

    def of(self, rows: Sequence[int]) -> np.ndarray:
        """What the input is given for samples of those numbers."""
        if self.axis is None:
            return self.array
        return np.array(self.array[rows[0]] if self.apart else np.take(self.array, rows, self.axis), order="C")


@dataclass(frozen=True)
class Calls:
    """Samples of those rows, `batch` for each call, `smallest` of them at least."""

    columns: Mapping[str, Column]
    rows: tuple[int, ...]
    batch: int
    smallest: int = 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self.rows), self.batch):
            rows = self.rows[start : start + self.batch]
            yield {name: column.of(rows) for name, column in self.columns.items()}

    @property
    def samples(self) -> int:
        return len(self.rows)

    def one_by_one(self) -> "Calls":
        """The same samples in the smallest calls that the file takes."""
        return replace(self, batch=self.smallest)

    def few(self, most: int) -> "Calls":
        """At most so many samples, but one call, spread over all."""
        starts = range(0, len(self.rows), self.batch)
        step = -(-len(starts) // max(most // self.batch, 1))
        rows = [row for start in starts[::step] for row in self.rows[start : start + self.batch]]
        return replace(self, rows=tuple(rows))


def names_in(source: Path) -> list[str]:
    """The names of the arrays in an .npz file; none where it is no such file."""
    if source.suffix != ".npz" or not zipfile.is_zipfile(source):
        return []
    with zipfile.ZipFile(source) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_calls(
    source: Path, inputs: Sequence[Input], preparation: Preparation, calibration: int, others: int
) -> tuple[Calls, Calls]:
    """Calls to calibrate on and others to compare on, both spread evenly over what there is.

    Args:
        source: an .npz with an array for each input by its name, an array (N, ...) as .npy or a folder of images where
            there is one input.
        calibration: samples, at most half of all. others: at most so many.

    Raises:
        UserError: there is nothing to read, fewer than two samples, values are not finite or do not fit the network.
    """
    arrays = _arrays(source, inputs, preparation, calibration + others)
    for one in inputs:
        _check(arrays[one.name], one, source)
    count = _count(arrays, inputs, source)
    columns = {one.name: _column(arrays[one.name].astype(one.dtype, copy=False), one, count, source) for one in inputs}
    _check_counts(columns, inputs, source)
    group = _group(columns, inputs, source)
    first, rest = shares(count // group, source, f"calls of {group} samples" if group > 1 else "samples",
                         max(calibration // group, 1), max(others // group, 1))  # fmt: skip
    batch = group if group > 1 else _batch(columns, inputs, count)
    parts = [tuple(start * group + at for start in part for at in range(group)) for part in (first, rest)]
    return Calls(columns, parts[0], batch, group), Calls(columns, parts[1], batch, group)


def _arrays(source: Path, inputs: Sequence[Input], preparation: Preparation, most: int) -> Mapping[str, np.ndarray]:
    if source.is_dir():
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise UserError(f"{source}: is a folder of images; the network takes {names}: store an array for each")
        return {inputs[0].name: image_inputs(source, inputs[0].shape[1:], _torch(inputs[0].dtype), preparation, most)}
    arrays = arrays_of(source)
    if len(inputs) == len(arrays) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    if missing := [one.name for one in inputs if one.name not in arrays]:
        there = f"holds {', '.join(arrays)}" if source.suffix == ".npz" else "is no .npz"
        raise UserError(
            f"{source}: {there}; the network takes {', '.join(one.name for one in inputs)}: store an array for each"
            f" with numpy.savez (no {', '.join(missing)} is there)"
        )
    return arrays


def _torch(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, dtype)).dtype


def _check(array: np.ndarray, one: Input, source: Path) -> None:
    own = f'{source}: "{one.name}"'
    if array.dtype.kind.replace("u", "i") != one.dtype.kind.replace("u", "i"):
        raise UserError(
            f"{own}: holds {array.dtype}, the network takes {one.dtype}; store inputs that are ready for it, such as"
            f" array.astype('{one.dtype}')"
        )
    if not is_finite(array):
        raise UserError(f"{own}: holds NaN or infinite values; remove these samples")


def _count(arrays: Mapping[str, np.ndarray], inputs: Sequence[Input], source: Path) -> int:
    """How many samples there are: what most arrays hold where their inputs leave a size free, or do not fit."""
    before, inside = list[int](), list[int]()
    for one in inputs:
        sizes = arrays[one.name].shape
        if len(sizes) == len(one.shape) + 1:
            before.append(sizes[0])
        elif len(sizes) == len(one.shape):
            open_sizes = (
                had for had, stated in zip(sizes, one.shape, strict=True) if stated in (-1, 1) or had != stated
            )
            inside += [next(open_sizes, sizes[0])] if sizes else []
    if not before and not inside:
        raise UserError(f"{source}: no array has an axis for its samples")
    counts = [size for size in before or inside if size > 1] or before or inside
    return max(counts, key=counts.count)


def _column(array: np.ndarray, one: Input, count: int, source: Path) -> Column:
    rank = len(one.shape)
    if array.ndim == rank + 1 and len(array) == count and _fits(array.shape[1:], one.shape):
        return Column(array, 0, apart=True)
    if array.ndim == rank and rank:
        batches = [axis for axis in range(rank) if one.shape[axis] in (-1, 1)]
        others = [axis for axis in range(rank) if axis not in batches]
        in_front = [(np.moveaxis(array, 0, axis), axis) for axis in batches if axis and len(array) == count]
        places = [(array, axis) for axis in batches], in_front, [(array, axis) for axis in others]
        for held, axis in itertools.chain(*places):
            stated = (*one.shape[:axis], -1, *one.shape[axis + 1 :])
            if held.shape[axis] == count and _fits(held.shape, stated):
                return Column(held, axis, apart=False)
    if array.ndim == rank and _fits(array.shape, one.shape):
        return Column(array, None, apart=False)
    sizes = ", ".join("any" if size < 1 else str(size) for size in one.shape)
    raise UserError(
        f'{source}: "{one.name}": holds an array of shape {array.shape} for {count} samples; the network takes'
        f" ({sizes})"
    )


def _check_counts(columns: Mapping[str, Column], inputs: Sequence[Input], source: Path) -> None:
    """Raises UserError if an array that every call would be given as it is has a number of samples of its own."""
    sampled = {
        one.free[column.axis]: f"{column.array.shape[column.axis]} of {one.name}"
        for one in inputs
        if (column := columns[one.name]).axis is not None and not column.apart and column.axis in one.free
    }
    for one in inputs:
        for axis, name in one.free.items():
            column = columns[one.name]
            if column.axis is None and name in sampled and column.array.shape[axis] > 1:
                raise UserError(
                    f"{source}: {sampled[name]}, {column.array.shape[axis]} of {one.name}; give as many samples of each"
                )


def _fits(shape: Sequence[int], stated: Sequence[int]) -> bool:
    return all(size in (-1, had) for size, had in zip(stated, shape, strict=True))


def _group(columns: Mapping[str, Column], inputs: Sequence[Input], source: Path) -> int:
    """How many samples a call has to have: more than one where the file is fixed to that."""
    fixed = {
        one.shape[column.axis]
        for one in inputs
        if (column := columns[one.name]).axis is not None and not column.apart and one.shape[column.axis] > 1
    }
    if len(fixed) > 1:
        raise UserError(f"{source}: the file is fixed to batches of {sorted(fixed)} samples at once")
    return fixed.pop() if fixed else 1


def _batch(columns: Mapping[str, Column], inputs: Sequence[Input], count: int) -> int:
    """How many samples a call may have: one, unless every input has a free axis for them."""
    for one in inputs:
        column = columns[one.name]
        if column.axis is None or column.apart or one.shape[column.axis] != -1:
            return 1
    size = sum(column.array.nbytes for column in columns.values()) / count
    return int(min(max(LARGEST_CALL // max(size, 1), 1), LARGEST_BATCH))
