"""Strings of spoken digits, put together from the packaged recordings: each a pure function of (seed, number)."""

import importlib.resources
import lzma
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distiq.data.audio import DIGIT_RATE, DIGIT_TEST_TAKES, digit_of, packaged_recordings
from distiq.data.labels import UNLABELLED
from distiq.data.samples import Split, in_memory
from distiq.data.views import uniform

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MU = 255
GAP_S = (0.05, 0.30)  # silence before each digit: shortest, longest


def digit_strings(count: int, most: int, seconds: float, seed: int, test: bool, held_out: Sequence[str] = ()) -> Split:
    """`count` strings of 1 to `most` digits, 8 kHz, in windows of `seconds`; what does not fit is left out of both.

    Args:
        test: of the held-out speakers (of the official test takes where none is named), else of the others.

    Returns:
        inputs (count, T) int16; labels (count, most) int32: 1 + digit, `UNLABELLED` behind the last.
    """
    recordings = [
        (digit, samples)
        for number, samples in enumerate(packaged_recordings())
        for digit, speaker, take in [digit_of(number)]
        if (speaker in held_out if held_out else take < DIGIT_TEST_TAKES) == test
    ]
    return _strings(recordings, uniform(seed, int(test), torch.arange(count), 1 + 2 * most), seconds)


def synthetic_strings(count: int, most: int, seconds: float, seed: int) -> Split:
    """The same by the packaged synthetic voices."""
    recordings = [(number % len(DIGIT_WORDS), clip) for number, clip in enumerate(synthetic_recordings())]
    return _strings(recordings, uniform(seed, 2, torch.arange(count), 1 + 2 * most), seconds)


def synthetic_recordings() -> list[np.ndarray]:
    """Clips of synthetic voices, 8 kHz int16, of each the ten digits in order; see `synthetic_digits/LICENSE.txt`.

    They are packed in 8 bits by the mu law (ITU-T G.711's curve), as telephones send them.
    """
    root = importlib.resources.files("distiq.data") / "synthetic_digits"
    codes, lengths = (lzma.decompress((root / f"{name}.xz").read_bytes()) for name in ("codes", "lengths"))
    samples = of_mu_law(np.frombuffer(codes, np.uint8))
    return np.split(samples, np.cumsum(np.frombuffer(lengths, "<u2"), dtype=np.int64)[:-1])


def mu_law(samples: np.ndarray) -> np.ndarray:
    """int16 -> uint8: sign and logarithm of the height."""
    heights = np.log1p(MU * np.abs(samples.astype(np.float64)) / 32768) / math.log1p(MU)
    return np.round(127.5 + 127.5 * np.sign(samples) * heights).astype(np.uint8)


def of_mu_law(codes: np.ndarray) -> np.ndarray:
    """uint8 -> int16."""
    heights = (codes.astype(np.float64) - 127.5) / 127.5
    return np.round(np.sign(heights) * np.expm1(np.abs(heights) * math.log1p(MU)) / MU * 32767).astype(np.int16)


def _strings(recordings: Sequence[tuple[int, np.ndarray]], draws: Tensor, seconds: float) -> Split:
    most = draws.shape[1] // 2
    made = [_string(recordings, row, round(seconds * DIGIT_RATE)) for row in draws.tolist()]
    inputs = torch.from_numpy(np.stack([samples for samples, _ in made]))
    labels = [digits + [UNLABELLED] * (most - len(digits)) for _, digits in made]
    return in_memory(inputs, torch.tensor(labels, dtype=torch.int32))


def _string(
    recordings: Sequence[tuple[int, np.ndarray]], draws: list[float], length: int
) -> tuple[np.ndarray, list[int]]:
    window, digits, place = np.zeros(length, np.int16), [], 0
    most = len(draws) // 2
    for number in range(1 + int(draws[0] * most)):
        which, gap = draws[1 + 2 * number : 3 + 2 * number]
        digit, samples = recordings[int(which * len(recordings))]
        place += round((GAP_S[0] + gap * (GAP_S[1] - GAP_S[0])) * DIGIT_RATE)
        if place + len(samples) > length:
            break
        window[place : place + len(samples)] = samples
        digits.append(1 + digit)
        place += len(samples)
    return window, digits
