"""The front-ends against torch.stft, a filter bank written from its definition, and scipy's cosine transform."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy.fft import dct
from torch import Tensor

from distiq.models.frontend import MFCC, LogMel
from distiq.runtimes.export import export, load

SIZES = [(8000, 256, 128), (8000, 200, 80), (16000, 512, 256), (16000, 401, 160)]


def waves(count: int = 3, length: int = 8000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, length, generator=generator) * 2 - 1


def spectrum(x: Tensor, window: int, hop: int) -> Tensor:
    """Power by torch.stft in float64."""
    hann = torch.hann_window(window, dtype=torch.float64)
    return torch.stft(x.double(), window, hop, window=hann, center=False, return_complex=True).abs().square()


def triangles(rate: int, window: int, bands: int, low: float, high: float) -> np.ndarray:
    """HTK's filter bank, written value by value."""
    ends = [2595 * math.log10(1 + hertz / 700) for hertz in (low, high)]
    corners = [700 * (10 ** (mel / 2595) - 1) for mel in np.linspace(*ends, bands + 2)]
    found = np.zeros((bands, window // 2 + 1))
    for band, (left, top, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for place in range(window // 2 + 1):
            hertz = place * rate / window
            if left < hertz <= top:
                found[band, place] = (hertz - left) / (top - left)
            elif top < hertz < right:
                found[band, place] = (right - hertz) / (right - top)
    return found


def log_mel(x: Tensor, rate: int, window: int, hop: int, bands: int) -> Tensor:
    mel = torch.from_numpy(triangles(rate, window, bands, 20, rate / 2)) @ spectrum(x, window, hop)
    return torch.log(mel + 1e-6)


@pytest.mark.parametrize(("rate", "window", "hop"), SIZES)
def test_the_power_is_torch_stft_s(rate: int, window: int, hop: int):
    expected = spectrum(waves(), window, hop)
    found = LogMel(rate, window, hop, 20).power(waves())
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rate", "window", "hop"), SIZES)
def test_log_mel_is_the_reference_s(rate: int, window: int, hop: int):
    found = LogMel(rate, window, hop, 20)(waves())
    torch.testing.assert_close(found.double(), log_mel(waves(), rate, window, hop, 20), atol=1e-4, rtol=0)


def test_mfcc_is_scipy_s():
    expected = dct(log_mel(waves(), 8000, 256, 128, 40).numpy(), type=2, axis=1, norm="ortho")[:, :10]
    found = MFCC(8000, 10)(waves())
    np.testing.assert_allclose(found.double(), expected, atol=1e-4)


def test_quiet_and_silent_clips_are_as_exact():
    quiet = torch.cat([waves(1) * 1e-3, torch.zeros(1, 8000)])
    found = LogMel(8000)(quiet)
    torch.testing.assert_close(found.double(), log_mel(quiet, 8000, 256, 128, 40), atol=1e-4, rtol=0)
    assert float(found[1].max()) == pytest.approx(math.log(1e-6), abs=1e-4)


def test_a_tone_is_loudest_in_its_band():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(8000) / 8000).unsqueeze(0)
    loudest = LogMel(8000)(tone).mean(2).argmax()
    mels = np.linspace(2595 * math.log10(1 + 20 / 700), 2595 * math.log10(1 + 4000 / 700), 42)
    assert int(loudest) == np.abs(mels[1:-1] - 2595 * math.log10(1 + 1000 / 700)).argmin()


def test_centre_and_spread_shift_and_scale():
    plain, shown = LogMel(8000), LogMel(8000, centre=-5, spread=4)
    torch.testing.assert_close(shown(waves()), (plain(waves()) + 5) / 4)


@pytest.mark.parametrize("front", [LogMel(8000), MFCC(8000)], ids=["log_mel", "mfcc"])
def test_a_training_in_less_precision_hears_as_well(front):
    with torch.autocast("cpu", torch.bfloat16):
        found = front(waves())
    assert torch.equal(found, front(waves()))


@pytest.mark.parametrize("make", [lambda: LogMel(8000), lambda: MFCC(8000)], ids=["log_mel", "mfcc"])
def test_the_file_agrees_and_holds_formulas_instead_of_tables(make, tmp_path: Path):
    path = export(make(), tmp_path / "front.onnx", waves(2))
    # Beside the file, its Fourier basis alone has 258 * 256 values of 4 bytes.
    assert path.stat().st_size < 4000
    assert max(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer) < 258 * 256
    torch.testing.assert_close(load(path)(waves()), make()(waves()), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"highest": 5000.0}, "do not lie within 0 and 4000 Hz"),
        ({"lowest": 4000.0}, "do not lie within"),
        ({"bands": 200}, r"of 200 mel bands hold no frequency of a window of 256 samples"),
    ],
)
def test_bands_that_do_not_fit_are_refused(options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        LogMel(8000, **options)


@pytest.mark.parametrize("coefficients", [0, 41])
def test_coefficients_that_do_not_fit_are_refused(coefficients: int):
    with pytest.raises(ValueError, match="cannot be made of 40 mel bands"):
        MFCC(8000, coefficients)
