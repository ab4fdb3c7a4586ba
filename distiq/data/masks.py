"""Masks beside images: every pixel's class, as images of class numbers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES, Images, read_images
from distiq.data.pack import Store
from distiq.data.samples import Loaded, Split
from distiq.device import run as runner
from distiq.errors import UserError

VOID = runner.VOID
NAMES = "classes.txt"
MASK_ENDING = "_mask"
MOST_CLASSES = 254


def masked_images(
    folder: Path, shape: tuple[int, ...], void: int = VOID, validation: str = "", store: Store | None = None
) -> Loaded:
    """The images of a folder that holds train/ and test/, with a mask for each of the same name.

    The masks of train/ lie in train_masks/, or the two in train/images/ and train/masks/, or in images/train/ and
    masks/train/, or the mask beside its image as street.png or street_mask.png. classes.txt names the classes, one a
    line; what it calls "void" is none. Images and masks are letterboxed: what lies beside an image is void.

    Args:
        shape: (C, H, W) of an image as it is learned from.
        void: the value of pixels that belong to no class, beside 255.
        validation: the name of a third part, where there is one.
        store: where images are packed that memory has no room for.

    Raises:
        UserError: a part, a mask or an image is missing or does not decode, a mask has another size than its image, or
            a value without a class.
    """
    names, void = _named_classes(folder, void)
    parts = {part: _pairs(folder, part) for part in ("train", "test", *([validation] if validation else []))}
    most = len(names) or MOST_CLASSES
    labels = {part: _read_masks(pairs, shape, void, most, names) for part, pairs in parts.items()}
    if not names:
        seen = [mask[mask != VOID] for mask in labels.values()]
        most = max((int(values.max()) + 1 for values in seen if len(values)), default=0)
        names = tuple(str(number) for number in range(most))
    samples = read_images([[image for image, _ in pairs] for pairs in parts.values()], shape, store, letterbox=True)
    splits = {part: Split(one, labels[part]) for part, one in zip(parts, samples, strict=True)}
    files = [tuple(str(image.relative_to(folder)) for image, _ in parts[part]) for part in ("train", "test")]
    return Loaded(
        names, splits["train"], splits["test"], Images(tuple(shape), letterbox=True), (), splits.get(validation),
        names=(files[0], files[1]),
    )  # fmt: skip


def _named_classes(folder: Path, void: int) -> tuple[tuple[str, ...], int]:
    """The classes that a folder names, and the value of void pixels."""
    path = folder / NAMES
    if not path.is_file():
        return (), void
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    lowered = [name.lower() for name in names]
    if "void" in lowered:
        place = lowered.index("void")
        if place != len(names) - 1:
            raise UserError(
                f'{path}: "void" stands on line {place + 1}, before a class; name it last, as the largest value'
            )
        return tuple(names[:-1]), place
    return tuple(names), void


def has_masks(folder: Path) -> bool:
    """Whether a folder's training images have masks."""
    *apart, (beside, _) = _places(folder, "train")
    if any(images.is_dir() and masks.is_dir() for images, masks in apart):
        return True
    files = [file for file in walk(beside) if file.suffix.lower() in IMAGE_SUFFIXES] if beside.is_dir() else []
    return bool(files) and 2 * sum(_is_mask(file, files) for file in files) == len(files)


def images_of(folder: Path, part: str) -> list[Path]:
    """The images of a part that have masks."""
    return [image for image, _ in _pairs(folder, part)]


def _places(folder: Path, part: str) -> tuple[tuple[Path, Path], ...]:
    """Where images and masks of a part may lie."""
    return (
        (folder / part / "images", folder / part / "masks"),
        (folder / "images" / part, folder / "masks" / part),
        (folder / part, folder / f"{part}_masks"),
        (folder / part, folder / part),
    )


def _pairs(folder: Path, part: str) -> list[tuple[Path, Path]]:
    """Each image of a part with its mask, sorted."""
    for images, masks in _places(folder, part):
        if images.is_dir() and masks.is_dir():
            return _matched(images, masks)
    raise UserError(
        f"{folder}: has no {part} part; images lie in {part}/ and their masks in {part}_masks/, of the same names"
    )


def _matched(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    files = sorted(file for file in walk(images) if file.suffix.lower() in IMAGE_SUFFIXES)
    beside = images == masks
    drawn = {_stem(file, masks): file for file in walk(masks) if file.suffix.lower() in IMAGE_SUFFIXES and
             (not beside or _is_mask(file, files))}  # fmt: skip
    if beside:
        files = [file for file in files if file not in set(drawn.values())]
    if not files:
        raise UserError(f"{images}: no images ({', '.join(IMAGE_SUFFIXES)}); fill the folder")
    if lacking := [file for file in files if _stem(file, images) not in drawn]:
        more = f" ({len(lacking)} images have none)" if len(lacking) > 1 else ""
        raise UserError(f"{lacking[0]}: has no mask in {masks}{more}; give it one of the same name")
    if orphans := set(drawn) - {_stem(file, images) for file in files}:
        raise UserError(
            f"{drawn[min(orphans)]}: there is no image of this mask in {images}; remove it, or add the image"
        )
    return [(file, drawn[_stem(file, images)]) for file in files]


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix().removesuffix(MASK_ENDING)


def _is_mask(file: Path, files: Sequence[Path]) -> bool:
    """Whether an image beside others is a mask: street_mask.png, or street.png beside street.jpg."""
    twins = [one for one in files if one.stem == file.stem and one.parent == file.parent and one != file]
    return file.stem.endswith(MASK_ENDING) or (file.suffix.lower() == ".png" and bool(twins))


def _read_masks(
    pairs: Sequence[tuple[Path, Path]], shape: Sequence[int], void: int, classes: int, names: Sequence[str]
) -> Tensor:
    """The masks of a part, (N, H, W) uint8."""
    masks = torch.full((len(pairs), *shape[1:]), VOID, dtype=torch.uint8)
    read = partial(read_mask, void=void)
    for number, (image, path) in enumerate(pairs):
        mask = read(path)
        size = runner.image_size(image)
        if mask.shape != size:
            raise UserError(
                f"{path}: this mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}; make"
                " them alike"
            )
        strange = mask[(mask >= classes) & (mask != VOID)]
        if len(strange):
            expected = f"{len(names)} classes (0 to {len(names) - 1})" if names else f"at most {classes} classes"
            raise UserError(
                f"{path}: holds the value {int(strange[0])}, but there are {expected}; name the class in {NAMES}, or"
                " set data.void to the value of pixels without one"
            )
        rows, columns = runner.fitted_size(*mask.shape, shape)
        masks[number, :rows, :columns] = torch.from_numpy(_resized(mask, rows, columns))
    return masks


def read_mask(path: Path, void: int = VOID) -> np.ndarray:
    """A mask (H, W) uint8 of class numbers, 255 where a pixel belongs to none.

    Raises:
        UserError: it does not decode, or holds colours.
    """
    from PIL import Image, ImageOps

    try:
        with runner.quiet(), Image.open(path, formats=runner.FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            values = np.asarray(image)
    except Exception as error:  # Pillow lets its decoders' own errors through
        raise UserError(f"{path}: this mask does not decode ({error}); repair or remove it") from error
    if values.ndim != 2:
        raise UserError(f"{path}: this mask holds colours; save it as an image of class numbers (grey or palette)")
    values = values.astype(np.int64)
    return np.where((values == void) | (values > VOID), VOID, values).astype(np.uint8)


def _resized(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The mask with so many rows and columns, of the nearest values."""
    down = ((np.arange(rows) + 0.5) * mask.shape[0] / rows).astype(int)
    right = ((np.arange(columns) + 0.5) * mask.shape[1] / columns).astype(int)
    return np.ascontiguousarray(mask[down][:, right])
