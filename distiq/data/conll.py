"""CoNLL files: a word and its tag a line, in any columns, which are found by what they hold."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distiq.data.columns import read_lines
from distiq.errors import UserError

OUTSIDE = "O"
TAG = re.compile(r"O|[BIESLU]-.+")
NUMBER = re.compile(r"[\d.,_-]+")
READ = 50_000  # lines by which columns are found
SHARE_OUTSIDE = 0.3  # of words that belong to no span, at least, where tags have no B- and I-
MOST_LABELS = 200  # of tags without B- and I-


class Columns(NamedTuple):
    """Where word and tag stand, from 0; -1 is the last."""

    word: int
    tag: int


class Line(NamedTuple):
    """A word with its tag as they stand in a line."""

    number: int
    word: str
    tag: str


def find_columns(path: Path) -> Columns:
    """The columns of words and of tags. Of two columns of tags the last one, unless it holds spans within those of the
    other, of the same labels, as GermEval's does.

    Raises:
        UserError: the file cannot be read.
    """
    lines = [_cells(line) for line in read_lines(path)[:READ] if _holds_a_word(line) and line[0] != "#"]
    if not lines:
        return Columns(0, -1)
    width = Counter(map(len, lines)).most_common(1)[0][0]
    columns = list(zip(*(cells for cells in lines if len(cells) == width), strict=True))
    tags = [place for place, column in enumerate(columns) if _holds_tags(column)]
    tags = tags or [place for place, column in enumerate(columns) if _holds_labels(column)]
    if not tags:
        return Columns(0, -1)
    tag = tags[-1]
    for place in tags[:-1]:
        if _are_nested(columns[tag], columns[place]):
            tag = place
    texts = [place for place in range(width) if place not in tags and not all(map(NUMBER.fullmatch, columns[place]))]
    most = max((len(set(columns[place])) for place in texts), default=0)
    word = next((place for place in texts if 2 * len(set(columns[place])) >= most), 0)
    return Columns(word, -1 if tag == width - 1 else tag)


def _holds_tags(column: Sequence[str]) -> bool:
    return all(map(TAG.fullmatch, column)) and any(cell != OUTSIDE for cell in column)


def _holds_labels(column: Sequence[str]) -> bool:
    """Whether they are tags without B- and I-: most words are O, the others have one of few labels."""
    labels = set(column) - {OUTSIDE}
    named = 0 < len(labels) <= MOST_LABELS and not any(map(NUMBER.fullmatch, labels))
    return named and column.count(OUTSIDE) >= SHARE_OUTSIDE * len(column)


def _are_nested(inner: Sequence[str], outer: Sequence[str]) -> bool:
    own, others = ({tag.partition("-")[2] for tag in column} - {""} for column in (inner, outer))
    fewer = sum(tag != OUTSIDE for tag in inner) < sum(tag != OUTSIDE for tag in outer)
    return fewer and 2 * len(own & others) > len(own)


def read_conll(path: Path, columns: Columns) -> list[list[Line]]:
    """The sentences of a file. Lines that begin with # and are no word with a tag are comments.

    Raises:
        UserError: the file cannot be read, a line lacks a column, or no empty line stands between sentences.
    """
    sentences: list[list[Line]] = [[]]
    width = 0
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append([])
            continue
        cells = _cells(line)
        if line[0] == "#" and (len(cells) != width if width else not _is_word(cells, columns)):
            continue
        width = width or len(cells)
        where = f"{path}: line {number}"
        word, tag = (_cell(cells, place, what, where) for place, what in zip(columns, Columns._fields, strict=True))
        sentences[-1].append(Line(number, word, tag))
    sentences = [sentence for sentence in sentences if sentence]
    if len(sentences) == 1 and len(sentences[0]) > 1:
        raise UserError(
            f"{path}: no empty line stands between sentences, so its {len(sentences[0]):,} words would be one;"
            " put an empty line behind each sentence"
        )
    return sentences


def _holds_a_word(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("-DOCSTART-")


def _cells(line: str) -> list[str]:
    """By tabs, else by spaces; other blanks, such as U+00A0, may be words."""
    plain = line.strip(" \r")
    return [cell.strip(" ") for cell in (plain.rstrip().split("\t") if "\t" in line else re.split(" +", plain))]


def _is_word(cells: Sequence[str], columns: Columns) -> bool:
    return len(cells) > max(1, *columns) and bool(TAG.fullmatch(cells[columns.tag]))


def _cell(cells: Sequence[str], place: int, what: str, where: str) -> str:
    if not -len(cells) <= place < len(cells) or len(cells) < 2:
        raise UserError(
            f"{where}: has {len(cells)} column(s), but the {what} stands in column {place} (data.entities.{what});"
            " a word and its tag stand in a line, with a tab or spaces between"
        )
    return cells[place]
