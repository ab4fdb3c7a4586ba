"""Packs the Free Spoken Digit Dataset into distiq/data/spoken_digits, without loss.

    python scripts/pack_spoken_digits.py recordings.zip

Reads recordings/<digit>_<speaker>_<take>.wav; see `distiq.data.audio.packaged_recordings` for the form.
"""

import io
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from distiq.data.audio import DIGIT_RATE, DIGIT_SPEAKERS, DIGIT_TAKES, DIGITS, digit_of, packaged_recordings

TARGET = Path(__file__).parent.parent / "distiq" / "data" / "spoken_digits"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def read(archive: zipfile.ZipFile, number: int) -> np.ndarray:
    digit, speaker, take = digit_of(number)
    rate, samples = wavfile.read(io.BytesIO(archive.read(f"recordings/{digit}_{speaker}_{take}.wav")))
    assert (rate, samples.dtype, samples.ndim) == (DIGIT_RATE, np.int16, 1)
    return samples


def main(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        clips = [read(archive, number) for number in range(len(DIGITS) * len(DIGIT_SPEAKERS) * DIGIT_TAKES)]
    samples = np.concatenate(clips).view(np.uint16)
    differences = np.diff(samples, prepend=np.uint16(0)).view(np.int16)
    folded = ((differences << 1) ^ (differences >> 15)).view(np.uint16)
    parts = {
        "lengths": np.array([len(clip) for clip in clips], "<u2"),
        "upper": (folded >> 8).astype(np.uint8),
        "lower": (folded & 255).astype(np.uint8),
    }
    for name, values in parts.items():
        packed = lzma.compress(values.tobytes(), format=lzma.FORMAT_XZ, filters=FILTERS)
        (TARGET / f"{name}.xz").write_bytes(packed)
        print(f"{name}: {len(packed):,} bytes")
    assert all(np.array_equal(one, other) for one, other in zip(packaged_recordings(), clips, strict=True))


if __name__ == "__main__":
    main(sys.argv[1])
