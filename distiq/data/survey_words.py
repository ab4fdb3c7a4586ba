"""Words that lie in a folder that a user brings: clips with texts, and words with tags."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from distiq.data.columns import SUFFIXES as COLUMN_SUFFIXES
from distiq.data.conll import OUTSIDE
from distiq.data.part_file import find_part
from distiq.data.sound import read_sound, seconds_of
from distiq.data.spoken import NoClips, Spoken, spoken_lines
from distiq.data.tagged import OBJECTS, read_tagged
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings, EntitySettings

T = TypeVar("T")
SAMPLED = 200  # files or rows that are opened


class Speech(NamedTuple):
    """Clips with a text each, none longer than `seconds`; `validation` is a third part, empty where there is none."""

    folder: Path
    letters: int
    train: int
    test: int
    rate: int
    seconds: float
    validation: str


class Names(NamedTuple):
    """Two files of words with tags, and of what kinds the spans are; most sentences have no more than `words` words.
    `validation` is a third one, empty where there is none."""

    folder: Path
    kinds: tuple[str, ...]
    train: int
    parts: tuple[str, str]
    words: int
    validation: str


def spread(files: Sequence[T]) -> list[T]:
    """At most SAMPLED of the files, from all classes: files are sorted by class."""
    count = min(SAMPLED, len(files))
    return [files[number * len(files) // count] for number in range(count)]


def speech_in(folder: Path) -> Speech | None:
    """Clips with a text each; None where there are none, or no part to measure on."""
    by_part = {part: _spoken(folder, part) for part in ("train", "test", "dev")}
    test = by_part["test"] or by_part["dev"]
    if not by_part["train"] or not test:
        return None
    rate = statistics.mode(read_sound(line.path).rate for line in spread(by_part["train"]))
    seconds = max(seconds_of(line.path) for lines in by_part.values() for line in lines)
    letters = len({letter for line in by_part["train"] for letter in line.text.lower()})
    own = "dev" if by_part["test"] and by_part["dev"] else ""
    return Speech(folder, letters, len(by_part["train"]), len(test), rate, math.ceil(10 * seconds) / 10, own)


def _spoken(folder: Path, part: str) -> list[Spoken]:
    try:
        return [line for line in spoken_lines(folder, AudioSettings(), (part,)) if line.part == part]
    except NoClips:
        return []


def names_in(train: Path) -> Names | None:
    """Words with tags; None where a file holds none."""
    if train.suffix.lower() in COLUMN_SUFFIXES and train.suffix.lower() not in (*OBJECTS, ".tsv"):
        return None
    try:
        sentences = read_tagged(train, EntitySettings()).sentences
    except UserError:
        if train.suffix.lower() == ".conll":
            raise
        return None
    tags = {tag for sentence in sentences for tag in sentence.tags if tag != OUTSIDE}
    lengths = sorted(len(sentence.words) for sentence in sentences)
    words = lengths[math.ceil(0.95 * len(lengths)) - 1]
    kinds = tuple(sorted({tag[2:] for tag in tags}))
    others = [next((file.name for file in find_part(train.parent, part)), "") for part in ("test", "validation")]
    if not any(others):
        raise UserError(
            f"{train.parent}: no test file beside {train.name}; put a part of the texts there, to measure on"
        )
    test = others[0] or others[1]
    return Names(train.parent, kinds, len(sentences), (train.name, test), words, others[1] if others[0] else "")
