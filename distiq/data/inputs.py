"""Samples without labels for a network of someone's own: an array of ready inputs, or a folder of images."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES, read_image
from distiq.device import run as runner
from distiq.errors import UserError

SMALL_BYTES = 100_000_000  # an array of so many may be packed as tightly as it can be
MOST_UNPACKED = 100  # times as large as its file is an array at most: zeros pack a thousand times


class Preparation(NamedTuple):
    """How images become inputs: resized to (height, width), pixels from 0 to 1, minus mean, by std, per channel."""

    size: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def written(cls, size: str, mean: str, std: str) -> Self:
        """From numbers with commas between them.

        Raises:
            UserError: a text is none, the size is not of two, or a deviation is not positive.
        """
        sizes, means, deviations = _numbers("size", size), _numbers("mean", mean), _numbers("std", std)
        if size and (len(sizes) != 2 or min(sizes) < 1 or any(number != int(number) for number in sizes)):
            raise UserError(f"--size {size}: write height and width, such as 224,224")
        if not means or not deviations or min(deviations) <= 0:
            raise UserError(f"--mean {mean} --std {std}: write one number, or one for each channel; std above 0")
        return cls(tuple(int(number) for number in sizes), means, deviations)

    def of_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of each channel."""
        mean, std = (numbers * channels if len(numbers) == 1 else numbers for numbers in (self.mean, self.std))
        return mean, std

    def pixels(self, inputs: Tensor) -> Tensor:
        """The uint8 pixels that inputs (N, C, H, W) were made of."""
        mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (self.mean, self.std))
        return ((inputs * std + mean) * 255).round().to(torch.uint8)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        numbers = (float("nan"),)
    if not np.isfinite(numbers).all():
        raise UserError(f"--{option} {text}: write numbers with commas between them")
    return numbers


def read_inputs(
    source: Path, shape: tuple[int, ...], dtype: torch.dtype, preparation: Preparation, calibration: int, others: int
) -> tuple[Tensor, Tensor]:
    """Inputs (N, ...) to calibrate on and others to compare on, both spread evenly over what there is.

    Args:
        shape: of a sample as the network states it, -1 where it is open.
        dtype: what the network takes: float32, or int64 tokens.
        calibration: at most so many, and at most half of all. others: at most so many.

    Raises:
        UserError: there is nothing to read, fewer than two samples, values are not finite or do not fit the network.
    """
    if source.is_dir():
        files = _image_files(source)
        first, rest = shares(len(files), source, "images", calibration, others)
        parts = [_images([files[at] for at in part], shape, dtype, preparation, source) for part in (first, rest)]
        return parts[0], parts[1]
    array = _array(source)
    _check_array(array, shape, dtype, str(source))
    first, rest = shares(len(array), source, "samples", calibration, others)
    inputs = torch.from_numpy(np.array(array))
    return inputs[torch.tensor(first)].to(dtype), inputs[torch.tensor(rest)].to(dtype)


def read_named_inputs(
    source: Path, inputs: Mapping[str, tuple[tuple[int, ...], torch.dtype]], calibration: int, others: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As `read_inputs`, of a network of several inputs: an .npz with an array (N, ...) for each by its name.

    Args:
        inputs: shape of a sample, -1 where it is open, and type of each input.

    Raises:
        UserError: an array is missing or fits no input, or they hold different numbers of samples.
    """
    arrays = arrays_of(source) if source.suffix == ".npz" else {}
    if arrays.keys() != inputs.keys():
        there = f"holds {', '.join(arrays)}" if arrays else "is no .npz"
        raise UserError(
            f"{source}: {there}; the network takes {', '.join(inputs)}: store an array for each with numpy.savez"
        )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise UserError(f"{source}: {counted}; every input needs as many samples")
    for name, (shape, dtype) in inputs.items():
        _check_array(arrays[name], shape, dtype, f'{source}: "{name}"')
    first, rest = shares(next(iter(counts.values())), source, "samples", calibration, others)
    parts = [
        {name: torch.from_numpy(np.array(arrays[name][rows])).to(inputs[name][1]) for name in inputs}
        for rows in (first, rest)
    ]
    return parts[0], parts[1]


def image_inputs(
    folder: Path, shape: tuple[int, ...], dtype: torch.dtype, preparation: Preparation, most: int
) -> np.ndarray:
    """At most so many images of a folder as inputs of a network that states shape and type of a sample; see `_images`.

    Raises:
        UserError: there is none, or the network takes no images.
    """
    files = _image_files(folder)
    shares(len(files), folder, "images", 1, 1)
    chosen = [files[at] for at in _spread(list(range(len(files))), most)]
    return _images(chosen, shape, dtype, preparation, folder).numpy()


def channels_last(shape: Sequence[int]) -> bool:
    """Whether a sample is an image (height, width, 1 or 3), as TensorFlow has them."""
    return len(shape) == 3 and shape[0] not in (1, 3) and shape[2] in (1, 3)


def _image_files(folder: Path) -> list[Path]:
    return sorted(file for file in walk(folder) if file.suffix.lower() in IMAGE_SUFFIXES)


def is_finite(array: np.ndarray) -> bool:
    """Whether it holds no NaN and nothing infinite."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _check_array(array: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype, where: str) -> None:
    """Raises UserError unless an array holds finite inputs of that form."""
    own = array.shape[1:]
    if len(own) != len(shape) or any(size not in (-1, had) for size, had in zip(shape, own, strict=True)):
        stated = ", ".join("any" if size < 1 else str(size) for size in shape)
        hint = ""
        if len(own) == len(shape) == 3 and own[-1] == shape[0] and not channels_last(shape):
            hint = ": its channels stand last, store array.transpose(0, 3, 1, 2)"
        elif len(own) == 3 and own[0] == shape[-1] and channels_last(shape):
            hint = ": its channels stand first, store array.transpose(0, 2, 3, 1)"
        raise UserError(f"{where}: holds an array of shape {array.shape}; the network takes (samples, {stated}){hint}")
    if (array.dtype.kind == "f") != dtype.is_floating_point or array.dtype.kind not in "fiub":
        raise UserError(
            f"{where}: holds {array.dtype}, the network takes {str(dtype).removeprefix('torch.')}; store inputs that"
            " are ready for it, such as array.astype('float32') / 255"
        )
    finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if not finite.all():
        first_bad, count = int(np.argmin(finite)), int((~finite).sum())
        raise UserError(f"{where}: sample {first_bad} holds NaN or infinite values ({count} samples do); remove them")


def _array(source: Path) -> np.ndarray:
    arrays = arrays_of(source)
    if len(arrays) != 1:
        raise UserError(f"{source}: holds {len(arrays)} arrays ({', '.join(arrays)}); store one alone")
    return next(iter(arrays.values()))


def arrays_of(source: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npy or .npz file, by name; the only one of an .npy is called "".

    Raises:
        UserError: there is no such file, or it holds no arrays.
    """
    remedy = "give a folder of images, or inputs as a .npy or .npz file"
    if not source.is_file():
        raise UserError(f"{source}: no such folder or file; {remedy}")
    if source.suffix not in (".npy", ".npz"):
        raise UserError(f"{source}: {remedy}")
    try:
        return _unpacked(source) if source.suffix == ".npz" else {"": runner.read_npy(source)}
    except Exception as error:  # zip, pickle and numpy raise their own kinds
        raise UserError(f"{source}: cannot be read as an array ({error}); write it with numpy.save") from error


def _unpacked(source: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, whose sizes are looked at before any is unpacked."""
    with zipfile.ZipFile(source) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
        if total > max(SMALL_BYTES, MOST_UNPACKED * source.stat().st_size) or total > _memory() / 2:
            raise ValueError(f"unpacked it has {total:,} bytes, far more than the file's; store it by numpy.save")
    with np.load(source) as loaded:
        return dict(loaded)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 33


def shares(count: int, source: Path, what: str, calibration: int, others: int) -> tuple[list[int], list[int]]:
    """Numbers to calibrate on, at most half of `count`, and others, both spread evenly.

    Raises:
        UserError: there are fewer than two.
    """
    if count < 2:
        raise UserError(
            f"{source}: {count} {what} found; at least 2 are needed, one to calibrate on and one to compare"
        )
    first = _spread(list(range(count)), min(calibration, count // 2))
    taken = set(first)
    return first, _spread([at for at in range(count) if at not in taken], others)


def _spread(items: list[int], most: int) -> list[int]:
    number = min(most, len(items))
    return [items[at * len(items) // number] for at in range(number)]


def _image_shape(shape: tuple[int, ...], preparation: Preparation, source: Path) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"{source}: the network takes samples of shape {shape}, images are (1 or 3, height, width); give an array"
            " of ready inputs as .npy"
        )
    for stated, asked in zip(shape[1:], preparation.size, strict=False):
        if stated > 0 and stated != asked:
            raise UserError(
                f"--size {preparation.size}: the network takes images of {shape[1]} x {shape[2]}; leave it out"
            )
    height, width = preparation.size or shape[1:]
    if min(height, width) < 1:
        raise UserError(f"{source}: the network leaves the size of images open; give it, such as --size 224,224")
    for option, numbers in (("mean", preparation.mean), ("std", preparation.std)):
        if len(numbers) not in (1, shape[0]):
            raise UserError(
                f"--{option}: {len(numbers)} numbers, but images have {shape[0]} channels; give 1 or {shape[0]}"
            )
    return shape[0], height, width


def _images(
    files: list[Path], shape: tuple[int, ...], dtype: torch.dtype, preparation: Preparation, source: Path
) -> Tensor:
    """Inputs (N, C, H, W), or (N, H, W, C) where the shape of a sample is such; pixels as they are for a network that
    takes uint8."""
    is_last = channels_last(shape)
    sizes = _image_shape((shape[2], *shape[:2]) if is_last else shape, preparation, source)
    if dtype == torch.uint8 and (preparation.mean, preparation.std) != (Preparation().mean, Preparation().std):
        raise UserError(
            f"{source}: the network takes uint8 pixels and prepares them itself; leave out --mean and --std"
        )
    if dtype != torch.uint8 and not dtype.is_floating_point:
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"{source}: is a folder of images, and the network takes {name}; give ready inputs as .npy")
    pixels = torch.stack([read_image(file, sizes) for file in files])
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (preparation.mean, preparation.std))
    prepared = pixels if dtype == torch.uint8 else ((pixels.float() / 255 - mean) / std).to(dtype)
    return prepared.permute(0, 2, 3, 1).contiguous() if is_last else prepared
