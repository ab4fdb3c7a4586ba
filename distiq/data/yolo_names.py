"""What the files beside YOLO's annotations say: the names of the classes, and how many keypoints a line has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from distiq.data.named_files import plain_lines, plain_text
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
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml") and path.is_file())
    files.sort(key=lambda path: path.stem != "data")
    said = [_of_yaml(path) for path in files]
    keypoints = next((one.keypoints for one in said if one.keypoints), 0)
    plain = next((file for file in _plain_files(folder, part) if file.is_file()), None)
    names = tuple(plain_lines(plain)) if plain else next((one.names for one in said if one.names), ())
    return Declared(names, keypoints)


def _plain_files(folder: Path, part: str) -> Iterator[Path]:
    labels = [place for name in part_names(part) for place in (f"labels/{name}", f"{name}/labels", name)]
    for place in ("", "labels", *labels):
        yield folder / place / "classes.txt"
    yield folder / "obj.names"


def _of_yaml(path: Path) -> Declared:
    try:
        content = yaml.load(plain_text(path), yaml.BaseLoader)  # every value as it is written
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise UserError(f"{path}{line}: no YAML ({getattr(error, 'problem', None) or error}); correct it") from error
    if not isinstance(content, dict):
        return Declared(())
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
