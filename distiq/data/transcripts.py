"""Clips with a text each: a manifest of paths and texts, and strings of the packaged spoken digits."""

import csv
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.audio import DIGIT_RATE, DIGIT_SPEAKERS, Audio, check_speakers
from distiq.data.labels import UNLABELLED
from distiq.data.samples import Loaded, Split, in_memory
from distiq.data.sound import read_sound, resampled
from distiq.data.strings import DIGIT_WORDS, digit_strings
from distiq.device.run import nfc
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TranscriptSettings

BLANK, SPACE = "<blank>", "|"
SYMBOL_S = 0.01  # no network here writes more than one symbol in so many seconds


class Spoken(NamedTuple):
    """A line of a manifest: the clip, what is said in it, by whom, in which part."""

    path: Path
    text: str
    line: int
    speaker: str
    part: str


def spoken_strings(settings: DataSettings, seed: int) -> Loaded:
    """Strings of spoken digits: `data.source` is "digit_strings".

    Raises:
        UserError: a held-out speaker is unknown, or the rate is another one than the recordings'.
    """
    audio, own = settings.audio, settings.transcripts
    if audio.rate != DIGIT_RATE:
        raise UserError(f"data.audio.rate = {audio.rate}, but the spoken digits have {DIGIT_RATE}; set it to that")
    if audio.held_out:
        check_speakers(audio.held_out, DIGIT_SPEAKERS)
    train, test = (
        digit_strings(count, own.digits, audio.seconds, seed, part, audio.held_out)
        for count, part in ((own.strings, False), (own.test_strings, True))
    )
    return Loaded((BLANK, *DIGIT_WORDS), train, test, Audio.of(audio))


def transcripts(settings: DataSettings) -> Loaded:
    """The clips of a manifest with the columns path, text, and split or speaker: `data.source` is "transcripts".

    Raises:
        UserError: a file is missing or does not decode, a line has no text, a clip is longer than the window or too
            short for its text, or a text holds what the vocabulary lacks; the line is given.
    """
    folder, audio, own = Path(settings.folder), settings.audio, settings.transcripts
    manifest = folder / (audio.manifest or "manifest.csv")
    rows = _read_manifest(manifest, settings)
    parts = ("train", "test", *([settings.validation_part] if settings.validation_part else []))
    symbols = own.vocabulary or tuple(
        sorted({symbol for row in rows if row.part == "train" for symbol in _symbols(row.text, own)})
    )
    numbers = {symbol: number for number, symbol in enumerate(symbols, start=1)}
    splits: dict[str, Split] = {}
    for part in parts:
        of_part = [row for row in rows if row.part == part]
        if not of_part:
            raise UserError(f"{manifest}: no clip is in the {part} part; it is needed")
        texts = [_numbers(row, numbers, own, manifest) for row in of_part]
        clips = [_clip(row, len(text), settings, manifest) for row, text in zip(of_part, texts, strict=True)]
        longest = max(len(text) for text in texts)
        labels = [text + [UNLABELLED] * (longest - len(text)) for text in texts]
        splits[part] = in_memory(torch.stack(clips), torch.tensor(labels, dtype=torch.int32))
    speakers = tuple(row.speaker for row in rows if row.part == "train")
    return Loaded(
        (BLANK, *symbols), splits["train"], splits["test"], Audio.of(audio),
        validation=splits.get(settings.validation_part), groups=speakers if any(speakers) else (),
    )  # fmt: skip


def _read_manifest(manifest: Path, settings: DataSettings) -> list[Spoken]:
    held_out = settings.audio.held_out
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, lines = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest}: cannot be read ({error}); data.audio.manifest names a CSV file") from error
    needed = ("path", "text", "speaker" if held_out else "split")
    if missing := [name for name in needed if name not in columns]:
        raise UserError(f"{manifest}: no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    rows = []
    for number, line in enumerate(lines, start=2):
        if lacks := [name for name in needed if not (line[name] or "").strip()]:
            raise UserError(f"{manifest}: line {number} leaves {', '.join(lacks)} empty; a clip needs its text")
        speaker = (line.get("speaker") or "").strip()
        part = ("test" if speaker in held_out else "train") if held_out else (line["split"] or "")
        rows.append(Spoken(manifest.parent / line["path"], nfc(line["text"]).strip(), number, speaker, part))
    if held_out:
        check_speakers(held_out, {row.speaker for row in rows})
    return rows


def _symbols(text: str, own: TranscriptSettings) -> list[str]:
    words = (text.lower() if own.lower else text).split()
    return words if own.symbols == "words" else list(SPACE.join(words))


def _numbers(row: Spoken, numbers: dict[str, int], own: TranscriptSettings, manifest: Path) -> list[int]:
    symbols = _symbols(row.text, own)
    if strange := [symbol for symbol in symbols if symbol not in numbers]:
        source = "data.transcripts.vocabulary" if own.vocabulary else "the vocabulary of the training texts"
        raise UserError(f'{manifest}: line {row.line} holds "{strange[0]}", which {source} lacks; add it or correct it')
    return [numbers[symbol] for symbol in symbols]


def _clip(row: Spoken, symbols: int, settings: DataSettings, manifest: Path) -> Tensor:
    """The clip at the beginning of its window, with silence behind it."""
    samples, audio = resampled(read_sound(row.path), settings.audio.rate), settings.audio
    seconds, length = len(samples) / audio.rate, Audio.of(audio).shape[0]
    if len(samples) > length:
        raise UserError(
            f"{manifest}: line {row.line}: {row.path.name} has {seconds:.2f} s, the window {audio.seconds:g} s; what is"
            " cut would still stand in its text: raise data.audio.seconds, or leave it out"
        )
    if seconds < symbols * SYMBOL_S:
        raise UserError(
            f"{manifest}: line {row.line}: {row.path.name} has {seconds:.2f} s, too short for a text of {symbols}"
            " symbols; it is cut short, or has another clip's text"
        )
    window = torch.zeros(length, dtype=torch.int16)
    window[: len(samples)] = torch.from_numpy(samples.copy())
    return window
