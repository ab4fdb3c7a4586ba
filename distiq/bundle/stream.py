"""Sound in chunks of any size in, running class probabilities out.

A window's prediction is that of its clip. Where the model's file has its front-end apart (an ONNX file
whose front-end stays in float32), every frame is computed once and kept for all the windows that it lies in.
"""

import math
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distiq.bundle.open import Bundle, StreamPrediction
from distiq.data.sound import read_sound, resampled
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.signature import Predict, one_output
from distiq.runtimes.onnx_runtime import FrontEnd, split_front_end


class StreamText(NamedTuple):
    """What a chunk of a stream adds to its text: begin and end of the chunk in seconds."""

    start_s: float
    end_s: float
    text: str


class Window(NamedTuple):
    """A window of a stream: the sample that it begins with and the class probabilities (classes,)."""

    start: int
    probabilities: Tensor


class Stream:
    """What has been heard so far: samples that make no frame yet, the frames of the window, the last probabilities.

    Args:
        parts: the model in two.
        length: samples of a window.
        every: samples from one window to the next, taken as whole hops of the front-end, one at least.
        smooth: probabilities are the mean of those of so many windows (Chen et al. 2014, "Small-footprint keyword
            spotting using deep neural networks", equation 2).
    """

    def __init__(self, parts: FrontEnd, length: int, every: int, smooth: int = 1) -> None:
        self.parts = parts
        self.needed = 1 + (length - parts.window) // parts.hop
        self.step = max(1, round(every / parts.hop))
        if self.step > self.needed:
            raise ValueError(f"{every} samples from one window of {length} to the next leave some unheard")
        self.sound, self.frames = torch.zeros(1, 0), torch.zeros(1, 0)
        self.recent: deque[Tensor] = deque(maxlen=smooth)
        self.start = 0

    def hear(self, chunk: Tensor) -> Iterator[Window]:
        """The windows that are full with this chunk: samples (T,) float32 in -1..1."""
        self.sound = torch.cat([self.sound, chunk.unsqueeze(0)], 1)
        ready = 1 + (self.sound.shape[1] - self.parts.window) // self.parts.hop
        if ready > 0:
            fresh = self.parts.frames(self.sound[:, : self.parts.window + (ready - 1) * self.parts.hop])
            self.frames = torch.cat([self.frames, fresh], -1) if self.frames.numel() else fresh
            self.sound = self.sound[:, ready * self.parts.hop :]
        while self.frames.shape[-1] >= self.needed:
            logits = self.parts.network(self.frames[..., : self.needed])[0]
            self.recent.append(torch.softmax(logits, 0))
            yield Window(self.start, torch.stack(list(self.recent)).mean(0))
            self.frames = self.frames[..., self.step :]
            self.start += self.step * self.parts.hop


def parts_of(model: Path, run: Predict) -> FrontEnd:
    """A model in two; where its file cannot be cut, samples are the frames and `run` is the network."""
    return split_front_end(model) or FrontEnd(1, 1, lambda samples: samples, lambda samples: one_output(run(samples)))


def hear(bundle: Bundle, source: str, every: float, smooth: int, top: int = 3) -> Iterator[StreamPrediction]:
    """A bundle's predictions of a stream, from the first full window on.

    Args:
        source: a WAV or FLAC file; "-" is the standard input, one channel of raw int16 (little endian) at the
            model's rate.
        every: seconds from one window to the next. smooth: as for `Stream`.

    Raises:
        UserError: the model does not hear, `every` is not positive or longer than a window, the file is missing or
            does not decode, or the sound ends before the first window is full.
    """
    audio = bundle.sound()
    if bundle.decoding != "softmax":
        task = bundle.about.get("task")
        raise UserError(f"{bundle.folder}: streams are heard for one class, but the task of this model is {task}")
    rate, length = audio.rate, audio.shape[0]
    if not 0 < every * rate <= length:
        raise UserError(f"every = {every:g} s; give a positive time of at most a window, {length / rate:g} s")
    stream = Stream(parts_of(bundle.model, bundle.run), length, round(every * rate), smooth)
    heard, is_full = 0, False
    for chunk in _chunks(source, rate, max(1, round(every * rate))):
        heard += len(chunk)
        for start, probabilities in stream.hear(bundle.normalize(torch.from_numpy(chunk.copy()))):
            is_full = True
            yield StreamPrediction(start / rate, (start + length) / rate, bundle.likeliest(probabilities, top))
    if not is_full:
        raise UserError(
            f"{source}: the sound ends after {heard / rate:.2f} s, before the first window of {length / rate:g} s is"
            " full; without --stream a short clip is predicted with silence around it"
        )


def write_down(bundle: Bundle, source: str, every: float) -> Iterator[StreamText]:
    """What each chunk of a stream adds to its text, and at last what the silence behind it adds; see `written_on`.

    Args:
        source: as for `hear`. every: seconds of a chunk.

    Raises:
        UserError: the model writes no texts, its bundle gives no length of a frame or its window is too short, `every`
            is not positive, the file is missing or does not decode.
    """
    audio = bundle.sound()
    if not bundle.writes_texts:
        raise UserError(f"{bundle.folder}: this model writes no texts; its task is {bundle.about.get('task')}")
    if not 0 < every < math.inf:
        raise UserError(f"every = {every:g} s; give a positive time")
    chunks = _chunks(source, audio.rate, max(1, round(every * audio.rate)))
    try:
        yield from map(StreamText._make, runner.written_down(bundle.run_arrays, bundle.about, chunks))
    except runner.Refused as error:
        raise UserError(f"{bundle.folder}: {error}") from error


def text_of_clip(bundle: Bundle, source: str) -> str:
    """The text of a clip of any length. Raises UserError as `write_down`."""
    return runner.whole_text([part.text for part in write_down(bundle, source, bundle.sound().seconds)], bundle.about)


def _chunks(source: str, rate: int, size: int) -> Iterator[np.ndarray]:
    """int16 samples, `size` at a time."""
    if source != "-":
        samples = resampled(read_sound(Path(source)), rate)
        yield from (samples[start : start + size] for start in range(0, len(samples), size))
        return
    while block := sys.stdin.buffer.read(2 * size):
        yield np.frombuffer(block[: len(block) // 2 * 2], "<i2")
