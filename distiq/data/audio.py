"""Audio clips from files: a folder per class, a manifest with speakers, and the packaged spoken digits.

Every clip becomes one channel of int16 at one rate, in a window of one length: a shorter clip stands in the middle of
silence, a longer one is cut at both ends. What was changed is counted and said.
"""

import csv
import importlib.resources
import lzma
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from distiq.data.images import class_names
from distiq.data.samples import Encoded, Samples, Split, in_memory, name_of, refuse_floats, standardized
from distiq.device import run as runner
from distiq.device.run import fitted
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings
from distiq.records.record import Modality

CLIP_SUFFIXES = (".wav", ".flac")
DIGITS = tuple(str(digit) for digit in range(10))
DIGIT_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
DIGIT_RATE, DIGIT_TAKES, DIGIT_TEST_TAKES = 8000, 50, 5


class Sound(NamedTuple):
    """A file as it was found: samples (T,) float32 in -1..1, mean of its channels, at its own rate."""

    samples: np.ndarray
    rate: int
    channels: int


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

    def fitted(self, inputs: Tensor) -> Self:
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
        sound = read_sound(Path(sample))
        clip = fitted(resampled(sound, self.rate), self.shape[0])
        return Encoded(self.normalize(torch.from_numpy(clip.copy()).unsqueeze(0)), remarks(sound, self))

    def check_weights(self, folder: Path, where: str) -> None:
        """Weights say nothing of how sound is read; the rate is asked of the network itself."""

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


class Clips(NamedTuple):
    """What a source of audio gives: classes, both parts, and what was done to fit the clips."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    notes: tuple[str, ...]


class Labelled(NamedTuple):
    """A clip's file and class; the speaker where known; the part "train" or "test" where given."""

    path: Path
    label: str
    speaker: str = ""
    part: str = ""


# One file -------------------------------------------------------------------------------------------------------------


def read_sound(path: Path) -> Sound:
    """A WAV or FLAC file.

    Raises:
        UserError: the file is missing, empty, cut short, does not decode, or FLAC's package is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: this file is empty; repair or remove it")
    rate, samples = _read_flac(path) if path.suffix.lower() == ".flac" else _read_wav(path)
    if len(samples) == 0:
        raise UserError(f"{path}: this clip holds no samples; repair or remove it")
    samples = samples.reshape(len(samples), -1)
    channels = samples.shape[1]
    mono = _as_float(samples).mean(1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise UserError(f"{path}: this clip holds NaN or infinite samples; repair or remove it")
    return Sound(mono, rate, channels)


def _read_wav(path: Path) -> tuple[int, np.ndarray]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rate, samples = wavfile.read(path)
    except Exception as error:  # scipy lets struct's, numpy's and its own errors through
        raise UserError(f"{path}: this WAV file does not decode ({error}); repair or remove it") from error
    if any("EOF" in str(warning.message) for warning in said):
        raise UserError(f"{path}: this WAV file is cut short; fetch it again or remove it")
    if rate <= 0:
        raise UserError(f"{path}: its header gives a rate of {rate} Hz; repair or remove it")
    return rate, samples


def _read_flac(path: Path) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except ImportError as error:
        raise UserError(f"{path}: reading FLAC needs a package; install it with: pip install soundfile") from error
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: this FLAC file does not decode ({error}); repair or remove it") from error
    return rate, samples


def _as_float(samples: np.ndarray) -> np.ndarray:
    """Samples of any WAV type in -1..1; 24 bits come as the upper part of 32."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)


def resampled(sound: Sound, rate: int) -> np.ndarray:
    """(T,) int16 at `rate`: polyphase filtering, as `scipy.signal.resample_poly` does it."""
    samples = sound.samples
    if sound.rate != rate:
        from scipy.signal import resample_poly

        divisor = math.gcd(sound.rate, rate)
        samples = resample_poly(samples, rate // divisor, sound.rate // divisor)
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)


def windows(samples: np.ndarray, length: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a long clip and where they begin, `step` apart; silence follows in the last where the clip ends."""
    for start in range(0, max(1, len(samples) - length + step), step):
        part = samples[start : start + length]
        yield start, np.pad(part, (0, length - len(part)))


def conversions(sound: Sound, audio: Audio) -> tuple[str, ...]:
    """What is done to a sound of any length before it is heard, in words."""
    said = [
        (sound.rate != audio.rate, f"resampled from {sound.rate} to {audio.rate} Hz"),
        (sound.channels > 1, f"{sound.channels} channels averaged to one"),
    ]
    return tuple(text for applies, text in said if applies)


def remarks(sound: Sound, audio: Audio) -> tuple[str, ...]:
    """What is done to a clip to fit it into the window, in words."""
    seconds = len(sound.samples) / sound.rate
    said = [
        (seconds < audio.seconds, f"{seconds:.2f} s long: silence around it fills the window"),
        (seconds > audio.seconds, f"{seconds:.2f} s long: only the middle {audio.seconds:g} s are heard"),
    ]
    return (*conversions(sound, audio), *(text for applies, text in said if applies))


class _Fitting:
    """Brings clips to one form and counts what it did."""

    def __init__(self, settings: AudioSettings) -> None:
        self.settings, self.length = settings, Audio.of(settings).shape[0]
        self.clips = self.stereo = self.short = self.long = 0
        self.rates: Counter[int] = Counter()

    def __call__(self, sound: Sound) -> Tensor:
        samples = resampled(sound, self.settings.rate)
        self.clips += 1
        self.stereo += sound.channels > 1
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
        ]
        return tuple(f"{count:,} of {self.clips:,} clips {text}" for count, text in said if count)


# Many files -----------------------------------------------------------------------------------------------------------


def audio_folder(folder: Path, settings: AudioSettings) -> Clips:
    """Clips of a folder that holds train/<class>/*.wav and test/<class>/*.wav (or .flac).

    Raises:
        UserError: a part is missing, a class is empty, classes differ between the parts, a file does not decode, or
            speakers are held out, which a folder does not name.
    """
    if settings.held_out:
        raise UserError(
            "data.audio.held_out: a folder does not say who speaks; list the clips in a file with the columns path,"
            " label, speaker and name it in data.audio.manifest"
        )
    classes = class_names(folder / "train")
    if class_names(folder / "test") != classes:
        raise UserError(
            f"{folder}: train/ has the classes {list(classes)}, test/ has {list(class_names(folder / 'test'))}; make"
            " them the same"
        )
    listed = []
    for part in ("train", "test"):
        for name in classes:
            files = sorted(path for path in (folder / part / name).iterdir() if path.suffix.lower() in CLIP_SUFFIXES)
            if not files:
                raise UserError(f"{folder / part / name}: no WAV or FLAC files in this class; fill or remove it")
            listed += [Labelled(path, name, part=part) for path in files]
    return _read(listed, classes, settings)


def audio_manifest(folder: Path, settings: AudioSettings) -> Clips:
    """Clips listed in a CSV file: columns path (relative to it), label, and speaker, split, or both.

    The speakers in `settings.held_out` are the test set; without them the column split says "train" or "test".

    Raises:
        UserError: the manifest is missing, lacks a column, is empty, names a file that does not decode, a speaker
            that is not there or a class that no training clip has.
    """
    manifest = folder / settings.manifest
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
    for line, row in enumerate(rows, start=2):
        if not all(row[name] for name in needed):
            raise UserError(f"{manifest}: line {line} leaves {', '.join(n for n in needed if not row[n])} empty")
    listed = [
        Labelled(manifest.parent / row["path"], row["label"], row.get("speaker") or "", row.get("split") or "")
        for row in rows
    ]
    return _read(_parted(listed, settings.held_out, manifest), sorted({row.label for row in listed}), settings)


def _parted(listed: Sequence[Labelled], held_out: Sequence[str], manifest: Path) -> list[Labelled]:
    if held_out:
        _check_speakers(held_out, {row.speaker for row in listed})
        return [row._replace(part="test" if row.speaker in held_out else "train") for row in listed]
    for row in listed:
        if row.part not in ("train", "test"):
            raise UserError(f'{manifest}: split "{row.part}" of {row.path.name} is neither "train" nor "test"')
    return list(listed)


def _check_speakers(held_out: Sequence[str], known: Iterable[str]) -> None:
    known = sorted(set(known))
    if unknown := [name for name in held_out if name not in known]:
        raise UserError(f"data.audio.held_out: nobody is called {', '.join(unknown)}; the speakers: {', '.join(known)}")
    if not set(known) - set(held_out):
        raise UserError("data.audio.held_out names every speaker; leave some to train on")


def _read(listed: Sequence[Labelled], classes: Sequence[str], settings: AudioSettings) -> Clips:
    if untaught := sorted({row.label for row in listed} - {row.label for row in listed if row.part == "train"}):
        raise UserError(
            f"data.audio: no training clip is of the class {', '.join(untaught)}; move some there, or leave it out"
        )
    fit = _Fitting(settings)
    parts = {}
    for part in ("train", "test"):
        rows = [row for row in listed if row.part == part]
        if not rows:
            raise UserError(f"data.audio: no clip is in the {part} part; both are needed")
        inputs = torch.stack([fit(read_sound(row.path)) for row in rows])
        parts[part] = in_memory(inputs, torch.tensor([list(classes).index(row.label) for row in rows]))
    return Clips(tuple(classes), parts["train"], parts["test"], fit.notes())


# Spoken digits --------------------------------------------------------------------------------------------------------


def spoken_digits(settings: AudioSettings) -> Clips:
    """The packaged Free Spoken Digit Dataset: 3,000 clips of 10 digits by 6 speakers, 8 kHz, CC BY-SA 4.0.

    The official split (takes 0 to 4 are the test set, 300 clips), or all clips of `settings.held_out` as the test set.

    Raises:
        UserError: a held-out speaker is unknown, or all are held out.
    """
    if settings.held_out:
        _check_speakers(settings.held_out, DIGIT_SPEAKERS)
    fit = _Fitting(settings)
    inputs: dict[bool, list[Tensor]] = {True: [], False: []}
    labels: dict[bool, list[int]] = {True: [], False: []}
    for number, samples in enumerate(packaged_recordings()):
        digit, speaker, take = digit_of(number)
        held_out = speaker in settings.held_out if settings.held_out else take < DIGIT_TEST_TAKES
        inputs[held_out].append(fit(Sound(samples.astype(np.float32) / 32768, DIGIT_RATE, 1)))
        labels[held_out].append(digit)
    train, test = (in_memory(torch.stack(inputs[part]), torch.tensor(labels[part])) for part in (False, True))
    return Clips(DIGITS, train, test, fit.notes())


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
