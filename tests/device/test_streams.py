"""Texts of streams: whatever the chunks, what is written is what the whole clip says."""

import itertools

import numpy as np
import pytest

from distiq.device.run import AHEAD_S, Refused, spelt, unheard, whole_text, written_down, written_on

RATE, FRAME, LENGTH = 100, 5, 203
LATER = 6
"""Frames behind its own from which the toy network reads a frame's symbol: it needs what follows."""
ABOUT = {
    "modality": "audio", "rate": RATE, "frame": FRAME, "shape": [LENGTH], "divide_by": 1,
    "labels": ["<blank>", "a", "b", "|"],
}  # fmt: skip


def predict(windows: np.ndarray) -> np.ndarray:
    """Logits (B, 4, frames): a frame's symbol is the sample LATER frames behind its first; what lacks is a wrong b."""
    count = (LENGTH - FRAME) // FRAME
    places = (np.arange(count) + LATER) * FRAME
    likely = np.where(places < LENGTH, windows[:, np.minimum(places, LENGTH - 1)], 2).astype(int)
    return np.eye(4)[likely].transpose(0, 2, 1)


def said(symbols: np.ndarray) -> list[int]:
    return [int(number) for number, _ in itertools.groupby(symbols) if number]


@pytest.mark.parametrize("chunk", [1, 4, 50, 333, 5000])
def test_chunks_of_any_size_write_what_is_said(chunk: int):
    """600 frames, which is many windows, each symbol held for three of them; frame 0 has the symbol of frame LATER."""
    symbols = np.random.default_rng(chunk).integers(0, 4, 200).repeat(3)
    clip = symbols.repeat(FRAME).astype(np.int16)
    parts = [clip[start : start + chunk] for start in range(0, len(clip), chunk)]
    made = list(written_down(predict, ABOUT, iter(parts)))
    assert whole_text([text for *_, text in made], ABOUT) == spelt(said(symbols[LATER:]), ABOUT["labels"])
    assert len(made) == len(parts) + 1 and made[0][:2] == (0, len(parts[0]) / RATE)


def test_a_symbol_is_written_once_the_sound_behind_it_is_heard():
    state, numbers = written_on(predict, ABOUT, unheard(ABOUT), np.ones(FRAME * LATER + 1, np.float32))
    assert numbers == []
    silence = np.zeros(round(AHEAD_S * RATE), np.float32)
    state, numbers = written_on(predict, ABOUT, state, silence)
    assert numbers == [1]
    assert written_on(predict, ABOUT, state, silence, is_last=True)[1] == []


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(Refused, match="gives no length of a frame"):
        unheard({name: value for name, value in ABOUT.items() if name != "frame"})
    short = {**ABOUT, "shape": [60]}
    with pytest.raises(Refused, match=r"window of 0\.6 s is too short"):
        written_on(predict, short, unheard(short), np.zeros(5))
