"""Clips with a text each, and strings of the packaged spoken digits."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distiq.data.audio import DIGIT_RATE, DIGIT_SPEAKERS, Audio, check_speakers, conversions
from distiq.data.labels import UNLABELLED
from distiq.data.part_file import measured_part
from distiq.data.samples import Loaded, Split, in_memory
from distiq.data.sound import read_sound, resampled
from distiq.data.spoken import Spoken, further_lines, has_clips, spoken_lines
from distiq.data.strings import DIGIT_WORDS, digit_strings, synthetic_strings
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TranscriptSettings

BLANK, SPACE = "<blank>", "|"
FEWEST_SPEAKERS = 2  # of whom none can be held out whole
SYMBOL_S = 0.01  # no network here writes more than one symbol in so many seconds


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
    further = synthetic_strings(own.synthetic, own.digits, audio.seconds, seed) if own.synthetic else None
    said = (f"{own.synthetic:,} more strings, of synthetic voices, are trained on alone",) if further else ()
    return Loaded((BLANK, *DIGIT_WORDS), train, test, Audio.of(audio), said, further=further)


def transcripts(settings: DataSettings) -> Loaded:
    """The clips of a folder with a text each, see `spoken.spoken_lines`: `data.source` is "transcripts".

    Raises:
        UserError: a file is missing or does not decode, a line has no text, a clip is longer than the window or too
            short for its text, or a text holds what the vocabulary lacks; the line is given.
    """
    folder, audio, own = Path(settings.folder), settings.audio, settings.transcripts
    parts = ("train", "test", *([settings.validation_part] if settings.validation_part else []))
    measured, said = measured_part(partial(has_clips, folder, audio), settings.validation_part, folder)
    rows = spoken_lines(folder, audio, tuple(measured if part == "test" else part for part in parts))
    if measured != "test":
        rows = [row._replace(part="test") if row.part == measured else row for row in rows]
    symbols = own.vocabulary or tuple(
        sorted({symbol for row in rows if row.part == "train" for symbol in _symbols(row.text, own)})
    )
    numbers = {symbol: number for number, symbol in enumerate(symbols, start=1)}
    splits: dict[str, Split] = {}
    changes: Counter[str] = Counter()
    for part in parts:
        of_part = [row for row in rows if row.part == part]
        if not of_part:
            raise UserError(f"{folder}: no clip is in the {part} part; it is needed")
        splits[part] = _split(of_part, numbers, settings, changes)
    further = further_lines(Path(settings.further)) if settings.further else []
    learned = _split(further, numbers, settings, changes) if further else None
    if further:
        said = (*said, f"{settings.further}: {len(further):,} further clips are trained on alone")
    notes = [*said, *(f"{count:,} clips {change}" for change, count in sorted(changes.items()))]
    if others := Counter(row.part for row in rows if row.part not in parts):
        named = ", ".join(f"{count:,} of {part}" for part, count in others.items())
        notes.append(f"clips of other parts are left out: {named}; data.validation names a part to steer by")
    speakers = tuple(row.speaker for row in rows if row.part == "train")
    if len(set(speakers)) <= FEWEST_SPEAKERS and any(speakers):
        notes.append(f"{len(set(speakers))} voices to train on: validation and calibration hear the same ones")
        speakers = ()
    return Loaded(
        (BLANK, *symbols), splits["train"], splits["test"], Audio.of(audio), tuple(notes),
        splits.get(settings.validation_part), speakers if any(speakers) else (),
        further=learned,
    )  # fmt: skip


def _split(rows: Sequence[Spoken], numbers: dict[str, int], settings: DataSettings, changes: Counter[str]) -> Split:
    """The clips with the numbers of their symbols; what was done to a clip is counted."""
    texts = [_numbers(row, numbers, settings.transcripts) for row in rows]
    clips = [_clip(row, len(text), settings, changes) for row, text in zip(rows, texts, strict=True)]
    longest = max(len(text) for text in texts)
    labels = [text + [UNLABELLED] * (longest - len(text)) for text in texts]
    return in_memory(torch.stack(clips), torch.tensor(labels, dtype=torch.int32))


def _symbols(text: str, own: TranscriptSettings) -> list[str]:
    words = (text.lower() if own.lower else text).split()
    return words if own.symbols == "words" else list(SPACE.join(words))


def _numbers(row: Spoken, numbers: dict[str, int], own: TranscriptSettings) -> list[int]:
    symbols = _symbols(row.text, own)
    if strange := [symbol for symbol in symbols if symbol not in numbers]:
        source = "data.transcripts.vocabulary" if own.vocabulary else "the vocabulary of the training texts"
        raise UserError(f'{row.where} holds "{strange[0]}", which {source} lacks; add it or correct it')
    return [numbers[symbol] for symbol in symbols]


def _clip(row: Spoken, symbols: int, settings: DataSettings, changes: Counter[str]) -> Tensor:
    """The clip at the beginning of its window, with silence behind it; what was done to it is counted."""
    sound = read_sound(row.path)
    samples, audio = resampled(sound, settings.audio.rate), settings.audio
    changes.update(conversions(sound, audio.rate))
    seconds, length = len(samples) / audio.rate, Audio.of(audio).shape[0]
    if len(samples) > length:
        raise UserError(
            f"{row.where}: {row.path.name} has {seconds:.2f} s, the window {audio.seconds:g} s; what is"
            " cut would still stand in its text: raise data.audio.seconds, or leave it out"
        )
    if seconds < symbols * SYMBOL_S:
        raise UserError(
            f"{row.where}: {row.path.name} has {seconds:.2f} s, too short for a text of {symbols}"
            " symbols; it is cut short, or has another clip's text"
        )
    window = torch.zeros(length, dtype=torch.int16)
    window[: len(samples)] = torch.from_numpy(samples.copy())
    return window
