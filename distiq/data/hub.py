"""Data sets of the Hugging Face hub, or of a folder that the package datasets can read: columns, images, clips."""

import difflib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distiq.data.columns import Columns, check_names, sorted_classes, texts_of
from distiq.device.run import nfc
from distiq.errors import UserError
from distiq.files import make_folder, sha256_of_json, write_atomically
from distiq.recipe.data import HubSettings

OF_COMMIT = re.compile(r"@([0-9a-f]{40})/")
ON_DISK = "dataset_dict.json"  # of several splits that `save_to_disk` wrote
UNLABELLED = -1  # what hubs write where the labels of a test set are kept back


class HubColumns(NamedTuple):
    """Columns as text; and the names of the classes, in the hub's order, of a column that has some.

    `notes` say which revision was read.
    """

    columns: Columns
    classes: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


def hub_columns(name: str, subset: str, split: str, needed: Sequence[str]) -> HubColumns:
    """The wanted columns of a split, as text, in the order of its rows; classes by their names where it knows them.

    Args:
        name: such as "stanfordnlp/sst2", or a folder.
        subset: of a data set that has several, such as "sst2" of "nyu-mll/glue".
        split: such as "train", or a part of it, such as "train[:6000]".

    Raises:
        UserError: the package is missing, the data set cannot be reached or read, it lacks a column, or its labels are
            kept back.
    """
    rows = _split_of(name, subset, split, "data.text.hub")
    where = f'{name}, split "{split}"'
    check_names(rows.column_names, needed, where)
    of_classes = {column: getattr(rows.features[column], "names", None) for column in needed}
    classes = {column: tuple(map(nfc, names)) for column, names in of_classes.items() if names is not None}
    return HubColumns({column: _cells(rows, column, where) for column in needed}, classes, revision_note(name, rows))


def revision_note(name: str, rows: Any) -> tuple[str, ...]:
    """Which commit of the hub's repository rows were read from, in words; nothing of a folder."""
    found = OF_COMMIT.search(" ".join(rows.info.download_checksums or ()))  # hf://datasets/NAME@COMMIT/FILE
    return (f"{name}: revision {found[1]}",) if found else ()


def _split_of(name: str, subset: str, split: str, key: str) -> Any:
    """The rows of a split.

    Args:
        key: of the recipe, which names the data set.

    Raises:
        UserError: the package is missing, or the data set cannot be reached or read.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{key}: needs the package datasets: pip install datasets") from error
    try:
        if (Path(name) / ON_DISK).is_file() or (Path(name) / "state.json").is_file():
            return _of_disk(datasets, name, split)
        return datasets.load_dataset(name, subset or None, split=split)
    except Exception as error:  # it raises its own kinds, and those of the network
        told = " ".join(str(error).split()) or type(error).__name__  # its second line names the subsets there are
        hint = _hint(datasets, name, subset, split)
        raise UserError(f'{key}: "{name}" cannot be read ({told}){hint}') from error


def _of_disk(datasets: Any, name: str, split: str) -> Any:
    """A split of what `save_to_disk` wrote: of several, or of one that says its name itself."""
    saved = datasets.load_from_disk(name)
    splits = dict(saved) if (Path(name) / ON_DISK).is_file() else {str(saved.split or "train"): saved}
    base = split.partition("[")[0]
    if base not in splits:
        raise ValueError(f"it has the splits {', '.join(splits)}, saved by save_to_disk")
    part = datasets.ReadInstruction.from_spec(split).to_absolute({base: len(splits[base])})[0]
    return splits[base].select(range(part.from_ or 0, len(splits[base]) if part.to is None else part.to))


def _hint(datasets: Any, name: str, subset: str, split: str) -> str:
    """What there is in its place, where that can be found out."""
    try:
        splits = datasets.get_dataset_split_names(name, subset or None)
    except Exception:
        return "; without a network name a folder, or files in data.folder"
    nearest = difflib.get_close_matches(split.partition("[")[0], splits, n=1)
    return f'; did you mean "{nearest[0]}"?' if nearest else f"; its splits: {', '.join(splits)}"


def _cells(rows: Any, column: str, where: str) -> list[str]:
    names = getattr(rows.features[column], "names", None)  # of a column of class numbers
    values = rows[column][:]
    if names is None:
        return texts_of(values, f'{where}: column "{column}"')
    if UNLABELLED in values:
        raise UserError(f"{where}: the labels of this split are kept back ({column} is -1); name another split")
    return ["" if value is None else nfc(names[value]) for value in values]


# Images and clips -----------------------------------------------------------------------------------------------------

DONE = ".complete"
SUFFIXES = {"Image": ".png", "Audio": ".wav"}  # of bytes without a name: images are told apart by their content
SOUNDS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3\x03": ".mp3", b"ID3\x04": ".mp3"}


class HubFolder(NamedTuple):
    """A folder <part>/<number of the class>/ of files as the hub keeps them, and the names of the classes."""

    folder: Path
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def hub_folder(hub: HubSettings, parts: Mapping[str, str], kind: Literal["Image", "Audio"], place: Path) -> HubFolder:
    """The images or clips of a hub's splits as files in a folder within `place`: written once, found again.

    Args:
        parts: the split of each part.

    Raises:
        UserError: as `hub_columns`; or no column, or several, hold what is asked for, or the labels are no classes.
    """
    splits = {part: _split_of(hub.name, hub.subset, split, "data.hub.name") for part, split in parts.items()}
    samples = {part: _sample_column(rows, hub, kind, parts[part]) for part, rows in splits.items()}
    classes = _classes(splits["train"], hub)
    key = sha256_of_json([[part, rows._fingerprint, samples[part], hub.label] for part, rows in splits.items()])[:16]
    folder = place / f"hub-{key}"
    if not (folder / DONE).is_file():
        for part, rows in splits.items():
            _write_files(rows, samples[part], hub.label, kind, folder / part, classes, f"{hub.name}, {parts[part]}")
        write_atomically(folder / DONE, b"")
    return HubFolder(
        folder, classes, (f"{hub.name}: its files stand in {folder}", *revision_note(hub.name, splits["train"]))
    )


def _sample_column(rows: Any, hub: HubSettings, kind: str, split: str) -> str:
    """The column that holds the samples."""
    where = f'{hub.name}, split "{split}"'
    check_names(rows.column_names, [*([hub.sample] if hub.sample else []), hub.label], where)
    if hub.sample:
        return hub.sample
    columns = [name for name, feature in rows.features.items() if type(feature).__name__ == kind]
    if len(columns) != 1:
        what = "images" if kind == "Image" else "clips"
        shown = ", ".join(columns) or "none"
        raise UserError(
            f"{where}: the columns that hold {what} are {shown}, of {', '.join(rows.column_names)}; name one in"
            " data.hub.sample"
        )
    return columns[0]


def _classes(rows: Any, hub: HubSettings) -> tuple[str, ...]:
    """In the hub's order, where it has one."""
    names = getattr(rows.features[hub.label], "names", None)
    if names is not None:
        return tuple(map(nfc, names))
    values = texts_of(rows[hub.label][:], f'{hub.name}: column "{hub.label}"')
    return sorted_classes(values)


def _write_files(
    rows: Any, sample: str, label: str, kind: str, folder: Path, classes: Sequence[str], where: str
) -> None:
    """A file for each row, in the folder of its class's number; bytes are written as the hub keeps them."""
    import datasets

    rows = rows.cast_column(sample, getattr(datasets, kind)(decode=False))
    labels = _cells(rows, label, where)
    shutil.rmtree(folder, ignore_errors=True)
    for number, (row, name) in enumerate(zip(rows[sample], labels, strict=True)):
        if name not in classes:
            raise UserError(f'{where}: row {number} has the label "{name}", which the training split lacks')
        content, path = row["bytes"], Path(row["path"] or "")
        suffix = path.suffix or SOUNDS.get((content or b"")[:4], SUFFIXES[kind])
        file = folder / str(classes.index(name)) / f"{number:07d}{suffix.lower()}"
        make_folder(file.parent)
        if content is not None:
            file.write_bytes(content)
        else:
            os.symlink(path.resolve(), file)
