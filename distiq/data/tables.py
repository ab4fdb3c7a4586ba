"""Tables: rows of named columns become vectors in 0..1, by an encoding that is fitted once and kept as JSON.

A number becomes its piecewise linear encoding (Gorishniy et al. 2022, "On embeddings for numerical features in tabular
deep learning", arXiv:2203.05556, equation 1, cut off at both ends), a category its one-hot vector. Everything lies in
0..1, so that one 8-bit grid carries the whole input.
"""

import importlib.resources
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distiq.data.columns import Columns, label_numbers, parse_columns, read_columns
from distiq.data.splits import Split
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TableSettings
from distiq.recipe.part import changed

ADULT = TableSettings(
    label="income",
    numeric=("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"),
    categorical=(
        "workclass", "education", "marital-status", "occupation", "relationship", "race", "sex", "native-country",
    ),
)  # fmt: skip


class Encoded(NamedTuple):
    """Vectors (N, F) float32 in 0..1, and sentences about what was missing or unknown in the rows."""

    inputs: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Encoding:
    """How rows become vectors.

    Args:
        numeric: column -> (median, edges); the median stands in for a missing number.
        categorical: column -> the categories that occur in the training rows.
    """

    numeric: dict[str, tuple[float, tuple[float, ...]]]
    categorical: dict[str, tuple[str, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical)

    def as_json(self) -> dict[str, Any]:
        numeric = {name: {"median": median, "edges": list(edges)} for name, (median, edges) in self.numeric.items()}
        return {"numeric": numeric, "categorical": {name: list(known) for name, known in self.categorical.items()}}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Encoding":
        numeric = {name: (entry["median"], tuple(entry["edges"])) for name, entry in value["numeric"].items()}
        return Encoding(numeric, {name: tuple(known) for name, known in value["categorical"].items()})

    def encode(self, rows: Columns, where: str) -> Encoded:
        """Vectors of the rows. A missing number is the column's median, an unseen category no category at all.

        Raises:
            UserError: a value of a numeric column is no number; row and column are named.
        """
        try:
            inputs, notes = runner.encoded(rows, self.as_json(), where)
        except runner.Refused as error:
            raise UserError(str(error)) from error
        return Encoded(torch.from_numpy(inputs), tuple(notes))


def fit_encoding(rows: Columns, settings: TableSettings, where: str) -> Encoding:
    """The encoding of the given training rows.

    Edges stand half at quantiles of the values and half at quantiles of the distinct values: a column that is nearly
    always zero keeps its rest apart.

    Raises:
        UserError: a numeric column holds no number or a value that is none, or a column is constant.
    """
    numeric = {}
    for name in settings.numeric:
        place = f'{where}: column "{name}"'
        values = _numbers(rows[name], place)
        values = np.sort(values[~np.isnan(values)])
        distinct = np.unique(values)
        if len(distinct) < 2:
            raise UserError(f"{place} holds {len(distinct)} different number(s); leave it out of data.table.numeric")
        shares = np.linspace(0, 1, settings.bins // 2 + 1)
        edges = np.unique(np.concatenate([np.quantile(part, shares) for part in (values, distinct)]))
        numeric[name] = (float(np.median(values)), tuple(float(edge) for edge in edges))
    categorical = {name: tuple(sorted(set(runner.categories(rows[name])))) for name in settings.categorical}
    for name, known in categorical.items():
        if len(known) < 2:
            raise UserError(f'{where}: column "{name}" holds one category only; leave it out of data.table.categorical')
    return Encoding(numeric, categorical)


def _numbers(values: Sequence[str], where: str) -> np.ndarray:
    try:
        return runner.numbers(values, where)
    except runner.Refused as error:
        raise UserError(str(error)) from error


def adult(settings: TableSettings) -> tuple[TableSettings, Columns, Columns]:
    """The packaged Adult rows: settings with all its columns where none are named, training and test rows."""
    chosen = settings if settings.numeric or settings.categorical else ADULT
    columns = {"numeric": chosen.numeric, "categorical": chosen.categorical, "label": ADULT.label}
    settings = changed(settings, columns)
    root = importlib.resources.files("distiq.data") / "adult"
    wanted = (*settings.numeric, *settings.categorical, settings.label)
    train, test = (
        parse_columns(lzma.decompress((root / f"{part}.csv.xz").read_bytes()), ".csv", f"adult: {part}", wanted)
        for part in ("train", "test")
    )
    return settings, train, test


class Table(NamedTuple):
    """The encoded rows of a recipe's table, how they were encoded, and what was missing or unknown in them."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    encoding: Encoding
    notes: tuple[str, ...]


def table(settings: DataSettings) -> Table:
    """The table of a recipe: `data.source` is "adult" or "table".

    Raises:
        UserError: no columns are named, a file or a column is missing, a value does not fit; the message says where.
    """
    of_table, source = settings.table, settings.source
    if source == "adult":
        of_table, train, test = adult(of_table)
    else:
        wanted = (*of_table.numeric, *of_table.categorical, of_table.label)
        if len(wanted) < 2:
            raise UserError("data.table: name the columns to learn from in numeric and categorical")
        folder = Path(settings.folder)
        train, test = (read_columns(folder / file, wanted, of_table.header) for file in (of_table.train, of_table.test))
    parts = {"training": train, "test": test}
    encoding = fit_encoding(train, of_table, f"{source}: training rows")
    classes = tuple(sorted(set(train[of_table.label])))
    known = {part: encoding.encode(rows, f"{source}: {part} rows") for part, rows in parts.items()}
    splits = {
        part: Split(known[part].inputs, label_numbers(rows[of_table.label], classes, f"{source}: {part} rows"), "table")
        for part, rows in parts.items()
    }
    notes = (*known["training"].notes, *known["test"].notes)
    return Table(classes, splits["training"], splits["test"], encoding, notes)
