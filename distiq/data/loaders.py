"""DataLoaders: inputs and labels of all their batches, whatever form a batch has: in memory, or in a pack."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from distiq.data.labels import untruncated
from distiq.data.pack import pack_batches
from distiq.data.samples import Split
from distiq.errors import UserError

Transform = Literal["resize", "crop", "pad"]
Key = str | int
INPUTS = (
    "pixel_values", "input_values", "input_ids", "input_features", "inputs", "input", "images", "image", "img",
    "waveforms", "waveform", "audio", "features", "x", "data",
)  # fmt: skip
LABELS = ("labels", "label", "targets", "target", "y", "class", "classes")
"""What dicts of batches call the two, the usual names of libraries first."""
UNEQUAL = "stack expects each tensor to be equal size"  # what torch says
REMEDY = 'name what brings them to one: transform="resize" with a size, "crop" or "pad"'


def collect(
    loader: Iterable[Any],
    *,
    inputs: Key | None = None,
    labels: Key | None = None,
    transform: Transform | None = None,
    size: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """All batches of a DataLoader as two tensors in memory; what a loader draws at random is frozen by this.

    Args:
        loader: batches as tuples or lists, such as (inputs, labels) or (inputs, labels, indices), or as dicts.
        inputs, labels: which part of a batch is which, by place or key; by default the first and the second, of dicts
            what is called so. What else a batch holds is left out; a warning names it unless both are named.
        transform: what brings samples of unequal sizes to one: "resize" (images, bilinear with antialiasing), "crop"
            (the middle is kept) or "pad" (zeros around; of token numbers behind).
        size: of a sample's last dimensions, such as (224, 224); by default "pad" takes the largest that occurs and
            "crop" the smallest.

    Returns:
        inputs (N, ...), and labels: (N,) or (N, classes) int64 where they are whole numbers, else float32, such as
        probabilities of classes.

    Raises:
        UserError: a batch has no such parts, labels are no numbers, or sizes differ and no transform is named.
    """
    samples: list[Tensor] = []
    all_labels: list[Tensor] = []
    for own, own_labels in _pairs(loader, inputs, labels, transform):
        samples += own
        all_labels.append(own_labels)
    if not samples:
        raise UserError("collect: the loader gives no batch")
    shapes = {tuple(part.shape[1:]) for part in samples}
    if len(shapes) > 1 or transform:
        samples = list(_fitted(samples, sorted(shapes), transform, size))
    joined = torch.cat(samples), untruncated(torch.cat(all_labels))
    if len(joined[0]) != len(joined[1]):
        raise UserError(f"collect: {len(joined[0])} inputs, but {len(joined[1])} labels; name which part is which")
    return joined


def from_loader(
    loader: Iterable[Any],
    folder: str | Path,
    *,
    inputs: Key | None = None,
    labels: Key | None = None,
    transform: Transform | None = None,
    size: Sequence[int] = (),
) -> Split:
    """The images of a DataLoader as samples that lie in a file and are read by index: for data larger than memory.

    They are written once, batch by batch, as its workers decode them; what it draws at random is frozen by this.

    Args:
        folder: of the file, `samples.bin`; what a pack held there is written anew.
        inputs, labels, transform, size: as for `collect`; a transform needs its size.

    Returns:
        A split for `from_tensors`.

    Raises:
        UserError: as `collect`; the samples are no images of one form, or the disk is full.
    """
    all_labels: list[Tensor] = []

    def batches() -> Iterator[Tensor]:
        for own, own_labels in _pairs(loader, inputs, labels, transform):
            shapes = sorted({tuple(part.shape[1:]) for part in own})
            if transform and not size:
                raise UserError(f'from_loader: transform="{transform}" needs a size; give size=(height, width)')
            if len(shapes) > 1 or transform:
                own = list(_fitted(own, shapes, transform, size))
            all_labels.append(own_labels)
            yield torch.cat(own)

    samples = pack_batches(batches(), Path(folder))
    joined = untruncated(torch.cat(all_labels))
    if len(samples) != len(joined):
        raise UserError(f"from_loader: {len(samples)} inputs, but {len(joined)} labels; name which part is which")
    return Split(samples, joined)


def _pairs(
    loader: Iterable[Any], inputs: Key | None, labels: Key | None, transform: Transform | None
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Of each batch its samples, as tensors (B, ...) of one shape each, and its labels."""
    for number, batch in enumerate(_batches(loader, transform)):
        own, own_labels = _parts(batch, inputs, labels, f"batch {number}")
        if number == 0 and len(batch) > 2 and (inputs is None or labels is None):
            _warn_of_the_rest(batch, own, own_labels)
        yield _tensors(own, f"batch {number}"), _label_tensor(own_labels, f"batch {number}")


def _batches(loader: Iterable[Any], transform: Transform | None) -> Iterator[Any]:
    """The loader's batches; where it would stack samples of unequal sizes, which a transform is for, unstacked."""
    if isinstance(loader, DataLoader) and transform and loader.collate_fn is default_collate:
        how: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            how = {"batch_size": loader.batch_size}
        loader = DataLoader(loader.dataset, collate_fn=_unstacked, num_workers=loader.num_workers, **how)
    try:
        yield from loader
    except RuntimeError as error:
        if UNEQUAL not in str(error):
            raise
        raise UserError(f"collect: the loader cannot stack samples of unequal sizes; {REMEDY}") from error


def _unstacked(samples: Any) -> Any:
    """A batch of samples as lists of their parts."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: [sample[key] for sample in samples] for key in first}
    return [list(part) for part in zip(*samples, strict=True)] if isinstance(first, tuple | list) else first


# Parts of a batch -----------------------------------------------------------------------------------------------------


def _parts(batch: Any, inputs: Key | None, labels: Key | None, where: str) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        return batch[_key(batch, inputs, INPUTS, "inputs", where)], batch[_key(batch, labels, LABELS, "labels", where)]
    if not isinstance(batch, tuple | list):
        raise UserError(
            f"collect: {where} is one {type(batch).__name__} without labels; let the data set give (input, label)"
        )
    return batch[_place(batch, inputs, 0, where)], batch[_place(batch, labels, 1, where)]


def _warn_of_the_rest(batch: Any, own: Any, own_labels: Any) -> None:
    parts = list(batch.items() if isinstance(batch, Mapping) else enumerate(batch))
    read = [repr(key) for part in (own, own_labels) for key, value in parts if value is part]
    rest = ", ".join(repr(key) for key, value in parts if value is not own and value is not own_labels)
    said = f"inputs={read[0]}, labels={read[-1]}"
    warnings.warn(
        f"collect: of each batch {rest} is left out; {said} are read: name both where others are meant", stacklevel=4
    )


def _place(batch: Sequence[Any], asked: Key | None, usual: int, where: str) -> int:
    place = usual if asked is None else asked
    if not isinstance(place, int) or not 0 <= place < len(batch):
        raise UserError(f"collect: {where} has {len(batch)} parts, but none at {place!r}; name a place from 0 on")
    return place


def _key(batch: Mapping[Any, Any], asked: Key | None, usual: Sequence[str], what: str, where: str) -> Any:
    there = [key for key in ([asked] if asked is not None else usual) if key in batch]
    if not there:
        names = ", ".join(map(str, batch))
        named = f"no {asked!r}" if asked is not None else f"nothing that is called as {what} are"
        raise UserError(
            f'collect: {where} has {named} among {names}; name its key, such as {what}="{next(iter(batch), "")}"'
        )
    return there[0]


def _tensors(values: Any, where: str) -> list[Tensor]:
    """Samples of a batch as tensors (B, ...) of one shape each."""
    if isinstance(values, Tensor | np.ndarray):
        return [torch.as_tensor(values)]
    if isinstance(values, Sequence) and values and all(isinstance(one, Tensor | np.ndarray) for one in values):
        return [torch.as_tensor(one).unsqueeze(0) for one in values]
    raise UserError(
        f"collect: the inputs of {where} are {type(values).__name__}; let the data set give tensors, or name which part"
        " they are"
    )


def _label_tensor(values: Any, where: str) -> Tensor:
    """(B,) or (B, classes) of the numbers in a tensor, an array or a list."""
    try:
        rows = [torch.as_tensor(one) for one in values] if isinstance(values, list | tuple) else None
        stacked = torch.as_tensor(values) if rows is None else torch.stack(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"collect: the labels of {where} are no numbers alike ({values!r:.60}); give class numbers, 0 or 1 for each"
            " label, or probabilities of classes"
        ) from error
    return stacked.squeeze(1) if stacked.ndim == 2 and stacked.shape[1] == 1 else stacked


# Unequal sizes --------------------------------------------------------------------------------------------------------


def _fitted(
    samples: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], transform: Transform | None, size: Sequence[int]
) -> Iterator[Tensor]:
    """Samples (B, ...) brought to one size of the dimensions in which they may differ: of images the last two, of
    others the last."""
    free = 2 if len(shapes[0]) == 3 else 1
    if len({(len(shape), shape[:-free]) for shape in shapes}) > 1:
        raise UserError(f"collect: samples of the shapes {shapes[0]} and {shapes[-1]} cannot be brought to one form")
    if transform is None:
        raise UserError(f"collect: samples have {len(shapes)} shapes, such as {shapes[0]} and {shapes[-1]}; {REMEDY}")
    sizes = list(zip(*(shape[-free:] for shape in shapes), strict=True))
    target = tuple(size) or tuple(map(min if transform == "crop" else max, sizes))
    if (transform == "resize" and (free == 1 or not size)) or len(target) != free:
        remedy = "size=(height, width)" if free == 2 else 'size=(length,) with "crop" or "pad"'
        raise UserError(
            f'collect: transform="{transform}" with size={tuple(size)} does not fit samples of shape {shapes[0]}; give'
            f" {remedy}"
        )
    for part in samples:
        yield _resized(part, target) if transform == "resize" else _framed(part, target, transform)


def _resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.to(images.dtype) if images.is_floating_point() else resized.round().clamp(0, 255).to(images.dtype)


def _framed(samples: Tensor, size: tuple[int, ...], transform: Transform) -> Tensor:
    """The middle of what is too large, and, to pad, zeros around what is too small; of token numbers behind."""
    for dimension, target in zip(range(-len(size), 0), size, strict=True):
        length = samples.shape[dimension]
        if length > target:
            samples = samples.narrow(dimension, 0 if samples.dtype == torch.int64 else (length - target) // 2, target)
        elif length < target:
            if transform == "crop":
                raise UserError(f'collect: a sample of {length} cannot be cropped to {target}; take "pad" or "resize"')
            before = 0 if samples.dtype == torch.int64 else (target - length) // 2
            around = [0, 0] * (-dimension - 1) + [before, target - length - before]
            samples = F.pad(samples, around)
    return samples
