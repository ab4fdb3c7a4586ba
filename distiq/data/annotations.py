"""Annotations of boxes as people have them: COCO JSON, Pascal VOC XML, YOLO txt."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from distiq.data.columns import in_order
from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES
from distiq.data.named_files import NamedImages, image_of_stem, listed_stems, plain_text
from distiq.data.part_file import FOLDERS, in_capitals, part_names
from distiq.data.unread import unread
from distiq.data.yolo_names import declared, listed_images
from distiq.device.run import image_size
from distiq.errors import UserError

MOST_XML = 10_000_000
FORMATS = "train.json of COCO, XML files of Pascal VOC, or txt files of YOLO beside the images"


class Box(NamedTuple):
    """An object: its class, its corners in pixels, and whether it is a crowd that no box is looked for in."""

    label: str
    corners: tuple[float, float, float, float]
    crowd: bool = False


class Annotated(NamedTuple):
    """An image and what is in it; `size` is (height, width), turned as its EXIF says."""

    file: Path
    size: tuple[int, int]
    boxes: tuple[Box, ...]


class Part(NamedTuple):
    """One part of a data set; `names` are its classes in their order, empty where they are known by the boxes alone.
    `notes` say what was changed or left out."""

    images: list[Annotated]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_part(folder: Path, part: str) -> Part:
    """The annotated images of a part, such as "train", in whichever format lies there.

    COCO: train.json, train/_annotations.coco.json or annotations/instances_train.json; images beside it, in images/ or
    in train/. VOC: XML files beside the images of train/, or Annotations/, JPEGImages/ and ImageSets/Main/train.txt.
    YOLO: txt files in labels/train/, train/labels/ or beside the images of train/; names as `yolo_names.declared`.
    Parts may be called as `part_file.FOLDERS` has them, such as train2017.

    Raises:
        UserError: no annotations, or those of two formats; a file cannot be read, or an image is missing.
    """
    readers = _readers(folder, part)
    if not (readers or any(has_part(folder, other) for other in FOLDERS)) and (why := unread(folder)):
        raise UserError(why)
    if not readers:
        raise UserError(f"{folder}: no annotations of a {part} part; give it {FORMATS.replace('train', part)}")
    if len(readers) > 1:
        places = " and ".join(place for place, _ in readers)
        raise UserError(f"{folder}: the {part} part is annotated twice, in {places}; leave one of the two")
    return readers[0][1]()


def has_annotations(folder: Path) -> bool:
    """Whether a folder's training images have annotated boxes. A train.json may hold something else, such as texts."""
    jsons = [file for name in part_names("train") for file in _coco_files(folder, name) if file.is_file()]
    is_other = bool(jsons) and not any(b'"categories"' in file.read_bytes() for file in jsons)
    return has_part(folder, "train") and not is_other


def has_part(folder: Path, part: str) -> bool:
    """Whether the images of a part have annotated boxes."""
    return bool(_readers(folder, part))


def _readers(folder: Path, part: str) -> list[tuple[str, Callable[[], Part]]]:
    """Where annotations of a part lie, and what reads each."""
    return next((readers for name in part_names(part) if (readers := _readers_of(folder, name))), [])


def _readers_of(folder: Path, part: str) -> list[tuple[str, Callable[[], Part]]]:
    readers: list[tuple[str, Callable[[], Part]]] = []
    if coco := _first(_coco_files(folder, part)):
        readers.append((str(coco), lambda: _read_coco(coco, folder, part)))
    if voc := _voc_files(folder, part):
        readers.append((f"{voc[0][0].parent}/*.xml", lambda: _read_voc(voc, folder, part)))
    if yolo := _yolo_files(folder, part):
        place = next((text.parent for _, text in yolo if text.is_file()), yolo[0][1].parent)
        readers.append((f"{place}/*.txt", lambda: _read_yolo(yolo, folder, part)))
    return readers


def _first(files: Iterator[Path]) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _sized(file: Path, stated: tuple[int, int] | None, where: str) -> tuple[int, int]:
    """The size of an image, which its annotations have to state rightly."""
    try:
        size = image_size(file)
    except Exception as error:  # Pillow lets its decoders' own errors through
        raise UserError(f"{file}: this image does not decode ({error}); repair or remove it") from error
    if stated is not None and min(stated) > 0 and stated != size:
        turned = " (its EXIF orientation may turn it: save it without)" if stated == size[::-1] else ""
        raise UserError(
            f"{where}: says that {file.name} has {stated[1]} x {stated[0]} pixels, but it has {size[1]} x {size[0]};"
            f" boxes would lie elsewhere: correct the annotation, or bring back the image{turned}"
        )
    return size


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {value!r} is no coordinate; give a finite number")
    return number


# COCO -----------------------------------------------------------------------------------------------------------------


def _coco_files(folder: Path, part: str) -> Iterator[Path]:
    yield folder / f"{part}.json"
    yield folder / f"{part}_annotations.json"
    for name in ("_annotations.coco.json", "annotations.json", "labels.json"):
        yield folder / part / name
    for name in (f"instances_{part}.json", f"{part}.json"):
        yield folder / "annotations" / name


def _read_coco(path: Path, folder: Path, part: str) -> Part:
    try:
        content = json.loads(path.read_bytes())
        images, boxes, kinds = content["images"], content["annotations"], content["categories"]
        names = {_id(kind["id"]): str(kind.get("name") or "").strip() for kind in kinds}
        if nameless := [number for number, name in names.items() if not name]:
            raise UserError(f"{path}: the category {nameless[0]} has no name; give it one")
        listed = {_id(image["id"]): image for image in images}
        by_image: dict[str, list[Box]] = {number: [] for number in listed}
        for box in boxes:
            where = f"{path}: annotation {box.get('id', '')}"
            label, image = _id(box["category_id"]), _id(box["image_id"])
            if label not in names:
                raise UserError(f"{where}: has the category {label}, which no class is called; name it")
            if image not in listed:
                raise UserError(f"{where}: is of image {image}, which is not listed; remove it")
            is_crowd = bool(_number(box.get("iscrowd") or 0, where))
            by_image[image].append(Box(names[label], _coco_box(box, where), is_crowd))
        stated = {number: (str(one["file_name"]), _stated(one, str(path))) for number, one in listed.items()}
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no COCO annotations ({type(error).__name__}: {error}); export them again") from error
    if len(listed) < len(images):
        raise UserError(f"{path}: two images have the same id; give each its own")
    of_part = [folder / place for name in part_names(part) for place in (name, f"{name}/images", f"images/{name}")]
    places = NamedImages([*of_part, folder / "images", path.parent, folder])
    annotated = []
    for number, (name, size) in stated.items():
        file = places.find(name)
        if file is None:
            raise UserError(
                f"{path}: the image {name} is in none of {', '.join(map(str, places.places))}; bring it back"
            )
        annotated.append(Annotated(file, _sized(file, size, str(path)), tuple(by_image[number])))
    order = sorted(names, key=lambda number: (not number.isdigit(), int(number) if number.isdigit() else 0, number))
    return Part(
        annotated, tuple(dict.fromkeys(names[number] for number in order)), tuple(_said_of_files(annotated, part))
    )


def _id(value: Any) -> str:
    """What identifies an image or a category; some tools write "1" or 1.0 for 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _stated(image: dict[str, Any], where: str) -> tuple[int, int] | None:
    """The height and width that an image is said to have."""
    height, width = (int(_number(image.get(side) or 0, where)) for side in ("height", "width"))
    return (height, width) if height and width else None


def _coco_box(annotation: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    """The corners of an object's box; where it has none, those of the box around its outlines."""
    box, outlines = annotation.get("bbox"), annotation.get("segmentation")
    if not box and isinstance(outlines, list) and outlines:
        outlines = outlines if isinstance(outlines[0], list) else [outlines]
        return _around([_number(value, where) for outline in outlines for value in outline])
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(f"{where}: its box is {box}; give x, y, width and height")
    x, y, width, height = (_number(value, where) for value in box)
    return x, y, x + width, y + height


def _said_of_files(images: list[Annotated], part: str) -> Iterator[str]:
    """What is said of images that are annotated twice, or lie in the part's own folder without being annotated."""
    files = {image.file for image in images}
    if len(files) < len(images):
        yield f"{len(images) - len(files):,} images are annotated twice, and each annotation counts"
    folders = {file.parent for file in files if {*part_names(part)} & {file.parent.name, file.parent.parent.name}}
    others = {file for place in folders for file in place.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
    if lone := sorted(others - files):
        yield f"{len(lone):,} images beside them are not annotated here and are left out ({lone[0].name} the first)"


# Pascal VOC -----------------------------------------------------------------------------------------------------------


def _voc_files(folder: Path, part: str) -> list[tuple[Path, Path | None]]:
    """The XML files of a part, each with the image beside it."""
    listed = folder / "ImageSets" / "Main" / f"{part}.txt"
    if listed.is_file():
        place = folder / "Annotations"
        xmls = [place / f"{stem}.xml" for stem in listed_stems(listed, place, ".xml")]
        if missing := [file for file in xmls if not file.is_file()]:
            raise UserError(f"{missing[0]}: missing, but {listed} names it; add it, or take the name out")
        pictures = folder / "JPEGImages"
        stems = [file.relative_to(place).with_name(file.stem).as_posix() for file in xmls]
        return [(file, image_of_stem(pictures, stem)) for file, stem in zip(xmls, stems, strict=True)]
    inside = walk(folder / part) if (folder / part).is_dir() else []
    xmls = sorted(file for file in inside if file.suffix.lower() == ".xml")
    return [(file, image_of_stem(file.parent, file.stem)) for file in xmls]


def _read_voc(files: list[tuple[Path, Path | None]], folder: Path, part: str) -> Part:
    annotated, images = [], NamedImages([folder / part, folder / "JPEGImages"])
    for path, image in files:
        try:
            if path.stat().st_size > MOST_XML:
                raise ValueError("it is too large")
            content = path.read_bytes()
            if b"\0" in content or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
                raise ValueError("it declares a document type, which annotations have no use for, or is UTF-16")
            root = ElementTree.fromstring(content)
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise UserError(f"{path}: no annotation of Pascal VOC ({error}); export it again") from error
        name = (root.findtext("filename") or "").strip()
        file = image or (images.find(name) if name else None) or images.of_stem(path.stem)
        if file is None:
            raise UserError(
                f"{path}: its image {name or path.stem} is missing; put it beside, or remove the annotation"
            )
        height, width = (root.findtext(f"size/{side}") or "0" for side in ("height", "width"))
        size = _sized(file, (int(_number(height, str(path))), int(_number(width, str(path)))), str(path))
        annotated.append(Annotated(file, size, tuple(_voc_box(one, path) for one in root.iter("object"))))
    names = {box.label for image in annotated for box in image.boxes}
    difficult = sum(box.crowd for image in annotated for box in image.boxes)
    said = f"{difficult:,} objects are marked difficult; they are neither looked for nor counted as missed"
    notes = (*((said,) if difficult else ()), *_said_of_files(annotated, part))
    return Part(annotated, tuple(in_order(names)), notes)


def _voc_box(element: ElementTree.Element, path: Path) -> Box:
    """VOC counts pixels from 1, the last one included; what it calls difficult, its own measure leaves out."""
    label = (element.findtext("name") or "").strip()
    if not label:
        raise UserError(f"{path}: an object has no name; give it a class")
    sides = (_number(element.findtext(f"bndbox/{side}"), str(path)) for side in ("xmin", "ymin", "xmax", "ymax"))
    left, upper, right, lower = sides
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return Box(label, (left - 1, upper - 1, right, lower), difficult)


# YOLO -----------------------------------------------------------------------------------------------------------------


def _yolo_files(folder: Path, part: str) -> list[tuple[Path, Path]]:
    """The images of a part, each with its txt file; an image without one is empty."""
    apart = in_capitals(("images/{}", "labels/{}"), ("{}/images", "{}/labels"))
    for places in (*apart, ("{}", "{}"), ("obj_{}_data", "obj_{}_data")):
        images, labels = (folder / place.format(part) for place in places)
        if images.is_dir() and labels.is_dir():
            files = sorted(file for file in walk(images) if file.suffix.lower() in IMAGE_SUFFIXES)
            pairs = [(file, (labels / file.relative_to(images)).with_suffix(".txt")) for file in files]
            if any(text.is_file() for _, text in pairs):
                return pairs
    return listed_images(folder, part)


def _read_yolo(pairs: list[tuple[Path, Path]], folder: Path, part: str) -> Part:
    names, keypoints = declared(folder, part)
    annotated = []
    outlines = 0
    for image, text in pairs:
        size = _sized(image, None, str(text))
        boxes = []
        for number, line in enumerate(plain_text(text).splitlines() if text.is_file() else [], start=1):
            where = f"{text}, line {number}"
            fields = line.split()
            if not fields:
                continue
            if keypoints and len(fields) == 5 + keypoints:
                fields = fields[:5]
            is_outline = len(fields) > 6 and len(fields) % 2 == 1
            if (len(fields) != 5 and not is_outline) or not _is_class(fields[0]):
                raise UserError(f'{where}: "{line[:60]}" is no box; write class, centre x, centre y, width, height')
            label = int(float(fields[0]))
            if names and label >= len(names):
                raise UserError(f"{where}: has the class {label}, but {len(names)} are named; name it")
            shares = [_number(field, where) for field in fields[1:]]
            if max(map(abs, shares)) > 2:
                raise UserError(f"{where}: {line[:60]} counts pixels; YOLO's boxes are shares of the image, 0 to 1")
            outlines += is_outline
            sides = _around(shares) if is_outline else _centred(*shares)
            corners = tuple(side * size[1 - axis % 2] for axis, side in enumerate(sides))
            boxes.append(Box(names[label] if names else str(label), corners))  # type: ignore[arg-type]
        annotated.append(Annotated(image, size, tuple(boxes)))
    seen = {int(box.label) for image in annotated for box in image.boxes} if not names else set()
    named = names or tuple(str(number) for number in range(max(seen, default=-1) + 1))
    return Part(annotated, named, tuple(_said_of_yolo(pairs, outlines, bool(names), folder, part)))


def _is_class(text: str) -> bool:
    """Whether a field is a number of a class; some tools write 0.0 for 0."""
    whole, _, rest = text.partition(".")
    return whole.isdecimal() and not rest.strip("0")


def _centred(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around(outline: list[float]) -> tuple[float, float, float, float]:
    """The box around an outline, of which x and y take turns."""
    return min(outline[0::2]), min(outline[1::2]), max(outline[0::2]), max(outline[1::2])


def _said_of_yolo(pairs: list[tuple[Path, Path]], outlines: int, named: bool, folder: Path, part: str) -> Iterator[str]:
    if outlines:
        yield f"{outlines:,} outlines of objects; the box around each is taken"
    if not named:
        yield f"classes are called by their numbers, as neither classes.txt nor a YAML file in {folder} names them"
    known = {text for _, text in pairs}
    own = {text.parent for text in known}  # a folder of no part holds the files of others, too
    of_part = {f"obj_{part}_data", *part_names(part)}
    folders = [place for place in own if of_part & {place.name, place.parent.name}]
    lone = sorted(one for place in folders for one in place.glob("*.txt") if one not in known and one.stem != "classes")
    if lone:
        yield f"{len(lone):,} files of boxes have no image and are left out ({lone[0].name} the first)"
