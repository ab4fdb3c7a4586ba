"""Annotations of boxes as people have them: COCO JSON, Pascal VOC XML, YOLO txt."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from distiq.data.columns import in_order
from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES
from distiq.data.part_file import part_names
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
    YOLO: txt files in labels/train/, train/labels/ or beside the images of train/; names in a YAML file or classes.txt.
    Parts may be called as `part_file.FOLDERS` has them, such as train2017.

    Raises:
        UserError: no annotations, or those of two formats; a file cannot be read, or an image is missing.
    """
    readers = _readers(folder, part)
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
        readers.append((f"{voc[0][0].parent}/*.xml", lambda: _read_voc(voc)))
    if yolo := _yolo_files(folder, part):
        place = next((text.parent for _, text in yolo if text.is_file()), yolo[0][1].parent)
        readers.append((f"{place}/*.txt", lambda: _read_yolo(yolo, folder)))
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
        names = {kind["id"]: str(kind.get("name") or "").strip() for kind in kinds}
        if nameless := [number for number, name in names.items() if not name]:
            raise UserError(f"{path}: the category {nameless[0]} has no name; give it one")
        listed = {image["id"]: image for image in images}
        by_image: dict[Any, list[Box]] = {number: [] for number in listed}
        for box in boxes:
            where = f"{path}: annotation {box.get('id', '')}"
            if box["category_id"] not in names:
                raise UserError(f"{where}: has the category {box['category_id']}, which no class is called; name it")
            if box["image_id"] not in listed:
                raise UserError(f"{where}: is of image {box['image_id']}, which is not listed; remove it")
            if len(box["bbox"]) != 4:
                raise UserError(f"{where}: its box is {box['bbox']}; give x, y, width and height")
            x, y, width, height = (_number(value, where) for value in box["bbox"])
            corners = (x, y, x + width, y + height)
            by_image[box["image_id"]].append(Box(names[box["category_id"]], corners, bool(box.get("iscrowd", 0))))
        stated = {
            number: (str(one["file_name"]), one.get("height"), one.get("width")) for number, one in listed.items()
        }
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no COCO annotations ({type(error).__name__}: {error}); export them again") from error
    if len(listed) < len(images):
        raise UserError(f"{path}: two images have the same id; give each its own")
    annotated = []
    places = [path.parent, folder, folder / "images"]
    places += [folder / place for name in part_names(part) for place in (name, f"{name}/images", f"images/{name}")]
    places = [place for place in dict.fromkeys(places) if place.is_dir()]
    for number, (name, height, width) in stated.items():
        file = _first(place / name for place in places)
        if file is None:
            raise UserError(f"{path}: the image {name} is in none of {', '.join(map(str, places))}; bring it back")
        size = _sized(file, (int(height), int(width)) if height and width else None, str(path))
        annotated.append(Annotated(file, size, tuple(by_image[number])))
    return Part(annotated, tuple(dict.fromkeys(names[number] for number in sorted(names))))


# Pascal VOC -----------------------------------------------------------------------------------------------------------


def _voc_files(folder: Path, part: str) -> list[tuple[Path, Path | None]]:
    """The XML files of a part, each with the image beside it."""
    listed = folder / "ImageSets" / "Main" / f"{part}.txt"
    if listed.is_file():
        stems = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
        xmls = [folder / "Annotations" / f"{stem}.xml" for stem in stems]
        if missing := [file for file in xmls if not file.is_file()]:
            raise UserError(f"{missing[0]}: missing, but {listed} names it; add it, or take the name out")
        return [(file, _image_named(folder / "JPEGImages", file.stem)) for file in xmls]
    inside = walk(folder / part) if (folder / part).is_dir() else []
    return [(file, _image_named(file.parent, file.stem)) for file in sorted(inside) if file.suffix.lower() == ".xml"]


def _image_named(folder: Path, stem: str) -> Path | None:
    return _first(folder / f"{stem}{ending}" for ending in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)))


def _read_voc(files: list[tuple[Path, Path | None]]) -> Part:
    annotated = []
    for path, image in files:
        try:
            if path.stat().st_size > MOST_XML:
                raise ValueError("it is too large")
            text = path.read_text(encoding="utf-8")
            if "<!DOCTYPE" in text or "<!ENTITY" in text:
                raise ValueError("it declares a document type, which annotations have no use for")
            root = ElementTree.fromstring(text)
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise UserError(f"{path}: no annotation of Pascal VOC ({error}); export it again") from error
        name = (root.findtext("filename") or "").strip()
        file = image or next((one for one in (path.parent / name,) if name and one.is_file()), None)
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
    return Part(annotated, tuple(in_order(names)), (said,) if difficult else ())


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
    for images, labels in (
        (folder / "images" / part, folder / "labels" / part),
        (folder / part / "images", folder / part / "labels"),
        (folder / part, folder / part),
    ):
        if images.is_dir() and labels.is_dir():
            files = sorted(file for file in walk(images) if file.suffix.lower() in IMAGE_SUFFIXES)
            pairs = [(file, (labels / file.relative_to(images)).with_suffix(".txt")) for file in files]
            if any(text.is_file() for _, text in pairs):
                return pairs
    return []


def _read_yolo(pairs: list[tuple[Path, Path]], folder: Path) -> Part:
    names = _yolo_names(folder)
    annotated = []
    outlines = 0
    for image, text in pairs:
        size = _sized(image, None, str(text))
        boxes = []
        lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
        for number, line in enumerate(lines, start=1):
            where = f"{text}, line {number}"
            fields = line.split()
            if not fields:
                continue
            is_outline = len(fields) > 6 and len(fields) % 2 == 1
            if (len(fields) != 5 and not is_outline) or not fields[0].isdigit():
                raise UserError(f'{where}: "{line[:60]}" is no box; write class, centre x, centre y, width, height')
            label = int(fields[0])
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
    return Part(annotated, named, tuple(_said_of_yolo(pairs, outlines, bool(names), folder)))


def _centred(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around(outline: list[float]) -> tuple[float, float, float, float]:
    """The box around an outline, of which x and y take turns."""
    return min(outline[0::2]), min(outline[1::2]), max(outline[0::2]), max(outline[1::2])


def _said_of_yolo(pairs: list[tuple[Path, Path]], outlines: int, named: bool, folder: Path) -> Iterator[str]:
    if outlines:
        yield f"{outlines:,} outlines of objects; the box around each is taken"
    if not named:
        yield f"classes are called by their numbers, as neither classes.txt nor a YAML file in {folder} names them"
    known = {text for _, text in pairs}
    folders = {text.parent for text in known}
    lone = sorted(one for place in folders for one in place.glob("*.txt") if one not in known and one.stem != "classes")
    if lone:
        yield f"{len(lone):,} files of boxes have no image and are left out ({lone[0].name} the first)"


def _yolo_names(folder: Path) -> tuple[str, ...]:
    """The classes that classes.txt or a YAML file names; of the YAML a list, or a mapping of numbers to names."""
    plain = folder / "classes.txt"
    if plain.is_file():
        return tuple(line.strip() for line in plain.read_text(encoding="utf-8").splitlines() if line.strip())
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml") and path.is_file())
    files.sort(key=lambda path: path.stem != "data")
    return next((names for path in files if (names := _names_in_yaml(path.read_text(encoding="utf-8")))), ())


def _names_in_yaml(text: str) -> tuple[str, ...]:
    """What stands under "names:", which YOLO's files write in three ways; the rest is not read."""
    if inline := re.search(r"^names:\s*\[(.*?)\]", text, re.MULTILINE | re.DOTALL):
        return tuple(part.strip().strip("'\"") for part in inline.group(1).split(",") if part.strip())
    block = re.search(r"^names:\s*\n((?:[ \t-].*\n?)+)", text, re.MULTILINE)
    lines = block.group(1).splitlines() if block else []
    lines = [line.partition(" #")[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return tuple(re.sub(r"^\s*(-|\d+\s*:)\s*", "", line).strip().strip("'\"") for line in lines)
