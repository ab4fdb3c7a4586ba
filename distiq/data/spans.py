"""Texts with spans, or words with tags, from JSON, JSON lines and Parquet, by the keys that tools write."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distiq.data.columns import read_lines, read_objects
from distiq.device.run import words_of
from distiq.errors import UserError
from distiq.recipe.data import EntitySettings

TEXTS = ("text", "sentence", "content")
SPANS = ("spans", "entities", "labels", "label", "annotations", "ner")
WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "ner", "label", "bio_tags")
STARTS = ("start", "start_offset", "begin")
ENDS = ("end", "end_offset")
LABELS = ("label", "type", "tag", "entity", "labels", "entity_group")
LISTS = ("annotations", "data", "examples")  # keys under which a file of one object holds its rows


class Read(NamedTuple):
    """The words of a text with a tag each, and the spans that split a word, each with the words that stand for it."""

    words: list[str]
    tags: list[str]
    widened: tuple[str, ...] = ()


def read_spans(path: Path, settings: EntitySettings) -> list[Read]:
    """The texts of a file: spans of offsets and a label, or words and a tag each. Empty texts are left out.

    Raises:
        UserError: the file is no JSON, a row has no text or no spans, or a span is none; the row is given.
    """
    rows, names = _rows(path)
    names = list(settings.names) or names
    read = (_text(row, settings, names, f"{path}: text {number}") for number, row in enumerate(rows, start=1))
    return [one for one in read if one.words]


def _rows(path: Path) -> tuple[list[Any], list[str]]:
    """The rows, and the names of the tags where the file has them as numbers and names them."""
    if path.suffix.lower() == ".parquet":
        rows, features = read_objects(path)
        named = (features.get(key, {}) for key in TAGS)
        names = next((names for one in named if isinstance(names := _class_names(one), list)), [])
        return rows, [str(name) for name in names]
    lines = read_lines(path)
    try:
        return _in_json(lines, path.suffix.lower() == ".jsonl"), []
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def _class_names(feature: Any) -> Any:
    """What the package datasets writes of a list of classes, in one of its versions' ways."""
    if isinstance(feature, list):
        feature = feature[0] if feature else {}
    inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
    return inner.get("names") if isinstance(inner, dict) else None


def _in_json(lines: Sequence[str], one_a_line: bool) -> list[Any]:
    """One value a line, in files called .json, too, where they are no single value."""
    if not one_a_line:
        try:
            whole = json.loads("\n".join(lines))
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
        else:
            rows = next((whole[key] for key in LISTS if key in whole), whole) if isinstance(whole, dict) else whole
            return rows if isinstance(rows, list) else [rows]
    return [json.loads(line) for line in lines if line.strip()]


def _text(row: Any, settings: EntitySettings, names: Sequence[str], where: str) -> Read:
    if isinstance(row, list) and len(row) == 2 and isinstance(row[1], dict):  # spaCy's
        row = {"text": row[0], **row[1]}
    if not isinstance(row, dict):
        raise UserError(f'{where}: is no object with a "{settings.text or "text"}"; give it one')
    text = _of(row, [settings.text] if settings.text else TEXTS, str)
    spans = _of(row, [settings.spans] if settings.spans else SPANS, list)
    words, tags = _of(row, WORDS, list), _of(row, [settings.spans] if settings.spans else TAGS, list)
    if text is not None and spans is not None and not any(isinstance(span, (str, int)) for span in spans):
        return _of_spans(text, spans, where)
    if words is not None and tags is not None:
        return _of_words(words, tags, names, where)
    keys = ", ".join(map(str, row))
    if text is None and words is None:
        raise UserError(
            f'{where}: is no object with a "{settings.text or "text"}"; it has {keys}: name the keys in'
            " data.entities.text and spans"
        )
    raise UserError(
        f'{where}: has no list of "{settings.spans or "spans"}"; it has {keys}: give [], or name the key in'
        " data.entities.spans"
    )


def _of(row: dict[str, Any], keys: Iterable[str], kind: type) -> Any:
    """The value of the first key that has one of the kind; None where none has."""
    return next((row[key] for key in keys if isinstance(row.get(key), kind)), None)


def _of_words(words: list[Any], tags: list[Any], names: Sequence[str], where: str) -> Read:
    if len(words) != len(tags) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: has {len(words)} words and {len(tags)} tags; give each word a tag")
    named = []
    for tag in tags:
        if isinstance(tag, int) and not isinstance(tag, bool):
            if not 0 <= tag < len(names):
                given = f"{len(names)} are named" if names else "no name is given"
                raise UserError(
                    f"{where}: the tag {tag} is a number, of which {given}; name all in data.entities.names, such as"
                    ' ["O", "B-PER", "I-PER"]'
                )
            tag = names[tag]
        named.append(str(tag))
    return Read(words, named)


def _of_spans(text: str, given: list[Any], where: str) -> Read:
    """The words with their tags, and the spans that split a word."""
    spans = sorted(_span(one, len(text), where) for one in given)
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise UserError(
                f"{where}: the spans {one} and {other} overlap at character {begin}; a word has one tag: keep one"
            )
    places = words_of(text)
    tags, wider = ["O"] * len(places), []
    for begin, end, label in spans:
        inside = [number for number, (first, last) in enumerate(places) if first < end and last > begin]
        free = [number for number in inside if tags[number] == "O"]
        for order, number in enumerate(free):
            tags[number] = f"{'I' if order else 'B'}-{label}"
        if inside:
            first, last = places[inside[0]][0], places[inside[-1]][1]
            trimmed = text[begin:end].strip()
            if text[first:last] != trimmed:
                wider.append(f'"{trimmed}" to "{text[first:last]}"')
    return Read([text[first:last] for first, last in places], tags, tuple(wider))


def _span(given: Any, length: int, where: str) -> tuple[int, int, str]:
    """Where a span begins and ends, and its label."""
    shown = given
    if isinstance(given, dict):
        given = [next((given[key] for key in keys if key in given), None) for keys in (STARTS, ENDS, LABELS)]
    if isinstance(given, list) and len(given) == 3 and isinstance(given[0], str):
        given = [*given[1:], given[0]]
    if isinstance(given, list) and len(given) == 3 and isinstance(given[2], list) and len(given[2]) == 1:
        given = [*given[:2], given[2][0]]
    if not isinstance(given, list) or len(given) != 3 or not isinstance(given[2], str) or not given[2].strip():
        raise UserError(f"{where}: {shown!r:.60} is no span; give [start, end, label]")
    begin, end, label = given
    if not isinstance(begin, int) or not isinstance(end, int) or not 0 <= begin < end <= length:
        raise UserError(
            f"{where}: the span {begin!r:.20} to {end!r:.20} of {label} lies outside the text, which has {length}"
            " characters"
        )
    return begin, end, label.strip()
