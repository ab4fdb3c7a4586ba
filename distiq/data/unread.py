"""Annotations of boxes that a folder holds and distiq does not read as they lie: what they are, and what to do."""

from collections.abc import Iterator
from pathlib import Path

from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES
from distiq.data.part_file import part_names


def unread(folder: Path) -> str:
    """A sentence about annotations that are not split into parts, or of another format; empty where there are none."""
    if file := next(_of_labelme(folder), None):
        return f"{file}: is of LabelMe, which distiq does not read; convert the annotations to COCO (labelme2coco does)"
    if file := next(_of_tables(folder), None):
        return f"{file}: is a table of boxes, which distiq does not read; export them as COCO, Pascal VOC or YOLO"
    if place := next(_without_parts(folder), None):
        return (
            f"{folder}: {place} annotates images that are in no part; split them into a train and a test part, such as"
            " train.json and test.json of COCO, train/ and test/ with XML files, or labels/train/ and labels/test/"
        )
    return ""


def _parts(folder: Path) -> Iterator[Path]:
    return (place for name in part_names("train") if (place := folder / name).is_dir())


def _of_labelme(folder: Path) -> Iterator[Path]:
    jsons = (file for place in _parts(folder) for file in sorted(walk(place)) if file.suffix.lower() == ".json")
    first = next(jsons, None)
    if first is not None and {b'"shapes"', b'"imagePath"'} <= _words(first, b'"shapes"', b'"imagePath"'):
        yield first


def _of_tables(folder: Path) -> Iterator[Path]:
    for place in _parts(folder):
        for file in sorted(place.glob("*.csv")):
            if len(_words(file, b"xmin", b"ymin", b"xmax", b"ymax")) == 4:
                yield file


def _without_parts(folder: Path) -> Iterator[str]:
    for place in ("", "annotations", "Annotations"):
        for file in sorted((folder / place).glob("*.json")):
            if len(_words(file, b'"images"', b'"categories"', b'"annotations"')) == 3:
                yield str(file.relative_to(folder))
        if any((folder / place).glob("*.xml")):
            yield f"{place}/*.xml".lstrip("/")
    images = folder / "images"
    has_images = images.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in images.iterdir())
    if has_images and any(file.stem != "classes" for file in (folder / "labels").glob("*.txt")):
        yield "labels/*.txt"


def _words(file: Path, *words: bytes) -> set[bytes]:
    """Which of the words stand in a file."""
    try:
        content = file.read_bytes()
    except OSError:
        return set()
    return {word for word in words if word in content}
