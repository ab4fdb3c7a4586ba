"""Voices: what changes is what its name says, in the spectrum and in time."""

import math

import torch
from torch import Tensor

from distiq.data.voices import CURVES, revoiced

RATE, LENGTH, MIDDLE = 8000, 8000, 4000


def tones(*hertz: float) -> Tensor:
    time = torch.arange(LENGTH) / RATE
    return torch.stack([torch.sin(2 * math.pi * time * frequency) for frequency in hertz])


def spoken(clips: Tensor, tempo: float = 1.0, pitch: float = 1.0, curve: tuple[float, ...] = (0.0,) * CURVES) -> Tensor:
    each = [torch.full((len(clips),), value) for value in (tempo, pitch)]
    return revoiced(clips, RATE, *each, torch.tensor([curve] * len(clips)), torch.full((len(clips),), float(MIDDLE)))


def loudest_hertz(clips: Tensor) -> list[int]:
    """Of the middle half, in steps of 2 Hz."""
    return (2 * torch.fft.rfft(clips[:, 2000:6000] * torch.hann_window(4000)).abs().argmax(1)).tolist()


def test_without_a_change_a_clip_sounds_the_same():
    sounds = tones(300, 1111)
    torch.testing.assert_close(spoken(sounds)[:, 500:-500], sounds[:, 500:-500], atol=0.02, rtol=0)


def test_another_voice_has_other_frequencies_at_the_same_pace():
    found = loudest_hertz(spoken(tones(400, 1000), pitch=1.2))
    assert all(abs(one - expected) <= 8 for one, expected in zip(found, (480, 1200), strict=True)), found


def test_a_stretched_clip_has_its_frequencies_at_another_pace():
    """A burst from 4,800 to 5,600 stands at (t - middle) / tempo behind the middle."""
    burst = tones(800)
    burst[:, :4800], burst[:, 5600:] = 0, 0
    for tempo in (0.8, 1.25):
        made = spoken(burst, tempo)
        loud = torch.nonzero(made[0].abs() > 0.3)[:, 0]
        begin, end = (MIDDLE + (place - MIDDLE) / tempo for place in (4800, 5600))
        assert abs(int(loud[0]) - begin) < 200 and abs(int(loud[-1]) - end) < 200
    assert abs(loudest_hertz(spoken(tones(800), 0.8))[0] - 800) <= 8


def test_a_microphones_curve_is_its_cosines():
    """Half a period of 6 dB: +6 dB at 0 Hz, none at a quarter of the rate, -6 dB at half of it."""
    gains = spoken(tones(40, 2000, 3960), curve=(6.0, 0.0, 0.0))[:, 2000:6000].square().mean(1)
    gains = 10 * torch.log10(gains / tones(40, 2000, 3960)[:, 2000:6000].square().mean(1))
    torch.testing.assert_close(gains, torch.tensor([6.0, 0.0, -6.0]), atol=0.4, rtol=0)
