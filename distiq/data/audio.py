"""Audio clips from files: a folder per class, a manifest with speakers, and the packaged spoken digits.

Every clip becomes one channel of int16 at one rate, in a window of one length: a shorter clip stands in the middle of
silence, a longer one is cut at both ends. What was changed is counted and said.
"""

import csv
import importlib.resources
import lzma
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from distiq.data.columns import NO_LABEL, sorted_classes
from distiq.data.folders import class_names, find_files, left_out, part_places
from distiq.data.samples import Encoded, Loaded, Samples, in_memory, name_of, refuse_floats, standardized
from distiq.data.sound import Sound, check_length, read_sound, resampled
from distiq.device import run as runner
from distiq.device.run import fitted, nfc
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings
from distiq.records.record import Modality

CLIP_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".w64", ".caf")
DIGITS = tuple(str(digit) for digit in range(10))
DIGIT_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
DIGIT_RATE, DIGIT_TAKES, DIGIT_TEST_TAKES = 8000, 50, 5


@dataclass(frozen=True)
class Audio:
    """How sound becomes inputs: one channel at one rate, in a window of one length, in -1..1.

    Args:
        shape: (T,), samples of the window.
        rate: samples per second.
        dtype: of the raw waveforms, int16 or float32.
    """

    shape: tuple[int, ...]
    rate: int
    dtype: torch.dtype = torch.int16

    modality: ClassVar[Modality] = "audio"
    raw_name: ClassVar[str] = runner.RAW["audio"]
    form: ClassVar[str] = "(N, T) as int16 or float32"
    input_dtype: ClassVar[torch.dtype] = torch.float32
    has_lengths: ClassVar[bool] = False
    pair: ClassVar[bool] = False

    @classmethod
    def of(cls, settings: AudioSettings) -> Self:
        return cls((round(settings.seconds * settings.rate),), settings.rate)

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.shape[0] / self.rate

    def fits(self, inputs: Samples) -> bool:
        """Whether samples have the form of waveforms."""
        return len(inputs.shape) == 1 and inputs.dtype in (torch.int16, torch.float32)

    def fitted(self, samples: Samples) -> Self:
        """Nothing is learned from the training clips."""
        return self

    def normalize(self, inputs: Tensor) -> Tensor:
        """Raw waveforms -> what the network sees. Shapes: (B, T) -> (B, T) float32 in -1..1."""
        return standardized(inputs, (), ())

    def encode(self, sample: str, where: str, second: str = "") -> Encoded:
        """The input (1, T) of a sound file: its middle, or with silence around it.

        Raises:
            UserError: the file is missing or does not decode, or the clips that were learned from are float32.
        """
        refuse_floats(self.dtype, "clips", where)
        clip, notes = self.read(sample)
        return Encoded(self.normalize(clip.unsqueeze(0)), notes)

    def read(self, file: str) -> tuple[Tensor, tuple[str, ...]]:
        """The clip (T,) of a sound file as it is stored, and what was changed of it."""
        sound = read_sound(Path(file))
        check_length(sound, self.seconds, file)
        return torch.from_numpy(fitted(resampled(sound, self.rate), self.shape[0]).copy()), remarks(sound, self)

    def check_weights(self, folder: Path, where: str) -> None:
        """Weights do not say how sound is read; the rate comes from the network itself."""

    def facts(self) -> dict[str, Any]:
        """What the record of the data says of it."""
        return {"rate": self.rate}

    def to_json(self) -> dict[str, Any]:
        return {
            "modality": self.modality,
            "shape": list(self.shape),
            "raw": name_of(self.dtype),
            "rate": self.rate,
            "channels": "one; several are averaged",
            "window": "a shorter clip stands in the middle of silence, of a longer one the middle is heard",
            "divide_by": 32768 if self.dtype == torch.int16 else 1,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(value["shape"]), value["rate"], getattr(torch, value["raw"]))


class Labelled(NamedTuple):
    """A clip's file and class; the speaker where known; the part "train", "test" or that of validation, where given."""

    path: Path
    label: str
    speaker: str = ""
    part: str = ""


def conversions(sound: Sound, rate: int) -> tuple[str, ...]:
    """What is done to a sound of any length before it is heard, in words."""
    said = [
        (sound.rate != rate, f"resampled from {sound.rate} to {rate} Hz"),
        (sound.channels > 1, f"{sound.channels} channels averaged to one"),
    ]
    return tuple(text for applies, text in said if applies)


def remarks(sound: Sound, audio: Audio) -> tuple[str, ...]:
    """What is done to a clip to fit it into the window, in words."""
    seconds = len(sound.samples) / sound.rate
    said = [
        (seconds < audio.seconds, f"{seconds:.2f} s long: silence around it fills the window"),
        (seconds > audio.seconds, f"{seconds:.2f} s long: only the middle {audio.seconds:g} s are heard"),
        (sound.is_clipped, "louder than full scale: cut off there"),
    ]
    return (*conversions(sound, audio.rate), *(text for applies, text in said if applies))


class _Fitting:
    """Brings clips to one form and counts what it did."""

    def __init__(self, settings: AudioSettings) -> None:
        self.settings, self.length = settings, Audio.of(settings).shape[0]
        self.clips = self.stereo = self.short = self.long = self.clipped = 0
        self.rates: Counter[int] = Counter()

    def __call__(self, sound: Sound, where: str) -> Tensor:
        check_length(sound, self.settings.seconds, where)
        samples = resampled(sound, self.settings.rate)
        self.clips += 1
        self.stereo += sound.channels > 1
        self.clipped += sound.is_clipped
        self.rates[sound.rate] += 1
        self.short += len(samples) < self.length
        self.long += len(samples) > self.length
        return torch.from_numpy(fitted(samples, self.length).copy())

    def notes(self) -> tuple[str, ...]:
        window = f"{self.settings.seconds:g} s"
        others = [(rate, count) for rate, count in sorted(self.rates.items()) if rate != self.settings.rate]
        said = [
            *((count, f"resampled from {rate} to {self.settings.rate} Hz") for rate, count in others),
            (self.stereo, "of several channels averaged to one"),
            (self.short, f"shorter than the window of {window}: silence around them"),
            (self.long, f"longer than the window of {window}: their middle is kept"),
            (self.clipped, "louder than full scale: cut off there; scale them to -1..1"),
        ]
        return tuple(f"{count:,} of {self.clips:,} clips {text}" for count, text in said if count)


# Many files -----------------------------------------------------------------------------------------------------------


def audio_folder(folder: Path, settings: AudioSettings, validation: str = "") -> Loaded:
    """Clips of a folder that holds train/<class>/ and test/<class>/, sub-folders and all.

    Args:
        validation: the name of a third part, where there is one.

    Raises:
        UserError: a part is missing, a class is empty, classes differ between the parts, a file does not decode, or
            speakers are held out, which a folder does not name.
    """
    if settings.held_out:
        raise UserError(
            "data.audio.held_out: a folder does not say who speaks; list the clips in a file with the columns path,"
            " label, speaker and name it in data.audio.manifest"
        )
    places, said = part_places(folder, validation)
    classes = class_names(places["train"])
    listed: list[Labelled] = []
    notes = [*said]
    for part, place in places.items():
        files = find_files(place, classes, CLIP_SUFFIXES, "clips")
        notes += left_out(place, files, "clips")
        listed += [Labelled(*one, part=part) for one in files.named(classes)]
    return _read(listed, classes, settings, folder, validation, notes)


def audio_manifest(folder: Path, settings: AudioSettings, validation: str = "") -> Loaded:
    """Clips listed in a CSV file: columns path (relative to it), label, and speaker, split, or both.

    The speakers in `settings.held_out` are the test set; without them the column split says "train" or "test", or
    `validation`. What one speaker says is never split between training, validation and calibration.

    Raises:
        UserError: the manifest is missing, lacks a column, is empty, names a file that does not decode, a speaker
            that is not there or a class that no training clip has.
    """
    manifest = folder / settings.manifest
    if validation and settings.held_out:
        raise UserError(
            f'data.validation = "{validation}" is a value of the column split, but data.audio.held_out names who is the'
            " test set; give a number, or leave held_out out"
        )
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest}: cannot be read ({error}); data.audio.manifest names a CSV file") from error
    needed = ("path", "label", "speaker" if settings.held_out else "split")
    if missing := [name for name in needed if name not in columns]:
        hint = "" if settings.held_out else "; instead of split, data.audio.held_out can name speakers"
        raise UserError(f"{manifest}: no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}{hint}")
    if twice := [name for name in (*needed, "speaker") if columns.count(name) > 1]:
        raise UserError(f'{manifest}: two columns are called "{twice[0]}"; rename one')
    for line, row in enumerate(rows, start=2):
        lacks = [name for name in needed if not row[name] or (name == "label" and row[name] in NO_LABEL)]
        if lacks:
            raise UserError(f"{manifest}: line {line} leaves {', '.join(lacks)} empty")
    listed = [
        Labelled(manifest.parent / row["path"], nfc(row["label"]), _speaker(row), row.get("split") or "")
        for row in rows
    ]
    listed = _parted(listed, settings.held_out, manifest, validation)
    return _read(listed, sorted_classes(row.label for row in listed), settings, manifest.parent, validation)


def with_further(loaded: Loaded, folder: Path, settings: AudioSettings) -> Loaded:
    """The clips with those of a folder with a folder per class, which are trained on alone.

    Raises:
        UserError: it has other classes, one is empty, or a file does not decode.
    """
    if not folder.is_dir():
        raise UserError(f"data.further: no such folder: {folder}; correct the path, or leave it out")
    try:
        files, fit = find_files(folder, loaded.classes, CLIP_SUFFIXES, "clips"), _Fitting(settings)
    except UserError as error:
        raise UserError(f"data.further: {error}") from error
    inputs = torch.stack([fit(read_sound(file), str(file)) for file in files.files])
    said = (f"{folder}: {len(inputs):,} further clips are trained on alone", *left_out(folder, files, "clips"))
    further = in_memory(inputs, torch.tensor(files.labels))
    return loaded._replace(further=further, notes=(*loaded.notes, *said, *fit.notes()))


def _speaker(row: dict[str, str | None]) -> str:
    """Who is heard in a clip of a manifest; empty where nobody says."""
    name = nfc(row.get("speaker") or "").strip()
    return "" if name in NO_LABEL else name


def _parted(listed: Sequence[Labelled], held_out: Sequence[str], manifest: Path, validation: str) -> list[Labelled]:
    if held_out:
        check_speakers(held_out, {row.speaker for row in listed})
        return [row._replace(part="test" if row.speaker in held_out else "train") for row in listed]
    parts = ("train", "test", *([validation] if validation else []))
    for row in listed:
        if row.part not in parts:
            names = " nor ".join(f'"{part}"' for part in parts)
            raise UserError(f'{manifest}: split "{row.part}" of {row.path.name} is neither {names}')
    return list(listed)


def check_speakers(held_out: Sequence[str], speakers: Iterable[str]) -> None:
    """Raises UserError unless all held-out speakers are there, and others, too."""
    speakers = sorted(set(speakers))
    if unknown := [name for name in held_out if name not in speakers]:
        raise UserError(
            f"data.audio.held_out: nobody is called {', '.join(unknown)}; the speakers: {', '.join(speakers)}"
        )
    if not set(speakers) - set(held_out):
        raise UserError("data.audio.held_out names every speaker; leave some to train on")


def _read(
    listed: Sequence[Labelled],
    classes: Sequence[str],
    settings: AudioSettings,
    folder: Path,
    validation: str,
    notes: Sequence[str] = (),
) -> Loaded:
    if untaught := sorted({row.label for row in listed} - {row.label for row in listed if row.part == "train"}):
        raise UserError(
            f"data.audio: no training clip is of the class {', '.join(untaught)}; move some there, or leave it out"
        )
    fit = _Fitting(settings)
    parts, rows_of = {}, {}
    for part in ("train", "test", *([validation] if validation else [])):
        rows_of[part] = rows = [row for row in listed if row.part == part]
        if not rows:
            raise UserError(f"data.audio: no clip is in the {part} part; it is needed")
        inputs = torch.stack([fit(read_sound(row.path), str(row.path)) for row in rows])
        parts[part] = in_memory(inputs, torch.tensor([list(classes).index(row.label) for row in rows]))
    speakers = tuple(row.speaker for row in rows_of["train"])
    train, test = (tuple(os.path.relpath(row.path, folder) for row in rows_of[part]) for part in ("train", "test"))
    shared = [
        note for part in rows_of if part != "train" for note in _heard_in_both(rows_of["train"], rows_of[part], part)
    ]
    notes = (*notes, *fit.notes(), *shared)
    return Loaded(
        tuple(classes), parts["train"], parts["test"], Audio.of(settings), tuple(notes), parts.get(validation),
        speakers if any(speakers) else (), (train, test),
    )  # fmt: skip


def _heard_in_both(train: Sequence[Labelled], others: Sequence[Labelled], part: str) -> list[str]:
    """A sentence about speakers who are heard in the training clips and in those of another part, too."""
    both = sorted(({row.speaker for row in train} & {row.speaker for row in others}) - {""})
    return [_shared_speakers(both, part)] if both else []


def _shared_speakers(names: Sequence[str], part: str) -> str:
    remedy = "; data.audio.held_out keeps them apart" if part == "test" else "; give each speaker one part"
    return (
        f"{len(names)} speakers are heard in the training and the {part} clips ({', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''}): what is measured says nothing of new ones{remedy}"
    )


# Spoken digits --------------------------------------------------------------------------------------------------------


def spoken_digits(settings: AudioSettings) -> Loaded:
    """The packaged Free Spoken Digit Dataset: 3,000 clips of 10 digits by 6 speakers, 8 kHz, CC BY-SA 4.0.

    The official split (takes 0 to 4 are the test set, 300 clips), or all clips of `settings.held_out` as the test set.

    Raises:
        UserError: a held-out speaker is unknown, or all are held out.
    """
    if settings.held_out:
        check_speakers(settings.held_out, DIGIT_SPEAKERS)
    fit = _Fitting(settings)
    inputs: dict[bool, list[Tensor]] = {True: [], False: []}
    labels: dict[bool, list[int]] = {True: [], False: []}
    speakers: list[str] = []
    for number, samples in enumerate(packaged_recordings()):
        digit, speaker, take = digit_of(number)
        held_out = speaker in settings.held_out if settings.held_out else take < DIGIT_TEST_TAKES
        inputs[held_out].append(fit(Sound(samples.astype(np.float32) / 32768, DIGIT_RATE, 1), f"recording {number}"))
        labels[held_out].append(digit)
        speakers += [] if held_out else [speaker]
    train, test = (in_memory(torch.stack(inputs[part]), torch.tensor(labels[part])) for part in (False, True))
    if settings.held_out:
        return Loaded(DIGITS, train, test, Audio.of(settings), fit.notes(), groups=tuple(speakers))
    notes = (*fit.notes(), _shared_speakers(DIGIT_SPEAKERS, "test"))
    return Loaded(DIGITS, train, test, Audio.of(settings), notes)


def digit_of(number: int) -> tuple[int, str, int]:
    """Digit, speaker and take of a packaged recording: they stand in this order, takes varying fastest."""
    rest, take = divmod(number, DIGIT_TAKES)
    digit, speaker = divmod(rest, len(DIGIT_SPEAKERS))
    return digit, DIGIT_SPEAKERS[speaker], take


def packaged_recordings() -> list[np.ndarray]:
    """The 3,000 recordings as int16, sample for sample as published.

    They are packed as differences from sample to sample, the sign in the lowest bit, upper and lower bytes apart.
    """
    root = importlib.resources.files("distiq.data") / "spoken_digits"
    lengths, upper, lower = (
        lzma.decompress((root / f"{name}.xz").read_bytes()) for name in ("lengths", "upper", "lower")
    )
    folded = (np.frombuffer(upper, np.uint8).astype(np.uint16) << 8) | np.frombuffer(lower, np.uint8)
    differences = (folded >> 1) ^ (-(folded & 1).astype(np.int16)).astype(np.uint16)
    # Sums wrap in 16 bits as the differences did.
    samples = np.cumsum(differences, dtype=np.uint16).view(np.int16)
    return np.split(samples, np.cumsum(np.frombuffer(lengths, "<u2"), dtype=np.int64)[:-1])
