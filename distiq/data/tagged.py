"""Texts whose words have tags: CoNLL files of any columns, texts with spans, words with tags."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distiq.data.conll import OUTSIDE, TAG, Columns, find_columns, read_conll
from distiq.data.spans import read_spans
from distiq.device.run import nfc, spans_in
from distiq.errors import UserError
from distiq.recipe.data import EntitySettings
from distiq.recipe.part import changed

OBJECTS = (".json", ".jsonl", ".parquet")
SHOWN = 3  # of what a message names


class Sentence(NamedTuple):
    """The words of a text, and the tag of each."""

    words: list[str]
    tags: list[str]


class Tagged(NamedTuple):
    """The sentences of a file, and what was changed in them, in words."""

    sentences: list[Sentence]
    notes: tuple[str, ...]


def with_columns(path: Path, settings: EntitySettings) -> tuple[EntitySettings, tuple[str, ...]]:
    """The settings with the columns of a CoNLL file, found where they name none; said where they are not the first one
    and the last one.

    Raises:
        UserError: the file cannot be read.
    """
    given = (settings.word, settings.tag)
    if path.suffix.lower() in OBJECTS or None not in given:
        return settings, ()
    found = [own if own is not None else place for own, place in zip(given, find_columns(path), strict=True)]
    said = f"{path}: words are read from column {found[0]}, tags from column {found[1]}, counted from 0, found by what"
    note = f"{said} they hold; data.entities.word and tag name others"
    is_plain = found == [0, -1]
    return changed(settings, {"word": found[0], "tag": found[1]}), () if is_plain else (note,)


def read_tagged(path: Path, settings: EntitySettings) -> Tagged:
    """The sentences of a CoNLL file, of JSON lines (.jsonl), a JSON list (.json) or Parquet.

    Tags are written as BIO, or as BIOES where the file has them so; spans are the same.

    Raises:
        UserError: the file cannot be read, a line lacks a column, a tag or a span is none; file and line are given.
    """
    is_objects = path.suffix.lower() in OBJECTS
    read = _objects(path, settings) if is_objects else _conll(path, settings)
    if not read.sentences:
        raise UserError(f"{path}: holds no word; give it sentences, or name another file")
    tags = [tag for sentence in read.sentences for tag in sentence.tags]
    if all(tag == OUTSIDE for tag in tags):
        column = "key in data.entities.spans" if is_objects else "column in data.entities.tag"
        raise UserError(f"{path}: every tag is O, so there is no span to find; name the {column}")
    return read


def _conll(path: Path, settings: EntitySettings) -> Tagged:
    settings, _ = with_columns(path, settings)
    assert settings.word is not None
    assert settings.tag is not None
    sentences = read_conll(path, Columns(settings.word, settings.tag))
    words = [[nfc(line.word) for line in sentence] for sentence in sentences]
    tags = [[line.tag for line in sentence] for sentence in sentences]
    places = [[f"line {line.number}" for line in sentence] for sentence in sentences]
    return _in_bio(words, tags, places, str(path), "column of the tags in data.entities.tag")


def _objects(path: Path, settings: EntitySettings) -> Tagged:
    read = read_spans(path, settings)
    words = [[nfc(word) for word in one.words] for one in read]
    places = [[f"text {number}"] * len(one.tags) for number, one in enumerate(read, start=1)]
    tagged = _in_bio(words, [one.tags for one in read], places, str(path), "key of the tags in data.entities.spans")
    widened = [pair for one in read for pair in one.widened]
    if not widened:
        return tagged
    shown = ", ".join(widened[:SHOWN]) + (", ..." if len(widened) > SHOWN else "")
    said = f"{path}: {len(widened):,} spans split a word; widened to whole words: {shown}"
    return Tagged(tagged.sentences, (*tagged.notes, said))


def _in_bio(
    words: Sequence[list[str]],
    tags: Sequence[list[str]],
    places: Sequence[Sequence[str]],
    where: str,
    key: str,
) -> Tagged:
    """The sentences with a B where each span begins, in BIOES an S or B."""
    used = {tag for row in tags for tag in row}
    if OUTSIDE in used and len(used) > 1 and not any(map(TAG.fullmatch, used - {OUTSIDE})):
        written = [_of_labels(row) for row in tags]
        said = f"{where}: its tags have no B- and I-; what follows on one another with the same tag is one span"
        return Tagged([*map(Sentence, words, written)], (said,))
    changes = 0
    sentences = []
    for own, row, at in zip(words, tags, places, strict=True):
        read = [_tag(tag, f"{where}: {place}", key) for tag, place in zip(row, at, strict=True)]
        for _, first, last in spans_in(read):
            begins = "S" if read[first][0] == "E" and last - first == 1 else "B"
            if read[first][0] not in "BS":
                read[first] = begins + read[first][1:]
                changes += 1
        sentences.append(Sentence(own, read))
    notes = (f"{where}: {changes:,} spans begin with I- or E- in place of B-; taken as B-",) if changes else ()
    return Tagged(sentences, notes)


def _of_labels(labels: Sequence[str]) -> list[str]:
    """BIO of labels without B- and I-."""
    written = []
    for before, label in itertools.pairwise([OUTSIDE, *labels]):
        written.append(OUTSIDE if label == OUTSIDE else f"{'I' if label == before else 'B'}-{label}")
    return written


def _tag(tag: str, where: str, key: str) -> str:
    if not TAG.fullmatch(tag):
        raise UserError(f'{where}: the tag "{tag}" is none of O, B-..., I-... (or E-, S-, L-, U-); name the {key}')
    return {"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:]
