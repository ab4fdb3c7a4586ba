"""Columns of pairs: which hold the texts and which the score, in files of any header or none."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distiq.data.columns import Columns, check_names, read_table
from distiq.recipe.data import PairSettings

BESIDE = (
    ("sentence1", "sentence2"), ("sentencea", "sentenceb"), ("text1", "text2"), ("texta", "textb"), ("s1", "s2"),
    ("question1", "question2"), ("premise", "hypothesis"), ("first", "second"), ("text", "other"),
    ("anchor", "positive"), ("query", "document"),
)  # fmt: skip
SCORES = ("score", "similarity", "similarityscore", "relatednessscore", "relatedness", "rating", "label", "gold")
TEXTS = ("text", "sentence", "content")
KNOWN = {*(name for pair in BESIDE for name in pair), *SCORES, *TEXTS}
FEW_WORDS = 2  # of a column's name


class PairColumns(NamedTuple):
    """The columns of the first text, the second and the score; the latter two are empty where a file has none."""

    first: str
    second: str = ""
    score: str = ""


def read_named(path: Path, header: Sequence[str]) -> Columns:
    """The columns of a file; those without names are called "column 1" and on.

    Raises:
        UserError: as `read_table`.
    """
    return read_table(path, header, has_header)


def has_header(lines: Sequence[Sequence[str]]) -> bool:
    """Whether the first line of a file names its columns: it has a word where all others have a number, known names, or
    short ones where all others have texts."""
    first, others = lines[0], lines[1:]
    columns = list(zip(*others, strict=True))
    if not columns:
        return False
    numeric = [place for place, column in enumerate(columns) if _numbers(column)]
    if numeric:
        return any(first[place] and not _is_number(first[place]) for place in numeric)
    if 2 * sum(_plain(cell) in KNOWN for cell in first) >= len(first):
        return True
    names = all(re.match(r"[^\W\d]", cell) and len(cell.split()) <= FEW_WORDS for cell in first)
    return names and max(map(_words, columns)) > FEW_WORDS


def find_columns(columns: Columns, own: PairSettings, where: str) -> PairColumns:
    """The columns that the settings name, and for those that they do not the ones that are called or filled so.

    Raises:
        UserError: a column that is named is missing.
    """
    given = [name for name in (own.first, own.second, own.score) if name]
    if own.first:
        check_names(columns, given[:1], where)
    free = {_plain(name): name for name in columns if name not in given}
    score = own.score or next((free[name] for name in SCORES if name in free and _numbers(columns[free[name]])), "")
    score = score or next((free[name] for name in SCORES if name in free), "") or _score_by_content(columns, given)
    first, second = own.first, own.second
    if not first:
        pair = next((pair for pair in BESIDE if {*pair} <= {*free}), None)
        alone = next((name for name in TEXTS if name in free), None)
        texts = [name for name in columns if name not in (*given, score) and not _numbers(columns[name])]
        longest = sorted(texts, key=lambda name: -_length(columns[name]))[:2]
        if pair:
            first, found = free[pair[0]], free[pair[1]]
        elif alone:
            first, found = free[alone], next((name for name in longest if name != free[alone]), "")
        else:
            first, found = ([name for name in texts if name in longest] + ["", ""])[:2]
        second = second or found
    elif not second:
        pairs = {free_first: beside for free_first, beside in BESIDE}
        second = free.get(pairs.get(_plain(first), ""), "")
    if not first:
        check_names(columns, [TEXTS[0]], where)
    return PairColumns(first, *(name if name in columns else "" for name in (second, score)))


def _score_by_content(columns: Columns, given: Sequence[str]) -> str:
    """The last column of numbers, with fractions if there is one; numbers that count the rows are none."""
    numeric = [name for name, cells in columns.items() if name not in given and _numbers(cells)]
    fractions = [name for name in numeric if any("." in cell for cell in columns[name])]
    scores = [name for name in numeric if len(set(columns[name])) < len(columns[name])]
    return ([""] + numeric[:1] * (len(numeric) == 1) + scores[-1:] + fractions[-1:])[-1]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _numbers(cells: Sequence[str]) -> bool:
    """Whether they are numbers, but for those that are empty."""
    given = [cell for cell in cells if cell]
    return bool(given) and all(map(_is_number, given))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _words(cells: Sequence[str]) -> float:
    return statistics.fmean(len(cell.split()) for cell in cells)


def _length(cells: Sequence[str]) -> float:
    return statistics.fmean(map(len, cells)) if cells else 0.0
