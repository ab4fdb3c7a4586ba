"""A pack: samples of one form in one file, for data larger than memory; made once, read by index.

pack-<key>/samples.bin          the samples in order, nothing else
pack-<key>/facts.safetensors    of each its hash, and the sums of its channels; written last, so that it vouches for all
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from distiq.data.samples import channel_sums, hashes_of, name_of
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.files import load_tensors, make_folder, save_tensors, sha256_of_file, sha256_of_json
from distiq.progress import Watch

SAMPLES, FACTS = "samples.bin", "facts.safetensors"
AT_ONCE = 256  # samples that are decoded, hashed and written together


class Store(NamedTuple):
    """Where packs are kept, how many bytes of samples may be in memory instead, and where progress is shown."""

    folder: Path
    memory_bytes: int
    watch: Watch


@dataclass(frozen=True)
class Packed:
    """Samples of a pack, fetched by index and compared with their hashes; nothing but the facts stays in memory.

    Args:
        file: holds `total` samples of `shape` and `dtype`.
        hashes_in_file: (total, 16) uint8. sums_in_file: (total, C, 2) int64, of each channel and of its squares.
        positions: (N,) int64, where in the file these samples stand.
    """

    file: Path
    total: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    hashes_in_file: Tensor
    sums_in_file: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, indices: Tensor) -> Self:
        return replace(self, positions=self.positions[indices])

    def fetch(self, indices: Tensor) -> Tensor:
        """Samples (B, ...) at `indices` (B,).

        Raises:
            UserError: the file is gone or cut short, or a sample is not what was packed.
        """
        rows = self.positions[indices]
        try:  # mapped for one batch, so that pages that were read do not stay with the process
            stored = np.memmap(self.file, name_of(self.dtype), "r", shape=(self.total, *self.shape))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.file}: cannot be read ({error}); remove {self.file.parent}, then run again"
            ) from error
        samples = torch.from_numpy(np.asarray(stored)[rows.numpy()])
        if not torch.equal(hashes_of(samples), self.hashes_in_file[rows]):
            raise UserError(f"{self.file}: damaged since it was written; remove {self.file.parent}, then run again")
        return samples

    def hashes(self) -> Tensor:
        return self.hashes_in_file[self.positions]

    def channel_sums(self) -> tuple[Tensor, Tensor]:
        sums, squares = self.sums_in_file[self.positions].sum(0).unbind(1)
        return sums, squares


def packed(
    files: Sequence[Path],
    read: Callable[[Path], Tensor],
    shape: tuple[int, ...],
    folder: Path,
    watch: Watch,
    how: str = "resized",
) -> Packed:
    """The uint8 images in these files as a pack within `folder`: the one that is there, or a new one.

    Args:
        read: a file -> its image (C, H, W) uint8; called from several threads.
        how: what `read` does to them, which tells packs of the same files apart.

    Raises:
        UserError: as `read`; or the disk is full.
    """
    place = folder / f"pack-{_key(files, shape, how)}"
    facts = _facts(place, len(files) * int(np.prod(shape)))
    if facts is None:
        try:
            facts = _write(files, read, shape, place, watch)
        except OSError as error:
            raise UserError(
                f"{place}: writing failed ({error.strerror or error}); {len(files):,} images of {tuple(shape)} need"
                f" {len(files) * int(np.prod(shape)) / 1e9:.1f} GB: free the disk, or choose another folder with --run"
            ) from error
    return Packed(
        place / SAMPLES, len(files), shape, torch.uint8, facts["hashes"], facts["sums"], torch.arange(len(files))
    )


def decoded(files: Sequence[Path], read: Callable[[Path], Tensor]) -> Iterator[Tensor]:
    """The images of the files in order, (C, H, W) each, decoded by as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(files), AT_ONCE):
            yield from threads.map(read, files[start : start + AT_ONCE])


def _key(files: Sequence[Path], shape: tuple[int, ...], how: str) -> str:
    """Of what a pack is made from: the files as they are on the disk, and what decodes them."""
    from PIL import __version__ as pillow

    stats = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return sha256_of_json([stats, shape, how, sha256_of_file(Path(runner.__file__)), pillow])[:16]


def _facts(place: Path, size: int) -> dict[str, Tensor] | None:
    """The facts of a pack that was finished."""
    file = place / SAMPLES
    if not file.is_file() or file.stat().st_size != size:
        return None
    try:
        return load_tensors(place / FACTS)[0]
    except ValueError:
        return None


def _write(
    files: Sequence[Path], read: Callable[[Path], Tensor], shape: tuple[int, ...], place: Path, watch: Watch
) -> dict[str, Tensor]:
    gigabytes = len(files) * int(np.prod(shape)) / 1e9
    watch.stage(f"packing {len(files):,} images, {gigabytes:.1f} GB, into {place}")
    images = decoded(files, read)

    def chunks() -> Iterator[Tensor]:
        for start in range(0, len(files), AT_ONCE):
            yield torch.stack([next(images) for _ in files[start : start + AT_ONCE]])
            watch.step(min(start + AT_ONCE, len(files)), len(files), {})

    return _store(chunks(), place)


def pack_batches(batches: Iterable[Tensor], place: Path) -> Packed:
    """Images (B, C, H, W) of one shape and type as a pack in the folder `place`, written as they come.

    Raises:
        UserError: there are none, they are not of one form, or the disk is full.
    """
    form: list[Tensor] = []

    def alike() -> Iterator[Tensor]:
        for batch in batches:
            form.append(batch[:1] if not form else form[0])
            if batch.shape[1:] != form[0].shape[1:] or batch.dtype != form[0].dtype or batch.ndim != 4:
                raise UserError(
                    f"{place}: packs hold images (C, H, W) of one form, but {name_of(batch.dtype)}"
                    f" {tuple(batch.shape[1:])} comes behind {name_of(form[0].dtype)} {tuple(form[0].shape[1:])}"
                )
            yield batch

    try:
        facts = _store(alike(), place)
    except OSError as error:
        raise UserError(
            f"{place}: writing failed ({error.strerror or error}); free the disk, or take another"
        ) from error
    total = len(facts["hashes"])
    shape, dtype = tuple(form[0].shape[1:]), form[0].dtype
    return Packed(place / SAMPLES, total, shape, dtype, facts["hashes"], facts["sums"], torch.arange(total))


def _store(chunks: Iterable[Tensor], place: Path) -> dict[str, Tensor]:
    """Writes samples (B, C, ...) as they come, then their facts."""
    make_folder(place)
    (place / FACTS).unlink(missing_ok=True)  # what it vouched for is overwritten
    hashes, sums = [], []
    with (place / SAMPLES).open("wb") as file:
        for chunk in chunks:
            file.write(chunk.contiguous().numpy().tobytes())
            hashes.append(hashes_of(chunk))
            sums.append(torch.stack([torch.stack(channel_sums(image.unsqueeze(0)), 1) for image in chunk]))
        file.flush()
        os.fsync(file.fileno())
    if not hashes:
        raise UserError(f"{place}: there are no samples to pack")
    facts = {"hashes": torch.cat(hashes), "sums": torch.cat(sums)}
    save_tensors(facts, place / FACTS)
    return facts
