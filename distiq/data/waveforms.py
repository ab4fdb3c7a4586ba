"""What a view does to waveforms: pure functions of clips (B, T) float32 and of numbers drawn for each clip, (B,)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def moved(clips: Tensor, shift: Tensor, speed: Tensor, origin: Tensor) -> Tensor:
    """Every clip later by `shift` samples and played `speed` times as fast around sample `origin`; silence comes in.

    Between two samples lies the straight line; a faster clip is also higher in pitch.
    """
    time = torch.arange(clips.shape[1], dtype=torch.float32, device=clips.device)
    start = origin.unsqueeze(1)
    place = start + (time - start - shift.unsqueeze(1)) * speed.unsqueeze(1)
    left = place.floor()
    share = place - left
    return _at(clips, left.long()) * (1 - share) + _at(clips, left.long() + 1) * share


def _at(clips: Tensor, places: Tensor) -> Tensor:
    """clips[b, places[b, t]], zero outside."""
    inside = (places >= 0) & (places < clips.shape[1])
    return clips.gather(1, places.clamp(0, clips.shape[1] - 1)) * inside


def sounding(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Of every clip (B, T) the first sample that is not zero, and the place behind the last one; 0 and 1 of silence."""
    loud = clips != 0
    loud[:, 0] |= ~loud.any(1)
    first, last = loud.int().argmax(1), loud.flip(1).int().argmax(1)
    return first.float(), (clips.shape[1] - last).float()


def louder(clips: Tensor, decibels: Tensor) -> Tensor:
    """Every clip louder by its `decibels`; negative is quieter."""
    return clips * each(decibels, lambda value: 10 ** (value / 20)).unsqueeze(1)


def with_noise(clips: Tensor, noise: Tensor, snr_db: Tensor, chosen: Tensor) -> Tensor:
    """Noise (B, T) of unit power is added to the `chosen` clips (B,) at a signal-to-noise ratio in decibels.

    The signal's power is that of the whole window, silence included; a silent clip gets none.
    """
    power = _sum(clips.square()) / clips.shape[1]
    height = (power / each(snr_db, lambda value: 10 ** (value / 10))).sqrt() * chosen
    return clips + noise * height.unsqueeze(1)


def _sum(values: Tensor) -> Tensor:
    """(B, T) -> (B,), added in pairs: torch's own sum takes another order, and rounds otherwise, in another batch."""
    while values.shape[1] > 1:
        values = F.pad(values, (0, values.shape[1] % 2))
        values = values[:, 0::2] + values[:, 1::2]
    return values[:, 0]


def each(values: Tensor, function: Callable[[float], float]) -> Tensor:
    """A function of each of the values (B,): torch's kernels of powers and exponentials round a batch's last values
    otherwise than the others, and a view is to be the same in any batch."""
    return torch.tensor([function(value) for value in values.tolist()], dtype=values.dtype, device=values.device)


def hushed(clips: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Silence from sample `start` on, `length` samples long."""
    time = torch.arange(clips.shape[1], device=clips.device)
    inside = (time >= start.unsqueeze(1)) & (time < (start + length).unsqueeze(1))
    return clips * ~inside
