"""Named columns of text from files: CSV, TSV, JSON, JSON lines, Parquet."""

import csv
import difflib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from distiq.device import run as runner
from distiq.device.run import nfc
from distiq.errors import UserError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
NO_LABEL = ("", "NaN", "nan", "None", "null", "NULL", "<NA>")
"""What stands where a row has no label."""
Columns = dict[str, list[str]]
T = TypeVar("T")
SMALL_BYTES, SMALL_ROWS, MOST_UNPACKED = 100_000_000, 2_000_000, 100
"""What a packed file may hold in any case, and how many times its own size."""
ROWS_AT_ONCE = 256
SEEN = 20  # lines that show what parts their columns


def read_columns(path: Path, names: Sequence[str], header: Sequence[str] = ()) -> Columns:
    """The wanted columns of a file, as text, in the order of its rows; a missing value is the empty text.

    Args:
        header: the names of all columns of a CSV or TSV file whose first line is no header.

    Raises:
        UserError: the file is missing, is not UTF-8 or is broken, or lacks a column; line and nearest name are given.
    """
    path = Path(path)
    return parse_columns(_bytes(path), path.suffix, str(path), names, header)


def read_table(path: Path, header: Sequence[str], has_header: Callable[[Sequence[Sequence[str]]], bool]) -> Columns:
    """All columns of a file that hold no lists; of one without a header "column 1" and on. A text file (.txt) is read
    as lines, and one whose first line has more tabs than commas by its tabs, whatever it is called.

    Args:
        has_header: tells from the rows of a CSV, TSV or text file whether the first one is the header.

    Raises:
        UserError: as `read_columns`.
    """
    kind, name, content = path.suffix.lower(), str(path), _bytes(path)
    if kind == ".parquet":
        return _of_parquet(content, name, lambda file, most: _cells(file, _flat(file), most, name))
    text = _text(content, name)
    if kind in (".json", ".jsonl"):
        return parse_columns(content, kind, name, _scalar_keys(text, kind == ".jsonl", name))
    if kind not in (".csv", ".tsv", ".txt"):
        raise UserError(f'{name}: "{kind}" is no known kind of file; take {", ".join((*SUFFIXES, ".txt"))}')
    first = text.lstrip("\ufeff\r\n").partition("\n")[0]
    tabs = kind == ".tsv" or first.count("\t") > first.count(",")
    if kind == ".txt" and not tabs:
        return {"column 1": [nfc(line.strip()) for line in text.split("\n") if line.strip()]}
    if not header:
        rows = [row for _, row in _table_lines(text, tabs, name)]
        if rows and not (len({*map(len, rows)}) == 1 and has_header(rows)):
            header = [f"column {number}" for number in range(1, len(rows[0]) + 1)]
    return _delimited(text, tabs, name, header)


def _flat(file: Any) -> list[str]:
    """The columns of a Parquet file that hold no lists and no structs."""
    import pyarrow.types

    return [nfc(field.name) for field in file.schema_arrow if not pyarrow.types.is_nested(field.type)]


def _scalar_keys(text: str, lines: bool, name: str) -> list[str]:
    rows = _rows_of(text, lines, name, ("text",))
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if not any(isinstance(row.get(key), (list, dict)) for row in rows)]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without what ends them.

    Raises:
        UserError: the file is missing, empty, or not UTF-8.
    """
    text = _text(_bytes(path), str(path))
    if not text.strip():
        raise UserError(f"{path}: this file is empty; give it lines, or name another")
    return text.replace("\r\n", "\n").split("\n")  # not splitlines: it ends lines at U+2028, too


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def parse_columns(content: bytes, suffix: str, name: str, needed: Sequence[str], header: Sequence[str] = ()) -> Columns:
    """The wanted columns of a file's content; see `read_columns`."""
    if suffix.lower() == ".parquet":
        columns = _parquet(content, name, [nfc(column) for column in needed])
    else:
        text = _text(content, name)
        if not text.strip():
            raise UserError(f"{name}: this file is empty; give it rows, or name another")
        match suffix.lower():
            case ".csv" | ".tsv":
                columns = _delimited(text, suffix.lower() == ".tsv", name, header)
            case ".json" | ".jsonl":
                columns = _objects(text, suffix.lower() == ".jsonl", name, needed)
            case _:
                raise UserError(f'{name}: "{suffix}" is no known kind of file; take {", ".join(SUFFIXES)}')
    no_header = suffix.lower() in (".csv", ".tsv") and not header
    hint = "; where its first line is no header, name all columns in `header`" if no_header else ""
    names = [nfc(column) for column in needed]
    check_names(columns, names, name, hint)
    return {column: columns[own] for column, own in zip(needed, names, strict=True)}


def check_names(present: Sequence[str] | Columns, needed: Sequence[str], name: str, more: str = "") -> None:
    """Raises UserError, with the nearest name, if a wanted column is not there; `more` follows the names of those."""
    if missing := [column for column in needed if column not in present]:
        nearest = difflib.get_close_matches(missing[0], list(present), n=1)
        hint = f'did you mean "{nearest[0]}"?' if nearest else f"its columns: {', '.join(present)}{more}"
        raise UserError(f'{name}: no column "{missing[0]}"; {hint}')


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{name}: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from error


def _delimited(text: str, tabs: bool, name: str, header: Sequence[str]) -> Columns:
    lines = _table_lines(text, tabs, name)
    names = [nfc(column.strip()) for column in (header or (lines.pop(0)[1] if lines else []))]
    if len(set(names)) < len(names):
        raise UserError(f"{name}: its header names a column twice: {', '.join(names)}")
    columns: Columns = {column: [] for column in names}
    for number, row in lines:
        if len(row) != len(names):
            raise UserError(f"{name}: line {number} has {len(row)} values, but there are {len(names)} columns")
        for column, value in zip(names, row, strict=True):
            columns[column].append(value.strip())
    own = [column for column in names if header and columns[column][:1] == [column]]
    if own:
        raise UserError(
            f'{name}: line 1 is a header itself ("{own[0]}" in the column "{own[0]}"); leave `header` out of the recipe'
        )
    return columns


def _table_lines(text: str, tabs: bool, name: str) -> list[tuple[int, list[str]]]:
    semicolons = {line.count(";") for line in text.split("\n")[:SEEN] if line.strip()}
    try:
        lines = runner.table_lines(text, tabs)
    except csv.Error as error:
        raise UserError(f"{name}: cannot be read ({error})") from error
    if len(lines) > 1 and len(lines[0][1]) == 1 and len(semicolons) == 1 and semicolons != {0}:
        raise UserError(f"{name}: its columns are parted by semicolons; save it with commas, or with tabs as .tsv")
    return lines


def _objects(text: str, lines: bool, name: str, names: Sequence[str]) -> Columns:
    """One object a line, or a JSON file of one object or a list of them; a key may be missing in some. Of keys that are
    not wanted the values are left out, which may be lists."""
    rows = _rows_of(text, lines, name, names)
    wanted, present = {*map(nfc, names)}, dict.fromkeys(key for row in rows for key in row)
    return {
        key: texts_of((row.get(key) for row in rows), f'{name}: column "{key}"') if key in wanted else []
        for key in present
    }


def _rows_of(text: str, lines: bool, name: str, names: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows = runner.objects(text, lines)
    except RecursionError as error:
        raise UserError(f"{name}: not valid JSON (nested too deep)") from error
    except ValueError as error:
        raise UserError(f"{name}: not valid JSON ({error})") from error
    if not rows:
        raise UserError(f"{name}: holds no row")
    if not all(isinstance(row, dict) for row in rows):
        example = json.dumps(dict.fromkeys(names, "..."))
        raise UserError(f"{name}: every row must be an object such as {example}")
    return rows


def _parquet(content: bytes, name: str, needed: Sequence[str]) -> Columns:
    return _of_parquet(content, name, lambda file, most: _cells(file, needed, most, name))


def _of_parquet(content: bytes, name: str, read: Callable[[Any, int], T]) -> T:
    """What `read` makes of a Parquet file that may hold so many characters or bytes, unpacked."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{name}: reading Parquet needs the package pyarrow: pip install pyarrow") from error
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        rows = file.metadata.num_rows
        unpacked = sum(file.metadata.row_group(at).total_byte_size for at in range(file.metadata.num_row_groups))
        most = max(SMALL_BYTES, MOST_UNPACKED * len(content))
        if unpacked > most or rows > max(SMALL_ROWS, len(content)):
            raise UserError(
                f"{name}: unpacked it has {unpacked:,} bytes in {rows:,} rows, far more than the file; write it anew"
            )
        return read(file, most)
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: no Parquet file, or damaged ({error})") from error


def read_objects(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a Parquet file, lists within them, and what the package datasets wrote of its columns, by name.

    Raises:
        UserError: the file is missing, damaged, or holds far more than its own size.
    """

    def read(file: Any, most: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        written = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        rows, total = [], 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            total += batch.nbytes
            if total > most:
                raise UserError(
                    f"{path}: unpacked it has more than {most:,} bytes, far more than the file; write it anew"
                )
            rows += batch.to_pylist()
        return rows, json.loads(written).get("info", {}).get("features", {})

    return _of_parquet(_bytes(path), str(path), read)


def _cells(file: Any, needed: Sequence[str], most: int, name: str) -> Columns:
    """The cells of a Parquet file as text, read bit by bit: a few bytes may stand for many rows of the same.

    Args:
        most: characters that they may have together.
    """
    names = [nfc(column) for column in file.schema_arrow.names]
    check_names(names, needed, name)
    if twice := [column for column in needed if names.count(column) > 1]:
        raise UserError(f'{name}: two columns are called "{twice[0]}"; rename one')
    stored = [file.schema_arrow.names[names.index(column)] for column in needed]
    columns: Columns = {column: [] for column in needed}
    total = 0
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=stored):
        for column, own in zip(needed, stored, strict=True):
            cells = texts_of(batch.column(own).to_pylist(), f'{name}: column "{column}"')
            total += sum(map(len, cells))
            columns[column] += cells
        if total > most:
            raise UserError(
                f"{name}: unpacked it has more than {most:,} characters, far more than the file; write it anew"
            )
    return columns


def texts_of(values: Iterable[Any], where: str) -> list[str]:
    """Values as files of text write them; a missing one is empty.

    Raises:
        UserError: there are lists or structs among them, or bytes that are no UTF-8.
    """
    try:
        return [runner.cell(value, where) for value in values]
    except runner.Refused as error:
        raise UserError(str(error)) from error


def groups_of(parts: Sequence[Columns], column: str, files: Sequence[str]) -> tuple[str, ...]:
    """The group of each row of the first part, the training rows; empty where a row names none.

    Raises:
        UserError: a group of theirs is in another part, too.
    """
    train = parts[0][column]
    for file, rows in zip(files[1:], parts[1:], strict=True):
        if both := sorted((set(rows[column]) & set(train)) - set(NO_LABEL)):
            raise UserError(
                f'{file}: the {column} "{both[0]}" is among the training rows, too ({len(both)} are); a group belongs'
                " into one of them, so that nothing is measured on whom was learned from"
            )
    return tuple("" if name in NO_LABEL else name for name in train)


def label_flags(columns: Sequence[Sequence[str]], names: Sequence[str], where: str) -> Tensor:
    """(N, labels) int64 of as many columns of 0 and 1.

    Raises:
        UserError: a value is neither.
    """
    for name, column in zip(names, columns, strict=True):
        for row, value in enumerate(column):
            if value not in ("0", "1"):
                raise UserError(f'{where}: row {row + 1} has "{value}" in the column "{name}"; a label is 0 or 1')
    return torch.tensor([[int(value) for value in row] for row in zip(*columns, strict=True)], dtype=torch.int64)


def target_numbers(cells: Sequence[str], column: str, where: str) -> Tensor:
    """(N,) float32 of a column of numbers.

    Raises:
        UserError: a value is missing, is no number, or is not finite.
    """
    numbers = []
    for row, value in enumerate(cells):
        try:
            numbers.append(float(value))
        except ValueError:
            raise UserError(
                f'{where}: row {row + 1} has "{value}" in the column "{column}"; regression needs a number; '
                "correct it or take the row out"
            ) from None
        if not math.isfinite(numbers[-1]):
            raise UserError(f'{where}: row {row + 1} has "{value}" in the column "{column}"; take the row out')
    return torch.tensor(numbers, dtype=torch.float32)


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes that labels name, in their order. A missing label is no class."""
    return in_order({name for name in names if name not in NO_LABEL})


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """Names of classes: numbers by size, others by their letters."""
    try:
        return tuple(sorted(classes, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(classes))


def label_sets(cells: Sequence[str], separator: str) -> list[list[str]]:
    """The labels in each cell, which may be empty; a cell that says that there is none is."""
    parts = [[] if cell in NO_LABEL else cell.split(separator) for cell in cells]
    return [[name for part in row if (name := part.strip())] for row in parts]


def set_flags(sets: Sequence[Sequence[str]], classes: Sequence[str], where: str) -> Tensor:
    """(N, classes) int64: 1 at the labels that a row has.

    Raises:
        UserError: a label is no known class.
    """
    flags = torch.zeros(len(sets), len(classes), dtype=torch.int64)
    for row, names in enumerate(sets):
        for number in label_numbers(names, classes, f"{where}: row {row + 1}") if names else ():
            flags[row, number] = 1
    return flags


def label_numbers(labels: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """(N,) int64: the classes' numbers.

    Raises:
        UserError: a label is missing or is no known class.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if missing := [row for row, label in enumerate(labels) if label in NO_LABEL and label not in numbers]:
        others = f" ({len(missing)} rows lack one)" if len(missing) > 1 else ""
        raise UserError(f"{where}: row {missing[0] + 1} has no label{others}; give it one or take the row out")
    for row, label in enumerate(labels):
        if label not in numbers:
            raise UserError(
                f'{where}: row {row + 1} has the label "{label}", which no training row has: {", ".join(classes)}'
            )
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)
