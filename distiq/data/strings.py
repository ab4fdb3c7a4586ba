"""Strings of spoken digits, put together from the packaged recordings: each a pure function of (seed, number)."""

from collections.abc import Sequence

import numpy as np
import torch

from distiq.data.audio import DIGIT_RATE, DIGIT_TEST_TAKES, digit_of, packaged_recordings
from distiq.data.labels import UNLABELLED
from distiq.data.samples import Split, in_memory
from distiq.data.views import uniform

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
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
    draws = uniform(seed, int(test), torch.arange(count), 1 + 2 * most).tolist()
    made = [_string(recordings, row, round(seconds * DIGIT_RATE)) for row in draws]
    inputs = torch.from_numpy(np.stack([samples for samples, _ in made]))
    labels = [digits + [UNLABELLED] * (most - len(digits)) for _, digits in made]
    return in_memory(inputs, torch.tensor(labels, dtype=torch.int32))


def _string(recordings: list[tuple[int, np.ndarray]], draws: list[float], length: int) -> tuple[np.ndarray, list[int]]:
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
