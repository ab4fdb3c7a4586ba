"""A stream answers what the windows' clips would be answered, however the sound is cut into chunks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distiq.bundle.stream import Stream, Window, parts_of
from distiq.models.audio import DSCNN
from distiq.models.frontend import front_end
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load

LENGTH, HOP, WINDOW = 1000, 64, 128  # of a clip, and of the front-end's frames, at 4000 Hz
SONG = torch.randn(3300, generator=torch.Generator().manual_seed(1)) / 4


@pytest.fixture(scope="module", params=["log_mel", "mfcc", "int8 front-end"])
def file(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    features = "mfcc" if request.param == "mfcc" else "log_mel"
    model = DSCNN(3, front_end(4000, features, 16), stem=8, widths=(8,), strides=(1,)).eval()
    clips = torch.randn(8, LENGTH) / 4
    float_modules = () if request.param == "int8 front-end" else ("frontend",)
    quantized = quantize(model, clips, Scheme(float_modules=float_modules))
    return export(quantized, tmp_path_factory.mktemp(request.param[:4]) / f"{request.param[:4]}.onnx", clips)


def heard(file: Path, sizes: list[int], every: int, smooth: int = 1) -> tuple[Stream, list[Window]]:
    stream = Stream(parts_of(file, load(file)), LENGTH, every, smooth)
    return stream, [window for chunk in SONG.split(sizes) for window in stream.hear(chunk)]


def whole(file: Path, start: int) -> Tensor:
    return torch.softmax(load(file)(SONG[start : start + LENGTH].unsqueeze(0))[0], 0)


@pytest.mark.parametrize("sizes", [[3300], [1, 99, 1000, 2200], [100] * 33])
def test_windows_get_the_answers_of_their_clips(file: Path, sizes: list[int]):
    stream, windows = heard(file, sizes, every=2 * HOP)
    # A window's last samples make no whole frame: nothing waits for them.
    read = WINDOW + (LENGTH - WINDOW) // HOP * HOP if stream.parts.hop > 1 else LENGTH
    assert [window.start for window in windows] == list(range(0, len(SONG) - read + 1, 2 * HOP))
    for window in windows:
        if window.start + LENGTH <= len(SONG):
            torch.testing.assert_close(window.probabilities, whole(file, window.start), atol=1e-5, rtol=0)


def test_frames_are_computed_once_where_the_front_end_is_apart(file: Path):
    stream, _ = heard(file, [3300], every=HOP)
    if "int8" in file.stem:
        assert (stream.parts.window, stream.parts.hop) == (1, 1)
        return
    assert (stream.parts.window, stream.parts.hop) == (WINDOW, HOP)
    lengths, frames = [], stream.parts.frames
    counting = stream.parts._replace(frames=lambda sound: (lengths.append(sound.shape[1]), frames(sound))[1])
    again = Stream(counting, LENGTH, HOP)
    assert sum(len(list(again.hear(chunk))) for chunk in SONG.split(300)) > 30
    assert sum(1 + (length - WINDOW) // HOP for length in lengths) == 1 + (len(SONG) - WINDOW) // HOP


def test_smoothing_is_the_mean_of_the_last_windows(file: Path):
    _, plain = heard(file, [500] * 6 + [300], every=5 * HOP)
    _, smoothed = heard(file, [500] * 6 + [300], every=5 * HOP, smooth=3)
    for number, window in enumerate(smoothed):
        last = [entry.probabilities for entry in plain[max(0, number - 2) : number + 1]]
        torch.testing.assert_close(window.probabilities, torch.stack(last).mean(0))


def test_less_than_a_window_is_not_answered(file: Path):
    stream = Stream(parts_of(file, load(file)), LENGTH, HOP)
    assert list(stream.hear(SONG[:WINDOW])) == [] and list(stream.hear(SONG[:0])) == []


def test_windows_that_leave_samples_out_are_refused(file: Path):
    with pytest.raises(ValueError, match="leave some unheard"):
        Stream(parts_of(file, load(file)), LENGTH, 1200)
