"""What the files beside YOLO's annotations say: the names of the classes, and how many keypoints a line has."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from distiq.data.folders import walk
from distiq.data.images import IMAGE_SUFFIXES
from distiq.data.named_files import NamedImages, plain_lines, plain_text
from distiq.data.part_file import part_names
from distiq.errors import UserError


class Declared(NamedTuple):
    """The classes in their order, empty where nothing names them; and the values of keypoints that follow a box."""

    names: tuple[str, ...]
    keypoints: int = 0


def declared(folder: Path, part: str) -> Declared:
    """What classes.txt or obj.names, in the folder or beside the annotations, or a YAML file says.

    Raises:
        UserError: a file is no text, no YAML, or names its classes by other keys than 0 to N - 1.
    """
    said = [_of_yaml(path) for path in _yaml_files(folder)]
    keypoints = next((one.keypoints for one in said if one.keypoints), 0)
    plain = next((file for file in _plain_files(folder, part) if file.is_file()), None)
    names = tuple(plain_lines(plain)) if plain else next((one.names for one in said if one.names), ())
    return Declared(names, keypoints)


def listed_images(folder: Path, part: str) -> list[tuple[Path, Path]]:
    """The images of a part that a YAML file names, as a folder or as a list of files, each with its txt file.

    Paths are taken as Ultralytics takes them: relative to `path`, or to the folder; a txt file stands where an image
    does, with "labels" for "images".

    Raises:
        UserError: a list names an image that is missing.
    """
    for file in _yaml_files(folder):
        try:
            content = _content(file)
        except UserError:  # `declared` says it where it matters; here a folder may hold anything
            continue
        values: Any = next((content[name] for name in part_names(part) if content.get(name)), [])
        roots = [folder / str(content.get("path", "")), folder]
        images: list[Path] = []
        for value in values if isinstance(values, list) else [values]:
            images += _images_at(str(value).replace("\\", "/"), roots, file)
        pairs = [(image, _text_of(image)) for image in dict.fromkeys(images)]
        if any(text.is_file() for _, text in pairs):
            return pairs
    return []


def _images_at(place: str, roots: Sequence[Path], where: Path) -> list[Path]:
    """The images of a folder, or of a list."""
    while place.startswith("../") and not any((root / place).exists() for root in roots):
        place = place.removeprefix("../")  # Roboflow writes paths from a folder beside this one
    found = next((root / place for root in roots if (root / place).exists()), None)
    if found is None:
        return []
    if found.is_dir():
        return sorted(file for file in walk(found) if file.suffix.lower() in IMAGE_SUFFIXES)
    images = NamedImages([found.parent, *roots])
    files = {line: images.find(line) for line in plain_lines(found)}
    if missing := [line for line, image in files.items() if image is None]:
        raise UserError(
            f"{found}: the image {missing[0]} is missing; bring it back, or take the line out ({where.name})"
        )
    return [image for image in files.values() if image is not None]


def _text_of(image: Path) -> Path:
    parts = list(image.with_suffix(".txt").parts)
    named = [at for at, name in enumerate(parts) if name.lower() == "images"]
    if named:
        parts[named[-1]] = {"images": "labels", "Images": "Labels"}.get(parts[named[-1]], "labels")
    return Path(*parts)


def _plain_files(folder: Path, part: str) -> Iterator[Path]:
    labels = [place for name in part_names(part) for place in (f"labels/{name}", f"{name}/labels", name)]
    for place in ("", "labels", *labels):
        yield folder / place / "classes.txt"
    yield folder / "obj.names"


def _yaml_files(folder: Path) -> list[Path]:
    """The YAML files of a folder, data.yaml first."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in files if path.suffix.lower() in (".yaml", ".yml") and path.is_file()]
    return sorted(files, key=lambda path: path.stem != "data")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(plain_text(path), yaml.BaseLoader)  # every value as it is written
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise UserError(f"{path}{line}: no YAML ({getattr(error, 'problem', None) or error}); correct it") from error
    return content if isinstance(content, dict) else {}


def _of_yaml(path: Path) -> Declared:
    content = _content(path)
    shape = content.get("kpt_shape")
    sizes = [int(one) for one in shape if str(one).isdigit()] if isinstance(shape, list) else []
    return Declared(_names(content.get("names"), path), sizes[0] * sizes[1] if len(sizes) == 2 else 0)


def _names(value: Any, path: Path) -> tuple[str, ...]:
    """A list of names, or a mapping of their numbers to them, in any order."""
    match value:
        case list():
            return tuple(str(name).strip() for name in value)
        case dict():
            numbers = {str(number).strip(): str(name).strip() for number, name in value.items()}
            if set(numbers) != {str(number) for number in range(len(numbers))}:
                raise UserError(
                    f"{path}: its names have the numbers {', '.join(sorted(numbers))}; number them from 0 on, without"
                    " a gap"
                )
            return tuple(numbers[str(number)] for number in range(len(numbers)))
    return ()
