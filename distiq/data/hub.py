"""Named columns of a data set from the Hugging Face hub, or from a folder that the package datasets can read."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

from distiq.data.columns import Columns, check_names, texts_of
from distiq.device.run import nfc
from distiq.errors import UserError

UNLABELLED = -1  # what hubs write where the labels of a test set are kept back


class HubColumns(NamedTuple):
    """Columns as text; and the names of the classes, in the hub's order, of a column that has some."""

    columns: Columns
    classes: dict[str, tuple[str, ...]]


def hub_columns(name: str, subset: str, split: str, wanted: Sequence[str]) -> HubColumns:
    """The wanted columns of a split, as text, in the order of its rows; classes by their names where it knows them.

    Args:
        name: such as "stanfordnlp/sst2", or a folder.
        subset: of a data set that has several, such as "sst2" of "nyu-mll/glue".
        split: such as "train", or a part of it, such as "train[:6000]".

    Raises:
        UserError: the package is missing, the data set cannot be reached or read, it lacks a column, or its labels are
            kept back.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("data.text.hub: needs the package datasets: pip install datasets") from error
    try:
        rows = datasets.load_dataset(name, subset or None, split=split)
    except Exception as error:  # it raises its own kinds, and those of the network
        told = " ".join(str(error).split()) or type(error).__name__  # its second line names the subsets there are
        hint = _hint(datasets, name, subset, split)
        raise UserError(f'data.text.hub: "{name}" cannot be read ({told}){hint}') from error
    where = f'{name}, split "{split}"'
    check_names(rows.column_names, wanted, where)
    of_classes = {column: getattr(rows.features[column], "names", None) for column in wanted}
    classes = {column: tuple(map(nfc, names)) for column, names in of_classes.items() if names is not None}
    return HubColumns({column: _cells(rows, column, where) for column in wanted}, classes)


def _hint(datasets: Any, name: str, subset: str, split: str) -> str:
    """What there is in its place, where that can be found out."""
    try:
        known = datasets.get_dataset_split_names(name, subset or None)
    except Exception:
        return "; without a network name a folder, or files in data.folder"
    nearest = difflib.get_close_matches(split.partition("[")[0], known, n=1)
    return f'; did you mean "{nearest[0]}"?' if nearest else f"; its splits: {', '.join(known)}"


def _cells(rows: Any, column: str, where: str) -> list[str]:
    names = getattr(rows.features[column], "names", None)  # of a column of class numbers
    values = rows[column][:]
    if names is None:
        return texts_of(values, f'{where}: column "{column}"')
    if UNLABELLED in values:
        raise UserError(f"{where}: the labels of this split are kept back ({column} is -1); name another split")
    return ["" if value is None else nfc(names[value]) for value in values]
