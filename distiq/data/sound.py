"""One file of sound: read as it is found, brought to a rate, cut into windows."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distiq.device import run as runner
from distiq.device.run import LONGEST_SECONDS, LONGEST_WINDOWS, RATES
from distiq.errors import UserError

SCIPY_READS = (1, 3)  # WAV encodings: integers, floats


class Sound(NamedTuple):
    """A file as it was found: samples (T,) float32 in -1..1, mean of its channels, at its own rate."""

    samples: np.ndarray
    rate: int
    channels: int

    @property
    def is_clipped(self) -> bool:
        """Whether it goes beyond full scale, which floats can: as int16 it is cut off there."""
        return bool(np.abs(self.samples).max(initial=0) > 1)


def read_sound(path: Path) -> Sound:
    """A sound file: WAV by scipy, all others and WAV of other encodings than integers and floats by soundfile.

    Raises:
        UserError: the file is missing, empty, cut short, does not decode, or soundfile is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: this file is empty; repair or remove it")
    rate, samples = _read_wav(path) if path.suffix.lower() == ".wav" else _read_others(path)
    lowest, highest = RATES
    if not lowest <= rate <= highest:
        raise UserError(
            f"{path}: its header gives a rate of {rate} Hz; clips of {lowest:,} to {highest:,} Hz are read: repair or"
            " remove it"
        )
    if len(samples) == 0:
        raise UserError(f"{path}: this clip holds no samples; repair or remove it")
    samples = samples.reshape(len(samples), -1)
    channels = samples.shape[1]
    mono = _as_float(samples).mean(1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise UserError(f"{path}: this clip holds NaN or infinite samples; repair or remove it")
    return Sound(mono, rate, channels)


def seconds_of(path: Path) -> float:
    """How long a clip is, from its header where soundfile is installed."""
    with contextlib.suppress(ImportError, RuntimeError):
        import soundfile

        return float(soundfile.info(path).duration)
    sound = read_sound(path)
    return len(sound.samples) / sound.rate


def _read_wav(path: Path) -> tuple[int, np.ndarray]:
    from scipy.io import wavfile

    content = runner.whole_wav(path.read_bytes())
    if runner.wav_encoding(content) not in SCIPY_READS:
        return _read_others(path)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # scipy lets struct's, numpy's and its own errors through
        raise UserError(f"{path}: this WAV file does not decode ({error}); repair or remove it") from error
    if any("EOF" in str(warning.message) for warning in said):
        raise UserError(f"{path}: this WAV file is cut short; fetch it again or remove it")
    return rate, samples


def _read_others(path: Path) -> tuple[int, np.ndarray]:
    kind = path.suffix[1:].upper()
    try:
        import soundfile
    except ImportError as error:
        raise UserError(
            f"{path}: reading this {kind} file needs a package; install it with: pip install soundfile"
        ) from error
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (soundfile.SoundFileError, RuntimeError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: this {kind} file does not decode ({error}); repair or remove it") from error
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


def check_length(sound: Sound, seconds: float, where: str) -> None:
    """Raises UserError if a clip is far longer than the window of which its middle would be heard."""
    own, most = len(sound.samples) / sound.rate, max(LONGEST_SECONDS, LONGEST_WINDOWS * seconds)
    if own > most:
        raise UserError(
            f"{where}: {own:,.0f} s long, but the model hears {seconds:g} s of it; cut it to at most {most:,.0f} s"
        )


def windows(samples: np.ndarray, length: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a long clip and where they begin, `step` apart; silence follows in the last where the clip ends."""
    for start in range(0, max(1, len(samples) - length + step), step):
        part = samples[start : start + length]
        yield start, np.pad(part, (0, length - len(part)))
