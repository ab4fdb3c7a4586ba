"""Images with boxes: annotations of a folder as labels, and the packed blood cells (BCCD)."""

import importlib.resources
import io
import json
import os
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distiq.data.annotations import Annotated, Box, Part, has_part, read_part
from distiq.data.images import Images, read_images
from distiq.data.pack import Store
from distiq.data.part_file import measured_part
from distiq.data.samples import InMemory, Loaded, Split
from distiq.device.run import fitted_size, letterboxed
from distiq.errors import UserError

PADDING = -1.0
"""The class of rows that hold no box."""
SMALLEST = 1.0  # pixels of the image that a box's sides have at least


def boxed_images(folder: Path, shape: tuple[int, ...], validation: str = "", store: Store | None = None) -> Loaded:
    """The images of a folder that holds train and test parts with annotated boxes; see `annotations.read_part`.

    Images of any size are letterboxed into `shape` (C, H, W), boxes with them. What lies outside an image is cut off,
    what is left of less than a pixel is left out, and both are counted.

    Raises:
        UserError: annotations are missing, wrong or of two formats, an image is missing or does not decode.
    """
    measured, said_of_parts = measured_part(partial(has_part, folder), validation, folder)
    places = {"train": "train", "test": measured} | ({validation: validation} if validation else {})
    parts = {part: read_part(folder, place) for part, place in places.items()}
    names = _classes(parts, folder)
    notes = [*said_of_parts]
    for name, part in parts.items():
        parts[name], said = _sound(part, name)
        notes += said
    samples = read_images([[image.file for image in part.images] for part in parts.values()], shape, store, True)
    splits = {
        name: Split(own, labels_of(part.images, names, shape))
        for (name, part), own in zip(parts.items(), samples, strict=True)
    }
    files = [tuple(os.path.relpath(one.file, folder) for one in parts[part].images) for part in ("train", "test")]
    return Loaded(
        names, splits["train"], splits["test"], Images(tuple(shape), letterbox=True), tuple(notes),
        splits.get(validation), names=(files[0], files[1]),
    )  # fmt: skip


def _classes(parts: dict[str, Part], folder: Path) -> tuple[str, ...]:
    """The classes of the training part; those of others have to be among them."""
    names = parts["train"].names
    used = {box.label for image in parts["train"].images for box in image.boxes}
    names = tuple(name for name in names if name in used)
    if not names:
        raise UserError(f"{folder}: the train part has no box; there is nothing to learn")
    for part, content in parts.items():
        strange = sorted({box.label for image in content.images for box in image.boxes} - set(names))
        if strange:
            raise UserError(
                f'{folder}: the {part} part has boxes of "{strange[0]}", which no training image shows; the classes are'
                f" {', '.join(names)}: correct the name, or give it training images"
            )
    return names


def _sound(part: Part, name: str) -> tuple[Part, list[str]]:
    """The part with boxes cut off at their images' sides, without those of which nothing is left; and what was done."""
    clipped = empty = twice = 0
    said = [f"{name}: {note}" for note in part.notes]
    images = []
    for image in part.images:
        kept = []
        for box in image.boxes:
            inside = _inside(box, image.size)
            clipped += inside != box.corners
            if inside[2] - inside[0] < SMALLEST or inside[3] - inside[1] < SMALLEST:
                empty += 1
                continue
            kept.append(box._replace(corners=inside))
        alone = list(dict.fromkeys(kept))
        twice += len(kept) - len(alone)
        images.append(image._replace(boxes=tuple(alone)))
    if clipped:
        said.append(f"{name}: {clipped:,} boxes reach beyond their image; they are cut off at its sides")
    if empty:
        said.append(f"{name}: {empty:,} boxes of less than one pixel are left out")
    if twice:
        said.append(f"{name}: {twice:,} boxes stand in their image more than once; one of each is kept")
    if bare := sum(not image.boxes for image in images):
        said.append(f"{name}: {bare:,} of {len(images):,} images have no box")
    return Part(images, part.names), said


def _inside(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.corners
    height, width = size
    return max(0.0, min(x0, width)), max(0.0, min(y0, height)), max(0.0, min(x1, width)), max(0.0, min(y1, height))


def labels_of(images: Sequence[Annotated], names: Sequence[str], shape: Sequence[int]) -> Tensor:
    """Boxes of letterboxed images: (N, M, 6) float32 of class, x0, y0, x1, y1, crowd; rows of class -1 are padding."""
    most = max(1, *(len(image.boxes) for image in images))
    labels = torch.zeros(len(images), most, 6)
    labels[:, :, 0] = PADDING
    for number, image in enumerate(images):
        rows, columns = fitted_size(*image.size, shape)
        scale = torch.tensor([columns / image.size[1], rows / image.size[0]] * 2)
        for place, box in enumerate(image.boxes):
            corners = torch.tensor(box.corners) * scale
            labels[number, place] = torch.tensor([names.index(box.label), *corners.tolist(), float(box.crowd)])
    return labels


# Blood cells ----------------------------------------------------------------------------------------------------------

BCCD_PARTS = ("train", "test", "val")


def packaged_bccd(shape: tuple[int, ...], validation: int = 87) -> Loaded:
    """Blood cells (BCCD, MIT): 205 training, 87 validation and 72 test images of 320 x 240 with boxes of three classes.

    Args:
        shape: (C, H, W) that they are letterboxed into.
        validation: of the validation images, how many steer, at most; the others, drawn at random, are trained on.
    """
    root = importlib.resources.files("distiq.data") / "bccd"
    about = json.loads((root / "boxes.json").read_bytes())
    parts, notes = {part: list(about[part]) for part in BCCD_PARTS}, tuple[str, ...]()
    if joining := max(0, len(parts["val"]) - validation):
        order = torch.randperm(len(parts["val"]), generator=torch.Generator().manual_seed(0)).tolist()
        parts["train"] += [parts["val"][place] for place in sorted(order[:joining])]
        parts["val"] = [parts["val"][place] for place in sorted(order[joining:])]
        notes = (f"{joining} of the set's {len(order)} validation images are trained on, {validation} steer",)
    splits = {}
    with zipfile.ZipFile(io.BytesIO((root / "images.zip").read_bytes())) as archive:
        for part, content in parts.items():
            rows = [Annotated(Path(name), (240, 320), _boxes(boxes, about["classes"])) for name, boxes in content]
            images = torch.stack([_decoded(archive.read(name), shape) for name, _ in content])
            splits[part] = Split(InMemory(images), labels_of(rows, about["classes"], shape))
    return Loaded(
        tuple(about["classes"]), splits["train"], splits["test"], Images(tuple(shape), letterbox=True), notes,
        splits["val"], names=(_names(parts["train"]), _names(parts["test"])),
    )  # fmt: skip


def _names(content: Sequence[tuple[str, object]]) -> tuple[str, ...]:
    return tuple(name for name, _ in content)


def _boxes(rows: Sequence[Sequence[float]], names: Sequence[str]) -> tuple[Box, ...]:
    return tuple(Box(names[int(label)], (x0, y0, x1, y1)) for label, x0, y0, x1, y1 in rows)


def _decoded(content: bytes, shape: tuple[int, ...]) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(letterboxed(image, shape).copy())
