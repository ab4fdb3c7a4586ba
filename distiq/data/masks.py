"""Masks beside images: every pixel's class, as images of class numbers."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES, Images, read_images
from distiq.data.mask_colours import NAMES, Classes, classes_of
from distiq.data.named_files import image_of_stem, listed_stems
from distiq.data.pack import Store
from distiq.data.part_file import in_capitals, measured_part, part_names
from distiq.data.samples import Loaded, Split
from distiq.device import run as runner
from distiq.errors import UserError

VOID = runner.VOID
MASK_ENDING = "_mask"
ENDINGS = (
    MASK_ENDING, "_leftImg8bit", "_gtFine_labelTrainIds", "_gtFine_labelIds", "_labelTrainIds", "_labelIds", "_L",
    "_label", "_labels", "_seg", "_segmentation", "_gt",
)  # fmt: skip
"""What stands behind the common part of the names of an image and its mask."""
NO_MASK = ("_color", "_instanceIds", "_instanceTrainIds")
MOST_CLASSES = 254
FOREGROUND = 255  # of masks of two values
SHOWN = 8  # values that a message names
WIDE_VOID = 65535  # of masks of 16 bits


def masked_images(
    folder: Path, shape: tuple[int, ...], void: int = VOID, validation: str = "", store: Store | None = None
) -> Loaded:
    """The images of a folder that holds train/ and test/, with a mask for each of the same name.

    The masks of train/ lie in train_masks/, or the two in train/images/ and train/masks/, or in images/train/ and
    masks/train/, or the mask beside its image as street.png or street_mask.png; or as Pascal VOC, Cityscapes and others
    have them, see `_places`. Classes and their colours are read by `mask_colours.classes_of`. Masks of the values 0 and
    255 alone have two classes. Images and masks are letterboxed: what lies beside an image is void.

    Args:
        shape: (C, H, W) of an image as it is learned from.
        void: the value of pixels that belong to no class, beside 255.
        validation: the name of a third part, where there is one.
        store: where images are packed that memory has no room for.

    Raises:
        UserError: a part, a mask or an image is missing or does not decode, a mask has another size than its image, or
            a value without a class.
    """
    classes = classes_of(folder, void)
    measured, notes = measured_part(partial(has_masks, folder), validation, folder)
    places = {"train": "train", "test": measured} | ({validation: validation} if validation else {})
    parts = {part: _pairs(folder, place) for part, place in places.items()}
    is_binary = not classes.names and void == VOID and _are_binary([mask for _, mask in parts["train"]], classes)
    if is_binary:
        notes = (*notes, "masks hold the values 0 and 255 alone; 255 is taken as class 1, and no pixel as void")
    labels = {part: _read_masks(pairs, shape, classes, is_binary) for part, pairs in parts.items()}
    names = classes.names
    if not names:
        seen = [mask[mask != VOID] for mask in labels.values()]
        numbers = sorted({number for values in seen for number in values.unique().tolist()})
        most = max(numbers, default=-1) + 1
        if 2 * len(numbers) < most:
            raise UserError(
                f"{folder}: the masks hold {', '.join(map(str, numbers[:SHOWN]))} alone; number the classes 0, 1, 2 and"
                f" so on, or name all {most} in {NAMES}"
            )
        names = tuple(str(number) for number in range(most))
        notes = (*notes, f"classes are called by their numbers, as {folder} holds no {NAMES} that names them")
    if len(names) < 2:
        raise UserError(
            f"{folder}: the masks of the train part hold {len(names)} classes, beside pixels of none; at least two are"
            " needed, such as 0 for what is around"
        )
    samples = read_images([[image for image, _ in pairs] for pairs in parts.values()], shape, store, letterbox=True)
    splits = {part: Split(one, labels[part]) for part, one in zip(parts, samples, strict=True)}
    files = [tuple(os.path.relpath(image, folder) for image, _ in parts[part]) for part in ("train", "test")]
    return Loaded(
        names, splits["train"], splits["test"], Images(tuple(shape), letterbox=True), notes, splits.get(validation),
        names=(files[0], files[1]),
    )  # fmt: skip


def has_masks(folder: Path, part: str = "train") -> bool:
    """Whether the images of a part have masks."""
    return (
        any(_are_there(images, masks) for images, masks in _places(folder, part)) or _listed(folder, part) is not None
    )


def _are_there(images: Path, masks: Path) -> bool:
    """Whether images lie in the one folder and masks in the other, which may be the same."""
    if not (images.is_dir() and masks.is_dir()):
        return False
    files = [file for file in walk(masks) if file.suffix.lower() in IMAGE_SUFFIXES]
    return bool(files) and (images != masks or 2 * sum(_is_mask(file, files) for file in files) == len(files))


def images_of(folder: Path, part: str) -> list[Path]:
    """The images of a part that have masks; of the test part those of the validation part, where there is none."""
    place = measured_part(partial(has_masks, folder), "", folder)[0] if part == "test" else part
    return [image for image, _ in _pairs(folder, place)]


def _places(folder: Path, part: str) -> list[tuple[Path, Path]]:
    """Where images and masks of a part may lie."""
    places = [
        (folder / images.format(name), folder / masks.format(name))
        for name in part_names(part)
        for images, masks in in_capitals(
            ("{}/images", "{}/masks"), ("images/{}", "masks/{}"), ("{}", "{}_masks"), ("{}", "{}_labels"),
            ("{}", "{}annot"), ("images/{}", "labels/{}"), ("images/{}", "annotations/{}"), ("{}/images", "{}/labels"),
            ("{}/image", "{}/mask"), ("{}/image", "{}/label"), ("{}/img", "{}/masks_machine"),
            ("leftImg8bit/{}", "gtFine/{}"), ("img_dir/{}", "ann_dir/{}"), ("{}", "{}"),
        )
    ]  # fmt: skip
    return [place for place in places if place[0] != place[1]] + [place for place in places if place[0] == place[1]]


def _listed(folder: Path, part: str) -> list[tuple[Path, Path]] | None:
    """The images and masks that ImageSets/Segmentation of Pascal VOC lists; None where it does not."""
    lists = (folder / "ImageSets" / "Segmentation" / f"{name}.txt" for name in part_names(part))
    listed = next((file for file in lists if file.is_file()), None)
    if listed is None:
        return None
    pairs = []
    pictures, masks = folder / "JPEGImages", folder / "SegmentationClass"
    for stem in listed_stems(listed, masks, ".png"):
        pairs.append((image_of_stem(pictures, stem) or pictures / f"{stem}.jpg", masks / f"{stem}.png"))
    if missing := next((file for pair in pairs for file in pair if not file.is_file()), None):
        raise UserError(f"{missing}: missing, but {listed} names it; add it, or take the name out")
    return pairs


def _pairs(folder: Path, part: str) -> list[tuple[Path, Path]]:
    """Each image of a part with its mask, sorted."""
    if listed := _listed(folder, part):
        return listed
    *apart, beside = places = [place for place in _places(folder, part) if place[0].is_dir() and place[1].is_dir()] or [
        (folder, folder)
    ]
    if places == [(folder, folder)]:
        raise UserError(
            f"{folder}: has no {part} part; images lie in {part}/ and their masks in {part}_masks/, of the same names"
        )
    return _matched(*next((place for place in apart if _are_there(*place)), beside))


def _matched(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    files = sorted(file for file in walk(images) if file.suffix.lower() in IMAGE_SUFFIXES)
    beside = images == masks
    others = [file for file in walk(masks) if file.suffix.lower() in IMAGE_SUFFIXES and
              (not beside or _is_mask(file, files)) and not file.stem.endswith(NO_MASK)]  # fmt: skip
    drawn: dict[str, Path] = {}
    for file in sorted(others, key=lambda file: (not file.stem.endswith("TrainIds"), file)):
        drawn.setdefault(_stem(file, masks), file)
    if beside:
        files = [file for file in files if file not in set(others)]
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
    stem = runner.nfc(file.relative_to(folder).with_suffix("").as_posix())
    while Path(stem).suffix.lower() in IMAGE_SUFFIXES:  # a.jpg.png is the mask of a.jpg
        stem = stem[: -len(Path(stem).suffix)]
    ending = next((ending for ending in ENDINGS if stem.endswith(ending)), "")
    return stem.removesuffix(ending)


def _is_mask(file: Path, files: Sequence[Path]) -> bool:
    """Whether an image beside others is a mask: street_mask.png, or street.png beside street.jpg."""
    twins = [one for one in files if one.stem == file.stem and one.parent == file.parent and one != file]
    return file.stem.endswith(MASK_ENDING) or (file.suffix.lower() == ".png" and bool(twins))


def _are_binary(files: Sequence[Path], classes: Classes) -> bool:
    """Whether masks hold 0 and 255 alone, of which 255 is the foreground then."""
    values: set[int] = set()
    for file in files:
        values |= set(np.unique(_values(file, classes)).tolist())
        if values - {0, FOREGROUND}:
            return False
    return values == {0, FOREGROUND}


def _read_masks(pairs: Sequence[tuple[Path, Path]], shape: Sequence[int], classes: Classes, is_binary: bool) -> Tensor:
    """The masks of a part, (N, H, W) uint8."""
    masks = torch.full((len(pairs), *shape[1:]), VOID, dtype=torch.uint8)
    most, names = len(classes.names) or MOST_CLASSES, classes.names
    for number, (image, path) in enumerate(pairs):
        mask = (_values(path, classes) == FOREGROUND).astype(np.uint8) if is_binary else read_mask(path, classes)
        size = runner.image_size(image)
        if mask.shape != size:
            raise UserError(
                f"{path}: this mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}; make"
                " them alike"
            )
        strange = mask[(mask >= most) & (mask != VOID)]
        if len(strange):
            expected = f"{len(names)} classes (0 to {len(names) - 1})" if names else f"at most {most} classes"
            raise UserError(
                f"{path}: holds the value {int(strange[0])}, but there are {expected}; name the class in {NAMES}, or"
                " set data.void to the value of pixels without one"
            )
        rows, columns = runner.fitted_size(mask.shape[0], mask.shape[1], shape)
        masks[number, :rows, :columns] = torch.from_numpy(_resized(mask, rows, columns))
    return masks


def read_mask(path: Path, classes: Classes) -> np.ndarray:
    """A mask (H, W) uint8 of class numbers, 255 where a pixel belongs to none.

    Raises:
        UserError: it does not decode, or holds colours of no class.
    """
    values = _values(path, classes)
    if len(wide := values[(values > VOID) & (values != WIDE_VOID)]):
        raise UserError(
            f"{path}: holds the value {int(wide[0])}, but classes are numbered up to {MOST_CLASSES - 1}; save class"
            " numbers, not those of objects"
        )
    return np.where((values == classes.void) | (values > VOID), VOID, values).astype(np.uint8)


def _values(path: Path, classes: Classes) -> np.ndarray:
    """The numbers that a mask holds, (H, W) int64."""
    from PIL import Image, ImageOps

    try:
        with runner.quiet(), Image.open(path, formats=runner.FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            has_colours = image.mode not in ("1", "L", "P", "I", "I;16", "F")
            is_named = bool(classes.colours) and image.mode == "P"
            values = np.asarray(image.convert("RGB") if has_colours or is_named else image)
    except Exception as error:  # Pillow lets its decoders' own errors through
        raise UserError(f"{path}: this mask does not decode ({error}); repair or remove it") from error
    return (classes.numbers(values, path) if values.ndim == 3 else values).astype(np.int64)


def _resized(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The mask with so many rows and columns, of the nearest values."""
    down = ((np.arange(rows) + 0.5) * mask.shape[0] / rows).astype(int)
    right = ((np.arange(columns) + 0.5) * mask.shape[1] / columns).astype(int)
    return np.ascontiguousarray(mask[down][:, right])
