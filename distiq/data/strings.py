"""Strings of spoken digits, put together from the packaged recordings: each a pure function of (seed, number)."""

import numpy as np
import torch
from torch import Tensor

from distiq.data.audio import DIGIT_RATE, DIGIT_TEST_TAKES, digit_of, packaged_recordings
from distiq.data.samples import Split, in_memory
from distiq.data.views import uniform

BLANK = 0
GAP_S = (0.05, 0.30)  # silence before each digit: shortest, longest


def digit_strings(count: int, most: int, seconds: float, seed: int, test: bool) -> Split:
    """`count` strings of 1 to `most` digits, 8 kHz, in windows of `seconds`; what does not fit is left out of both.

    Args:
        test: of the official test takes, else of the others.

    Returns:
        inputs (count, T) int16; labels (count, most): 1 + digit, `BLANK` behind the last.
    """
    recordings = [
        (digit, samples)
        for number, samples in enumerate(packaged_recordings())
        for digit, _, take in [digit_of(number)]
        if (take < DIGIT_TEST_TAKES) == test
    ]
    draws = uniform(seed, int(test), torch.arange(count), 1 + 2 * most).tolist()
    made = [_string(recordings, row, round(seconds * DIGIT_RATE)) for row in draws]
    inputs = torch.from_numpy(np.stack([samples for samples, _ in made]))
    labels = torch.tensor([digits + [BLANK] * (most - len(digits)) for _, digits in made])
    return in_memory(inputs, labels)


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


def transcripts(labels: Tensor) -> list[list[int]]:
    """The tokens of each row (N, L) without what is blank."""
    return [[token for token in row if token != BLANK] for row in labels.tolist()]
