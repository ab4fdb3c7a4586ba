"""The file of a part in a user's folder: the one that a recipe names, or the one that is called so."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from distiq.errors import UserError

WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testb"),
    "validation": ("validation", "valid", "val", "dev", "testa", "eval"),
}
"""What the files of a part are called, such as eng.testa, sts-dev.csv or en-ud-train.iob2."""
FOLDERS = {
    "train": ("train", "training", "train2017", "train2014"),
    "val": ("val", "valid", "validation", "val2017", "val2014", "dev"),
    "test": ("test", "testing", "test2017"),
}
"""What the folders of a part are called, such as COCO's val2017 and Roboflow's valid."""
SHOWN = 8  # files that a message names
PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst")
NO_DATA = (".md", ".py", ".toml", ".sh", ".pdf", ".html", ".safetensors", *PACKED)
HELD_SHARE = 10  # one of so many training samples is held out where a recipe names a file that is not there


class Files(NamedTuple):
    """The files of the parts; `validation` is None where a share of the training samples is held out to steer by, or
    the recipe gives a number. `notes` say what stands in for a part that is missing."""

    train: Path
    test: Path
    validation: Path | None
    holds_out: bool
    notes: tuple[str, ...]


def part_files(folder: Path, train: str, test: str, validation: str, key: str) -> Files:
    """The files of the parts of a folder. Where none is called test, that of validation is measured on; where none is
    left to steer by, a tenth of the training samples does; both are said.

    Args:
        train, test, validation: as a recipe names them, see `part_file`; validation is empty where it gives a number.
        key: what names the first two in a recipe, without their last word.

    Raises:
        UserError: as `part_file`.
    """
    learned = part_file(folder, train, "train", f"{key}.train")
    steering = find_part(folder, "validation")
    measures_validation = not test and not find_part(folder, "test") and len(steering) == 1
    measured = steering[0] if measures_validation else part_file(folder, test, "test", f"{key}.test")
    is_word = says_part(validation, "validation") and not (folder / validation).is_file()
    holds_out = bool(validation) and is_word and (measures_validation or not steering)
    own = part_file(folder, validation, "validation", "data.validation") if validation and not holds_out else None
    if measures_validation and own == measured:
        raise UserError(
            f"{folder}: no file is called test, and data.validation names the only other one; give it a test file, or a"
            " number in data.validation"
        )
    notes = []
    if measures_validation:
        notes.append(f"{folder}: no file is called test; {measured.name} is measured on")
    if holds_out:
        why = "no other one is left" if measures_validation else "no file is called validation"
        notes.append(
            f"{folder}: data.validation names a file, but {why}: one in {HELD_SHARE} training samples is held out to"
            " steer by; data.validation = 500 holds out another number"
        )
    return Files(learned, measured, own, holds_out, tuple(notes))


def part_names(part: str) -> tuple[str, ...]:
    """A part's name, then what it is called elsewhere, in small letters and in capitals."""
    alike = next((names for names in FOLDERS.values() if part.lower() in names), ())
    written = [form for name in (part, *alike) for form in (name, name.capitalize(), name.upper())]
    return tuple(dict.fromkeys(written if alike else [part]))


def in_capitals(*layouts: tuple[str, str]) -> list[tuple[str, str]]:
    """Where two kinds of files lie, such as ("{}/images", "{}/labels"), and the same with names in capitals."""
    return [form for first, second in layouts for form in ((first, second), (first.title(), second.title()))]


def measured_part(has: Callable[[str], bool], validation: str, folder: Path) -> tuple[str, tuple[str, ...]]:
    """The part that is measured on: "test", or "val" where there is no test part; and what is said of it.

    Args:
        has: whether a part is there. validation: the part that a recipe names to steer by; empty: none.

    Raises:
        UserError: there is no test part, and the recipe steers by the only other one.
    """
    if has("test") or not has("val"):
        return "test", ()
    if validation in FOLDERS["val"]:
        raise UserError(
            f"{folder}: has no test part, and data.validation names the only other one; give it a test part, or in"
            " data.validation a number of training samples to hold out, so that the other part is measured on"
        )
    return "val", (f"{folder}: has no test part; the validation part is measured on, and steers nothing",)


def part_file(folder: Path, given: str, part: str, key: str) -> Path:
    """The file of a part.

    Args:
        given: its name, with or without its ending; a word for the part, such as "dev", or nothing: the file of the
            folder whose name says the part.
        part: one of WORDS. key: what names the file in a recipe.

    Raises:
        UserError: there is no such file, or several are called so; the message names those of the folder.
    """
    if given and (folder / given).is_file():
        return folder / given
    if given and not says_part(given, part):
        of_name = [file for file in _files(folder) if file.stem == given]
        if len(of_name) == 1:
            return of_name[0]
        raise UserError(f"{folder / given}: no such file; {_advice(folder, part, key)}")
    files = find_part(folder, part)
    if len(files) > 1:
        names = " and ".join(file.name for file in files[:SHOWN])
        raise UserError(f"{folder}: {names} are both called {part}; name one in {key}")
    if not files:
        raise UserError(f"{folder}: no file is called {part}; {_advice(folder, part, key)}")
    return files[0]


def find_part(folder: Path, part: str) -> list[Path]:
    """The files of a folder whose names say a part, one of WORDS."""
    return [file for file in _files(folder) if _says(file.name, part)]


def says_part(given: str, part: str) -> bool:
    """Whether a recipe's word means a part, one of WORDS, and no file by its name."""
    return "." not in given and _says(given, part)


def _says(name: str, part: str) -> bool:
    return bool({*WORDS[part]} & {*re.split(r"[^a-z0-9]+", name.lower())})


def _advice(folder: Path, part: str, key: str) -> str:
    names = [file.name for file in _files(folder)]
    packed = sorted(file.name for file in folder.glob("*") if file.suffix.lower() in PACKED)
    if packed and not names:
        return f"{', '.join(packed[:SHOWN])} {'is' if len(packed) == 1 else 'are'} packed: unpack with gunzip or unzip"
    holds = f"the folder holds {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}" if names else (
        "the folder holds no file")  # fmt: skip
    number = f", or hold some of the training texts out: {key} = 500" if part == "validation" else ""
    return f"{holds}: name one in {key}{number}"


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
    return sorted(file for file in files if file.suffix.lower() not in NO_DATA)
