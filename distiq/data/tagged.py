"""Texts whose words have tags: CoNLL files of any columns, and JSON lines of texts with spans."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distiq.data.columns import read_lines
from distiq.device.run import nfc, spans_in, words_of
from distiq.errors import UserError
from distiq.recipe.data import EntitySettings

OUTSIDE = "O"
TAG = re.compile(r"O|[BIESLU]-.+")
STARTS = ("start", "start_offset", "begin")
ENDS = ("end", "end_offset")
LABELS = ("label", "type", "tag", "entity")
SHOWN = 3  # of what a message names


class Sentence(NamedTuple):
    """The words of a text, and the tag of each."""

    words: list[str]
    tags: list[str]


class Tagged(NamedTuple):
    """The sentences of a file, and what was changed in them, in words."""

    sentences: list[Sentence]
    notes: tuple[str, ...]


def read_tagged(path: Path, settings: EntitySettings) -> Tagged:
    """The sentences of a CoNLL file, or of JSON lines (.jsonl) or a JSON list (.json).

    Tags are written as BIO, or as BIOES where the file has them so; spans are the same.

    Raises:
        UserError: the file cannot be read, a line lacks a column, a tag or a span is none; file and line are given.
    """
    is_json = path.suffix.lower() in (".json", ".jsonl")
    read = _json(path, settings) if is_json else _conll(path, settings.word, settings.tag)
    if not read.sentences:
        raise UserError(f"{path}: holds no word; give it sentences, or name another file")
    tags = [tag for sentence in read.sentences for tag in sentence.tags]
    if all(tag == OUTSIDE for tag in tags):
        raise UserError(f"{path}: every tag is O, so there is no span to find; name the column in data.entities.tag")
    return read


# CoNLL ----------------------------------------------------------------------------------------------------------------


def _conll(path: Path, word: int, tag: int) -> Tagged:
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    width = 0
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                sentences.append(Sentence(words, tags))
            words, tags = [], []
            continue
        cells = [cell.strip() for cell in (line.rstrip().split("\t") if "\t" in line else line.split())]
        if line.startswith("# ") and (len(cells) != width if width else "=" in line):
            continue  # a comment, as CoNLL-U has them
        width = width or len(cells)
        words.append(nfc(_column(cells, word, "word", f"{path}: line {number}")))
        tags.append(_tag(_column(cells, tag, "tag", f"{path}: line {number}"), f"{path}: line {number}"))
    if len(sentences) == 1 and len(sentences[0].words) > 1:
        raise UserError(
            f"{path}: no empty line stands between sentences, so its {len(sentences[0].words):,} words would be one;"
            " put an empty line behind each sentence"
        )
    return _in_bio(sentences, str(path))


def _column(cells: Sequence[str], place: int, what: str, where: str) -> str:
    if not -len(cells) <= place < len(cells) or (len(cells) < 2):
        raise UserError(
            f"{where}: has {len(cells)} column(s), but the {what} stands in column {place} (data.entities.{what});"
            " a word and its tag stand in a line, with a tab or spaces between"
        )
    return cells[place]


def _tag(tag: str, where: str) -> str:
    if not TAG.fullmatch(tag):
        raise UserError(
            f'{where}: the tag "{tag}" is none of O, B-..., I-... (or E-, S-, L-, U-); name the column of the tags in'
            " data.entities.tag"
        )
    return {"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:]


def _in_bio(sentences: list[Sentence], where: str) -> Tagged:
    """The sentences with a B where each span begins, in BIOES an S or B."""
    changed = 0
    for sentence in sentences:
        for _, first, last in spans_in(sentence.tags):
            begins = "S" if sentence.tags[first][0] == "E" and last - first == 1 else "B"
            if sentence.tags[first][0] not in "BS":
                sentence.tags[first] = begins + sentence.tags[first][1:]
                changed += 1
    notes = (f"{where}: {changed:,} spans begin with I- or E- in place of B-; taken as B-",) if changed else ()
    return Tagged(sentences, notes)


# JSON -----------------------------------------------------------------------------------------------------------------


def _json(path: Path, settings: EntitySettings) -> Tagged:
    sentences: list[Sentence] = []
    widened: list[str] = []
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}: text {number}"
        if not isinstance(row, dict) or not isinstance(row.get(settings.text), str):
            raise UserError(
                f'{where}: is no object with a "{settings.text}"; name the keys in data.entities.text and spans'
            )
        if not isinstance(given := row.get(settings.spans), list):
            raise UserError(f'{where}: has no list of "{settings.spans}"; give [], or name the key in data.entities')
        text = row[settings.text]
        spans = sorted(_span(one, len(text), where) for one in given)
        for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
            if begin < end:
                raise UserError(
                    f"{where}: the spans {one} and {other} overlap at character {begin}; a word has one tag: keep one"
                )
        if text.strip():
            sentence, wider = _of_spans(text, spans)
            sentences.append(sentence)
            widened += [f'"{span}" to "{word}"' for span, word in wider]
    if not widened:
        return Tagged(sentences, ())
    shown = ", ".join(widened[:SHOWN]) + (", ..." if len(widened) > SHOWN else "")
    return Tagged(sentences, (f"{path}: {len(widened):,} spans split a word; widened to whole words: {shown}",))


def _rows(path: Path) -> list[Any]:
    lines = read_lines(path)
    parts = [line for line in lines if line.strip()] if path.suffix.lower() == ".jsonl" else ["\n".join(lines)]
    try:
        rows = [json.loads(part) for part in parts]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return rows[0] if path.suffix.lower() == ".json" and isinstance(rows[0], list) else rows


def _span(given: Any, length: int, where: str) -> tuple[int, int, str]:
    """Where a span begins and ends, and its label."""
    if isinstance(given, dict):
        given = [next((given[key] for key in keys if key in given), None) for keys in (STARTS, ENDS, LABELS)]
    if not isinstance(given, list) or len(given) != 3 or not isinstance(given[2], str) or not given[2].strip():
        raise UserError(f"{where}: {given!r:.60} is no span; give [start, end, label]")
    begin, end, label = given
    if not isinstance(begin, int) or not isinstance(end, int) or not 0 <= begin < end <= length:
        raise UserError(
            f"{where}: the span {begin!r:.20} to {end!r:.20} of {label} lies outside the text, which has {length}"
            " characters"
        )
    return begin, end, label.strip()


def _of_spans(text: str, spans: Sequence[tuple[int, int, str]]) -> tuple[Sentence, list[tuple[str, str]]]:
    """The words with their tags, and the spans that split a word, each with the words that stand for it."""
    places = words_of(text)
    tags, wider = [OUTSIDE] * len(places), []
    for begin, end, label in spans:
        inside = [number for number, (first, last) in enumerate(places) if first < end and last > begin]
        free = [number for number in inside if tags[number] == OUTSIDE]
        for order, number in enumerate(free):
            tags[number] = f"{'I' if order else 'B'}-{label}"
        if inside:
            first, last = places[inside[0]][0], places[inside[-1]][1]
            trimmed = text[begin:end].strip()
            if text[first:last] != trimmed:
                wider.append((trimmed, text[first:last]))
    return Sentence([nfc(text[first:last]) for first, last in places], tags), wider
