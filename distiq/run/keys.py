"""The key of a step: a hash of its name, of the code that makes it, and of every value that it is made from."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel

from distiq.data.splits import Data
from distiq.files import sha256_of_json
from distiq.recipe.part import Part
from distiq.run.reach import code_key

PACKAGE = Path(__file__).parents[1]


@runtime_checkable
class Keyed(Protocol):
    """A value that knows its own key: a finished step, a network."""

    @property
    def key(self) -> str: ...


def step_key(name: str, make: Callable[..., object]) -> str:
    """The key of a step that `make` makes.

    Args:
        make: a function, or a `functools.partial` of one that binds by keyword what the step is made from.
    """
    bound = make.keywords if isinstance(make, functools.partial) else {}
    parts = {
        "name": name,
        "values": {argument: value_key(value) for argument, value in bound.items()},
        "code": _code_of(make.func if isinstance(make, functools.partial) else make),
        "torch": torch.__version__,
    }
    return sha256_of_json(parts)[:16]


def _code_of(make: Callable[..., object]) -> str:
    """Hash of the code that a function, or an object that can be called, reaches."""
    kind: Any = make if inspect.isfunction(make) else type(make)
    return _code_reached(Path(inspect.getfile(kind)), kind.__qualname__.partition(".")[0])


@functools.cache  # the code of a process does not change
def _code_reached(file: Path, name: str) -> str:
    return code_key([(file, name)], (PACKAGE.parent,))


def value_key(value: object) -> Any:
    """A value as the JSON that enters a step's key; settings that change no result are left out.

    Raises:
        TypeError: such a value has no key.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Data():
            return value.digest()
        case Keyed():
            return value.key
        case Part():
            parts = ((name, part) for name, part in value if name not in value.WITHOUT_EFFECT)
            return {name: value_key(part) for name, part in parts}
        case BaseModel():
            return value.model_dump(mode="json")
        case Mapping():
            return {str(name): value_key(part) for name, part in value.items()}
        case tuple() | list():
            return [value_key(part) for part in value]
    if dataclasses.is_dataclass(value):
        return {field.name: value_key(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"a step cannot be made from {type(value).__name__}, which has no key")


def source_hash(*rooms: str) -> str:
    """Hash of the source of the given files and folders of distiq: the code's version, byte for byte."""
    sha = hashlib.sha256()
    for room in sorted(rooms):
        path = PACKAGE / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()
