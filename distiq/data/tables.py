"""Tables: how rows become vectors in 0..1, by an encoding that is fitted once; and where they come from.

A number becomes its piecewise linear encoding (Gorishniy et al. 2022, "On embeddings for numerical features in tabular
deep learning", arXiv:2203.05556, equation 1, cut off at both ends), a category its one-hot vector. Everything lies in
0..1, so that one 8-bit range holds the whole input.
"""

import importlib.resources
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from distiq.data.columns import (
    Columns,
    groups_of,
    label_numbers,
    parse_columns,
    read_columns,
    sorted_classes,
    target_numbers,
)
from distiq.data.samples import (
    Encoded,
    Loaded,
    Samples,
    channel_statistics,
    in_memory,
    name_of,
    standardized,
)
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TableSettings
from distiq.recipe.part import changed
from distiq.records.record import Modality

ADULT = TableSettings(
    label="income",
    numeric=("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"),
    categorical=(
        "workclass", "education", "marital-status", "occupation", "relationship", "race", "sex", "native-country",
    ),
)  # fmt: skip


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
        return {
            "numeric": numeric,
            "categorical": {name: list(categories) for name, categories in self.categorical.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        numeric = {name: (entry["median"], tuple(entry["edges"])) for name, entry in value["numeric"].items()}
        return cls(numeric, {name: tuple(categories) for name, categories in value["categorical"].items()})

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
    for name, seen in categorical.items():
        if len(seen) < 2:
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
    if settings.target:
        raise UserError(
            f'data.table.target: adult has classes, those of "{ADULT.label}"; leave it out, or bring rows of your own'
        )
    if ADULT.label in (*chosen.numeric, *chosen.categorical):
        raise UserError(
            f'data.table: "{ADULT.label}" is the label of adult; a network would learn nothing else: take it out of'
            " numeric and categorical"
        )
    settings = changed(settings, columns)
    root = importlib.resources.files("distiq.data") / "adult"
    needed = (*settings.numeric, *settings.categorical, settings.label)
    train, test = (
        parse_columns(lzma.decompress((root / f"{part}.csv.xz").read_bytes()), ".csv", f"adult: {part}", needed)
        for part in ("train", "test")
    )
    return settings, train, test


@dataclass(frozen=True)
class Table:
    """How rows become inputs: by an encoding of named columns; or, of vectors from elsewhere, minus mean, by std.

    Args:
        shape: (F,), the width of a vector.
        encoding: None where the vectors came from elsewhere.
        mean, std: of those, per column; empty until `fitted`.
    """

    shape: tuple[int, ...]
    encoding: Encoding | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    modality: ClassVar[Modality] = "table"
    raw_name: ClassVar[str] = ""
    form: ClassVar[str] = "(N, F) as float32"
    dtype: ClassVar[torch.dtype] = torch.float32
    input_dtype: ClassVar[torch.dtype] = torch.float32
    has_lengths: ClassVar[bool] = False
    pair: ClassVar[bool] = False

    def fits(self, inputs: Samples) -> bool:
        """Whether samples have the form of vectors."""
        return len(inputs.shape) == 1 and inputs.dtype == torch.float32

    def fitted(self, samples: Samples) -> Self:
        """With mean and std of these training vectors (N, F), unless they are set or the rows are encoded."""
        if self.encoding or self.mean:
            return self
        mean, std = channel_statistics(samples)
        return replace(self, mean=mean, std=std)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Vectors (B, F) -> what the network sees, (B, F) float32."""
        return standardized(inputs, self.mean, self.std)

    def encode(self, sample: str, where: str, second: str = "") -> Encoded:
        """The inputs (B, F) of a file of rows.

        Raises:
            UserError: the file is missing, holds no row or lacks a column, or no encoding is known.
        """
        if self.encoding is None:
            raise UserError(f"{where}: this bundle cannot read raw rows; it predicts prepared inputs")
        rows = read_columns(Path(sample), self.encoding.columns)
        if not rows[self.encoding.columns[0]]:
            raise UserError(f"{sample}: holds no row")
        return self.encoding.encode(rows, sample)

    def check_weights(self, folder: Path, where: str) -> None:
        """Weights say nothing of how rows are read."""

    def facts(self) -> dict[str, Any]:
        """What the record of the data says of it."""
        return {"mean": self.mean, "std": self.std}

    def to_json(self) -> dict[str, Any]:
        form = {"modality": self.modality, "shape": list(self.shape), "raw": name_of(self.dtype)}
        encoded = self.encoding.as_json() if self.encoding else {}
        return {**form, "mean": list(self.mean), "std": list(self.std), **encoded}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        encoding = Encoding.from_json(value) if "numeric" in value else None
        return cls(tuple(value["shape"]), encoding, tuple(value["mean"]), tuple(value["std"]))


def table(settings: DataSettings) -> Loaded:
    """The table of a recipe: `data.source` is "adult" or "table".

    Raises:
        UserError: no columns are named, a file or a column is missing, a value does not fit; the message says where.
    """
    of_table, source = settings.table, settings.source
    groups: tuple[str, ...] = ()
    if source == "adult":
        of_table, train, test = adult(of_table)
        parts = {"training": train, "test": test}
    else:
        features, group = (*of_table.numeric, *of_table.categorical), of_table.group
        if not features:
            raise UserError("data.table: name the columns to learn from in numeric and categorical")
        needed = tuple(dict.fromkeys((*features, of_table.predicted, *([group] if group else []))))
        files = {"training": of_table.train, "test": of_table.test, "validation": settings.validation_part}
        files = {part: file for part, file in files.items() if file}
        folder = Path(settings.folder)
        parts = {part: read_columns(folder / file, needed, of_table.header) for part, file in files.items()}
        groups = groups_of(list(parts.values()), group, list(files.values())) if group else ()
    train = parts["training"]
    encoding = fit_encoding(train, of_table, f"{source}: training rows")
    classes = (of_table.target,) if of_table.target else sorted_classes(train[of_table.label])
    encoded = {part: encoding.encode(rows, f"{source}: {part} rows") for part, rows in parts.items()}
    splits = {
        part: in_memory(encoded[part].inputs, _labels(of_table, rows, classes, f"{source}: {part} rows"))
        for part, rows in parts.items()
    }
    notes = (*_numbers_as_text(encoding), *(note for part in encoded.values() for note in part.notes))
    preprocessing = Table(splits["training"].samples.shape, encoding)
    return Loaded(classes, splits["training"], splits["test"], preprocessing, notes, splits.get("validation"), groups)


def _labels(settings: TableSettings, rows: Columns, classes: Sequence[str], where: str) -> Tensor:
    """(N,) classes, or numbers."""
    if settings.target:
        return target_numbers(rows[settings.target], settings.target, where)
    return label_numbers(rows[settings.label], classes, where)


def _numbers_as_text(encoding: Encoding) -> list[str]:
    """Sentences about columns of numbers that are taken as categories, since they are written as text."""
    notes = []
    for name, categories in encoding.categorical.items():
        seen = [category for category in categories if category != runner.UNKNOWN]
        if any(not _is_plain(category) for category in seen) and all(map(runner.SEPARATED.fullmatch, seen)):
            notes.append(
                f'column "{name}": its {len(seen)} categories are numbers written as text ("{seen[-1]}"); to learn'
                " from them as numbers write 1234.5 and name the column numeric"
            )
    return notes


def _is_plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
