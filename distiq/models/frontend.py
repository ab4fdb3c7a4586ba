"""Front-ends of audio networks: raw waveform in, log-mel or MFCC out, as convolutions and matrix products.

They are part of the network, so that every runtime gets the waveform and none can compute other features. Their fixed
weights are functions of a few numbers and are written down as such: an exported file holds the formula instead of the
values, which a runtime computes once when it loads the file. A file of 16 KB has no room for the 264 KB of a Fourier
basis of 256 samples.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Literal["log_mel", "mfcc"]
# Of speech in -1..1: what brings the logarithms of most bands near zero mean and unit variance.
LOG_MEL_CENTRE, LOG_MEL_SPREAD, MFCC_SPREAD = -5.0, 5.0, 20.0


def front_end(
    rate: int = 16000,
    features: Features = "log_mel",
    bands: int = 40,
    coefficients: int = 10,
    window_ms: float = 32.0,
    hop_ms: float = 16.0,
) -> "LogMel | MFCC":
    """The module that turns waveforms into features. These are options of every network for sound.

    Args:
        rate: samples per second of the waveforms.
        features: "log_mel" or "mfcc".
        bands: mel bands; coefficients: MFCC that are kept.
        window_ms, hop_ms: of a frame, in milliseconds.

    Raises:
        ValueError: the features are unknown, or do not fit together.
    """
    window, hop = (round(rate * length / 1000) for length in (window_ms, hop_ms))
    match features:
        case "log_mel":
            return LogMel(rate, window, hop, bands, centre=LOG_MEL_CENTRE, spread=LOG_MEL_SPREAD)
        case "mfcc":
            return MFCC(rate, coefficients, window, hop, bands, spread=MFCC_SPREAD)
    raise ValueError(f'features = "{features}" is unknown; take "log_mel" or "mfcc"')


def mel_of_hertz(hertz: float) -> float:
    """The mel scale of O'Shaughnessy 1987 (HTK's): 2595 log10(1 + f / 700)."""
    return 2595 * math.log10(1 + hertz / 700)


def in_float32(features: Callable[[Tensor], Tensor], waveforms: Tensor) -> Tensor:
    """Features in full precision, also where a training computes the network behind them in less."""
    device = waveforms.device.type
    if not torch.is_autocast_enabled(device):
        return features(waveforms)
    with torch.autocast(device, enabled=False):
        return features(waveforms.float())


class LogMel(nn.Module):
    """Logarithm of the power in triangular mel bands: (B, T) waveforms in -1..1 -> (B, bands, frames).

    Frame t is `window` samples from t * hop on, under a periodic Hann window, without padding: the power spectrum is
    that of `torch.stft(x, window, hop, window=torch.hann_window(window), center=False).abs() ** 2`. The triangles are
    HTK's, with their corners evenly spaced on the mel scale from `lowest` to `highest` Hz and height 1. Every front-end
    has its number of features as `rows`.

    Args:
        rate: samples per second.
        window, hop: length of a frame and distance between two, in samples; by default 32 ms and half of that.
        bands: number of mel bands.
        lowest, highest: ends of the bands in Hz; `highest` of 0 is half the rate.
        floor: added to the power before the logarithm.
        centre, spread: the logarithm is shown to the network as (log - centre) / spread.

    Raises:
        ValueError: the bands do not lie within 0 and half the rate, or are too narrow for the window.
    """

    def __init__(
        self,
        rate: int,
        window: int = 0,
        hop: int = 0,
        bands: int = 40,
        lowest: float = 20.0,
        highest: float = 0.0,
        floor: float = 1e-6,
        centre: float = 0.0,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.rate, self.rows = rate, bands
        self.window = window or 32 * rate // 1000
        self.hop = hop or self.window // 2
        self.floor, self.centre, self.spread = floor, centre, spread
        highest = highest or rate / 2
        if not 0 <= lowest < highest <= rate / 2:
            raise ValueError(f"mel bands from {lowest:g} to {highest:g} Hz do not lie within 0 and {rate / 2:g} Hz")
        self.low_mel, self.high_mel = mel_of_hertz(lowest), mel_of_hertz(highest)
        empty = int((self.filters().sum(1) == 0).sum())
        if empty:
            raise ValueError(
                f"{empty} of {bands} mel bands hold no frequency of a window of {self.window} samples; lower bands or"
                " raise window"
            )

    def basis(self, device: torch.device | None = None) -> Tensor:
        """Windowed Fourier basis, (2 * (window // 2 + 1), window): cosines, then sines."""
        time = torch.arange(self.window, dtype=torch.float32, device=device)
        frequency = torch.arange(self.window // 2 + 1, dtype=torch.float32, device=device)
        turns = torch.remainder(frequency.unsqueeze(1) * time, self.window)  # whole numbers: exact, so is the angle
        angles = turns * (2 * math.pi / self.window)
        hann = 0.5 - 0.5 * torch.cos(time * (2 * math.pi / self.window))
        return torch.cat([torch.cos(angles), torch.sin(angles)]) * hann

    def filters(self, device: torch.device | None = None) -> Tensor:
        """Triangles over the frequencies, (bands, window // 2 + 1)."""
        frequency = torch.arange(self.window // 2 + 1, dtype=torch.float32, device=device) * (self.rate / self.window)
        step = (self.high_mel - self.low_mel) / (self.rows + 1)
        corners = self.low_mel + step * torch.arange(self.rows + 2, dtype=torch.float32, device=device)
        hertz = 700 * (torch.exp(corners * (math.log(10) / 2595)) - 1)
        left, top, right = (hertz[start : start + self.rows].unsqueeze(1) for start in range(3))
        rising, falling = (frequency - left) / (top - left), (right - frequency) / (right - top)
        return torch.clamp(torch.minimum(rising, falling), min=0)

    def power(self, waveforms: Tensor) -> Tensor:
        """(B, T) -> power spectrum (B, window // 2 + 1, frames)."""
        spectrum = F.conv1d(waveforms.unsqueeze(1), self.basis(waveforms.device).unsqueeze(1), stride=self.hop)
        real, imaginary = (spectrum * spectrum).chunk(2, 1)
        return real + imaginary

    def forward(self, waveforms: Tensor) -> Tensor:
        return in_float32(self.features, waveforms)

    def features(self, waveforms: Tensor) -> Tensor:
        mel = torch.matmul(self.filters(waveforms.device), self.power(waveforms))
        return (torch.log(mel + self.floor) - self.centre) / self.spread


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients: (B, T) waveforms -> (B, coefficients, frames).

    The orthonormal type-2 cosine transform of the log-mel bands (Davis and Mermelstein 1980), its first rows.

    Args:
        coefficients: how many are kept, the zeroth (loudness) among them.
        rate, window, hop, bands, lowest, highest, floor: of `LogMel`.
    """

    def __init__(
        self,
        rate: int,
        coefficients: int = 10,
        window: int = 0,
        hop: int = 0,
        bands: int = 40,
        lowest: float = 20.0,
        highest: float = 0.0,
        floor: float = 1e-6,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(rate, window, hop, bands, lowest, highest, floor)
        if not 1 <= coefficients <= bands:
            raise ValueError(f"{coefficients} coefficients cannot be made of {bands} mel bands")
        self.rate, self.bands, self.rows, self.spread = rate, bands, coefficients, spread

    def transform(self, device: torch.device | None = None) -> Tensor:
        """The cosine transform, (coefficients, bands)."""
        order = torch.arange(self.rows, dtype=torch.float32, device=device).unsqueeze(1)
        place = torch.arange(self.bands, dtype=torch.float32, device=device) + 0.5
        height = torch.where(order == 0, math.sqrt(1 / self.bands), math.sqrt(2 / self.bands))
        return height * torch.cos(order * place * (math.pi / self.bands))

    def forward(self, waveforms: Tensor) -> Tensor:
        return in_float32(self.features, waveforms)

    def features(self, waveforms: Tensor) -> Tensor:
        return torch.matmul(self.transform(waveforms.device), self.log_mel(waveforms)) / self.spread
