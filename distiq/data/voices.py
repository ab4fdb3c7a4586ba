"""Voices that nobody recorded: clips spoken slower or faster, by another throat, into another microphone."""

import math

import torch
from torch import Tensor

FRAME_S = 0.032
CURVES = 3
"""Cosines over the frequencies that the curve of a microphone is a sum of."""


def revoiced(clips: Tensor, rate: int, tempo: Tensor, pitch: Tensor, curve: Tensor, origin: Tensor) -> Tensor:
    """Every clip (B, T) spoken `tempo` times as fast around `origin`, its pitch and formants `pitch` times as high.

    A phase vocoder (Laroche and Dolson 1999, "Improved phase vocoder time-scale modification of audio"): frames are
    taken at another pace, heights from other frequencies, and each frequency's phase goes on by its own advance. The
    other frequencies are the vocal tract length perturbation of Jaitly and Hinton 2013.

    Args:
        rate: samples per second.
        tempo, pitch: (B,); 1 changes nothing.
        curve: (B, CURVES), decibels of the cosines of half a period, a whole one, ... over the frequencies.
        origin: (B,), the sample that stays where it is.

    Returns:
        (B, T); what is slower is cut at the ends, silence follows what is faster.
    """
    # One by one: kernels over a batch round its last values otherwise, and a view is to be the same in any batch.
    rows = zip(clips, tempo.tolist(), pitch.tolist(), curve, origin.tolist(), strict=True)
    return torch.stack([_revoiced(clip, _window(rate), *how) for clip, *how in rows])


def _window(rate: int) -> int:
    return 4 * round(FRAME_S * rate / 4)


def _revoiced(clip: Tensor, window: int, tempo: float, pitch: float, curve: Tensor, origin: float) -> Tensor:
    hop, hann = window // 2, torch.hann_window(window, device=clip.device)
    spectrum = torch.stft(clip, window, hop, window=hann, pad_mode="constant", return_complex=True)
    highest, last = spectrum.shape[0] - 1, spectrum.shape[1] - 1
    heights, phases = spectrum.abs(), spectrum.angle()
    frequency = torch.arange(highest + 1, device=clip.device)
    expected = (frequency * (2 * math.pi * hop / window)).unsqueeze(1)
    turned = phases.diff(dim=1) - expected
    advance = expected + turned - 2 * math.pi * (turned / (2 * math.pi)).round()

    place = origin / hop + (torch.arange(last + 1, device=clip.device) - origin / hop) * tempo
    left = place.floor().long().clamp(0, last - 1)
    share = (place - left).clamp(0, 1)
    heights = heights[:, left] * (1 - share) + heights[:, left + 1] * share
    heights = heights * ((place >= 0) & (place <= last)) * _gains(curve, highest + 1).unsqueeze(1)

    row = frequency / pitch
    lower = row.floor().long().clamp(max=highest - 1)
    beside, inside = (row - lower).clamp(max=1).unsqueeze(1), (row <= highest).unsqueeze(1)
    heights = (heights[lower] * (1 - beside) + heights[lower + 1] * beside) * inside
    nearest = row.round().long().clamp(max=highest)
    turns = (advance[nearest][:, left] * pitch).cumsum(1)
    phases = phases[:, :1] + torch.nn.functional.pad(turns[:, :-1], (1, 0))
    return torch.istft(torch.polar(heights, phases), window, hop, window=hann, length=len(clip))


def _gains(curve: Tensor, frequencies: int) -> Tensor:
    """Factors (frequencies,) of a curve in decibels."""
    along = torch.linspace(0, math.pi, frequencies, device=curve.device)
    waves = torch.stack([torch.cos(along * number) for number in range(1, CURVES + 1)])
    return 10 ** (curve @ waves / 20)
