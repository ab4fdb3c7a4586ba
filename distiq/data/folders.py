"""A folder of files for each class: which there are, which are read, and what is left out."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distiq.data.columns import in_order
from distiq.data.part_file import measured_part, part_names
from distiq.device.run import nfc
from distiq.errors import UserError

SHOWN = 3  # endings named in a note


class Found(NamedTuple):
    """The files of one part, sorted by class, with the class of each; and how many others lie there, by ending."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    others: Counter[str]

    def named(self, classes: Sequence[str]) -> list[tuple[Path, str]]:
        """Each file with the name of its class."""
        return [(file, classes[label]) for file, label in zip(self.files, self.labels, strict=True)]


def class_names(part: Path) -> tuple[str, ...]:
    """The classes of a part: its folders, at least two; hidden ones count for nothing.

    Raises:
        UserError: there are fewer.
    """
    if not part.is_dir():
        raise UserError(f"{part}: no such folder; data.folder must hold train/<class>/ and test/<class>/")
    names = in_order({nfc(folder.name) for folder in _folders(part)})
    if len(names) < 2:
        raise UserError(f"{part}: {len(names)} class folder(s) found; at least two are needed")
    return names


def part_places(folder: Path, validation: str) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The folders of the parts "train", "test" and `validation`, which may be called as `part_file.FOLDERS` has them;
    and what is said where there is no test part.

    Args:
        validation: the name of a third part; empty: there is none.

    Raises:
        UserError: as `measured_part`.
    """
    measured, said = measured_part(lambda part: _place(folder, part).is_dir(), validation, folder)
    parts = {"train": "train", "test": measured} | ({validation: validation} if validation else {})
    return {part: _place(folder, name) for part, name in parts.items()}, said


def _place(folder: Path, part: str) -> Path:
    return next((place for name in part_names(part) if (place := folder / name).is_dir()), folder / part)


def find_files(part: Path, classes: Sequence[str], suffixes: Sequence[str], what: str) -> Found:
    """The files of a part, in its class folders and in all folders within them.

    Args:
        suffixes: of the files that are read. what: what they are called, such as "images".

    Raises:
        UserError: the part has other classes, or a class has no file.
    """
    names = class_names(part)
    if names != tuple(classes):
        raise UserError(
            f"{part.parent}: train/ has the classes {list(classes)}, {part.name}/ has {list(names)}; make them the same"
        )
    files: list[Path] = []
    labels: list[int] = []
    others = Counter(file.suffix.lower() for file in part.iterdir() if file.is_file() and file.name[0] != ".")
    for label, name in enumerate(classes):
        inside = [file for folder in _folders(part) if nfc(folder.name) == name for file in walk(folder)]
        own = sorted(file for file in inside if file.suffix.lower() in suffixes)
        if not own:
            kinds = ", ".join(suffixes)
            raise UserError(f"{part / name}: no {what} in this class ({kinds}); fill or remove the folder")
        files += own
        labels += [label] * len(own)
        others += Counter(file.suffix.lower() for file in inside if file.suffix.lower() not in suffixes)
    return Found(tuple(files), tuple(labels), others)


def left_out(part: Path, files: Found, what: str) -> tuple[str, ...]:
    """A sentence about the files that are not read, if there are some."""
    if not files.others:
        return ()
    kinds = ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in files.others.most_common(SHOWN))
    more = ", ..." if len(files.others) > SHOWN else ""
    total = sum(files.others.values())
    return (f"{part}: {total:,} files are left out, which are no {what} that distiq reads: {kinds}{more}",)


def _folders(part: Path) -> list[Path]:
    return sorted(entry for entry in part.iterdir() if entry.is_dir() and entry.name[0] != ".")


def walk(folder: Path) -> list[Path]:
    """All files in it and in folders within, those behind links included, but for hidden ones."""
    paths: list[Path] = []
    seen: set[Path] = set()  # a link may lead back into a folder that holds it
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        is_new = here.resolve() not in seen
        seen.add(here.resolve())
        folders[:] = [name for name in folders if name[0] != "."] if is_new else []
        paths += [here / name for name in files if name[0] != "." and is_new and (here / name).is_file()]
    return paths
