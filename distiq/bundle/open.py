"""The bundle: what goes to the device. Model file, preprocessing, labels, test vectors, card.

model.onnx           the file, or that of another runtime (model.xml with model.bin, model.c with model.h, ...)
run.py               checks, predicts and times: it needs numpy and the file's runtime alone
preprocessing.json   how pixels, sound or the columns of a row become its input, and what its outputs mean
tokenizer.json       of texts: how they are cut into tokens
vectors.safetensors  inputs and the outputs that this file gave where it was made
card.json, README.md   what it is, what it was made from, how it was measured, hashes
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distiq.data.audio import Audio, conversions
from distiq.data.preprocessing import from_json
from distiq.data.samples import Encoded
from distiq.data.sound import read_sound, resampled, windows
from distiq.device import run as runner
from distiq.device.run import Check
from distiq.errors import UserError
from distiq.files import sha256_of_file, standing
from distiq.models.signature import Predict, Tensors, one_output
from distiq.records.record import NOUNS
from distiq.runtimes.export import load

PREPROCESSING, VECTORS, CARD = "preprocessing.json", "vectors.safetensors", "card.json"


TOKENIZER, RUNNER = "tokenizer.json", "run.py"
VECTOR_COUNT = 32
EXAMPLES = {"image": "image.png", "audio": "clip.wav", "text": '"a text"', "table": "rows.csv"}


class Prediction(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float


class StreamPrediction(NamedTuple):
    """What was heard in a window of a long clip: its begin and end in seconds, the likeliest classes."""

    start_s: float
    end_s: float
    classes: list[Prediction]


class Bundle:
    """An opened bundle.

    Args:
        threads: of the runtime; by default those of the card.

    Raises:
        UserError: a file is missing, or differs from what the card says.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.folder = standing(Path(folder))
        card = self._json(CARD)
        try:
            hashes = runner.checksums_of(card, self.folder)
            own_threads, options = runner.setting_of(card, self.folder)
        except runner.Refused as error:
            raise UserError(str(error)) from error
        for name, expected in hashes.items():
            file = self.folder / name
            if not file.is_file():
                raise UserError(f"{file}: missing; this bundle is not whole, make it again with distiq run")
            if sha256_of_file(file) != expected:
                raise UserError(f"{file}: damaged or changed (its SHA-256 is not the card's); make the bundle again")
        self.card, self.about = card, self._about()
        self.preprocessing = from_json(self.about | self._tokenizer())
        self.model = self.folder / card["model"]
        self.threads: int = threads or own_threads
        self.run: Predict = load(self.model, self.threads, options)

    def _about(self) -> dict[str, Any]:
        try:
            return runner.read_about(self.folder)
        except runner.Refused as error:
            raise UserError(str(error)) from error

    def _tokenizer(self) -> dict[str, str]:
        """Of texts: the tokenizer itself in the place of its file's name."""
        path = self.folder / TOKENIZER
        try:
            return {"tokenizer": path.read_text(encoding="utf-8")} if self.about.get("tokenizer") else {}
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); make the bundle again") from error

    def _json(self, name: str) -> dict:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; {self.folder} is no distiq bundle (runs/<name>/bundle is one)")
        try:
            return runner.read_json(path)
        except runner.Refused as error:
            raise UserError(str(error)) from error

    def normalize(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels or (B, T) int16 samples -> the model's input."""
        return torch.from_numpy(runner.normalized(pixels.numpy(), self.about))

    @property
    def pair(self) -> bool:
        """Whether the model reads two texts together."""
        return self.preprocessing.pair

    def prepare(self, sample: Path | str, second: str = "") -> Encoded:
        """The model's inputs: of an image, a clip (WAV, FLAC) or a text one, of a file of rows one for each.

        Args:
            second: where the model reads texts in pairs, the second one.

        Raises:
            UserError: the file is missing, does not decode, or its columns are not those of the training; a text is
                empty; a second one is missing, or is given to a model that reads one.
        """
        if bool(second) != self.pair:
            raise UserError(
                f"{self.folder}: this model compares two texts; give both"
                if self.pair
                else f"{self.folder}: this model reads no pairs of texts; give one sample at a time"
            )
        return self.preprocessing.encode(str(sample), str(self.folder), second)

    def classify(self, inputs: Tensor, top: int = 3) -> list[list[Prediction]]:
        """The likeliest classes of each input (B, ...), likeliest first.

        Raises:
            UserError: the model predicts no classes.
        """
        match self.decoding:
            case "softmax" | "sigmoid":
                return self.classes_of(self.run(inputs), top)
            case "number":
                raise UserError(f"{self.folder}: this model predicts a number, not classes; ask `numbers` for it")
            case "boxes" | "mask":
                raise UserError(f"{self.folder}: this model predicts boxes or masks; ask `objects` for them")
            case _:
                raise UserError(
                    f"{self.folder}: what this model gives is decoded by the code of its task"
                    f" ({self.about.get('task')}) alone; ask `run` for its outputs"
                )

    def classes_of(self, outputs: Tensors, top: int = 3) -> list[list[Prediction]]:
        """The likeliest classes that logits (B, classes) say."""
        return [self.likeliest(shares, top) for shares in self.probabilities(one_output(outputs))]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, classes): of one class a sample the softmax; of several labels each one's own."""
        return torch.softmax(logits, 1) if self.decoding == "softmax" else torch.sigmoid(logits)

    @staticmethod
    def vectors_of(outputs: Tensors) -> np.ndarray:
        """One output as an array, such as vectors (B, width)."""
        return one_output(outputs).numpy()

    @property
    def writes_texts(self) -> bool:
        return self.decoding == "transcript"

    @property
    def finds_spans(self) -> bool:
        """Whether the model marks parts of raw texts."""
        return self.decoding == "spans" and bool(self.about.get("tokenizer"))

    def said(self, outputs: Tensors, top: int = 3) -> list[str]:
        """What outputs say of each sample of a batch, in words."""
        try:
            said = runner.decoding_of(self.about).said
        except runner.Refused as error:
            raise UserError(f"{self.folder}: {error}") from error
        joined = self._joined(outputs) if self.decoding == "boxes" else one_output(outputs).numpy()
        return [said(output, self.about, top) for output in joined]

    def search(self, width: int, words: Path | None = None, ngram: Path | None = None) -> runner.Search:
        """How `texts` looks for the best text; see `Search` in run.py.

        Raises:
            UserError: the model writes no texts, or a file is missing or no list of words, or no model of them.
        """
        try:
            return runner.search_of(width, words, ngram, self.about)
        except runner.Refused as error:
            raise UserError(str(error)) from error

    def texts(self, outputs: Tensors, search: runner.Search) -> list[str]:
        """The likeliest text of each sample, over all alignments of its frames, from logits (B, symbols, frames)."""
        labels = self.about["labels"]
        return [runner.spelt(runner.sought(row, labels, search), labels) for row in self.vectors_of(outputs)]

    @staticmethod
    def _joined(outputs: Tensors) -> np.ndarray:
        """A detector's outputs as one array."""
        named = outputs.numpy() if isinstance(outputs, Tensor) else {name: one.numpy() for name, one in outputs.items()}
        return runner.joined_heads(named)

    def objects(self, image: Path | str, draw: Path | None = None) -> list[dict[str, Any]]:
        """What is found in an image file: of a detector each box in the image's pixels with label and score, of a
        segmenter each class with its share of the pixels; see `objects_in` in run.py.

        Args:
            draw: a folder for the image with that drawn, as a PNG of its name.

        Raises:
            UserError: the model finds neither, or the image does not decode.
        """
        if self.decoding not in ("boxes", "mask"):
            raise UserError(f"{self.folder}: this model predicts no boxes and no masks; ask `predict` for what it does")
        path = Path(image)
        output = self._joined(self.run(self.prepare(path).inputs))[0]
        if draw is not None:
            draw.mkdir(parents=True, exist_ok=True)
            runner.drawn(path, output, self.about).save(draw / f"{path.stem}.png")
        return runner.objects_in(output, self.about, runner.image_size(path))

    def spans(self, text: str) -> list[runner.Span]:
        """The spans of a text of any length, with their places in it.

        Raises:
            UserError: the model finds no spans, or cannot read raw texts; the text is empty.
        """
        if not self.finds_spans:
            raise UserError(f"{self.folder}: this model finds no spans in raw texts; ask `run` for its outputs")
        try:
            tokenizer = runner.read_tokenizer(self.folder / TOKENIZER)
            return runner.spans(text, self.run_arrays, self.about, tokenizer)
        except runner.Refused as error:
            raise UserError(f"{self.folder}: {error}") from error

    def predict(self, sample: Path | str, top: int = 3, second: str = "") -> list[Prediction]:
        """The likeliest classes of a sample, likeliest first; of a file of several rows, of its first.

        Raises:
            UserError: as `prepare` and `classify`.
        """
        return self.classify(self.prepare(sample, second).inputs[:1], top)[0]

    @property
    def decoding(self) -> str:
        """What the outputs mean: see `distiq.tasks.task.Decoding`; "none" where only the task's own code knows."""
        return self.about.get("decoding", "")

    def numbers(self, inputs: Tensor) -> Tensor:
        """The number predicted for each input (B, ...), in the unit of the data, (B,).

        Raises:
            UserError: the model predicts classes.
        """
        if self.decoding != "number":
            raise UserError(f"{self.folder}: this model predicts classes, not a number; ask `classify` for them")
        return self.numbers_of(self.run(inputs))

    def numbers_of(self, outputs: Tensors) -> Tensor:
        """What outputs (B, 1) say, in the unit of the data, (B,)."""
        target = self.about["target"]
        return target["mean"] + target["std"] * one_output(outputs)[:, 0]

    def sound(self) -> Audio:
        """How the model hears.

        Raises:
            UserError: it reads something else.
        """
        if not isinstance(self.preprocessing, Audio):
            noun = NOUNS[self.preprocessing.modality]
            raise UserError(f"{self.folder}: this model reads {noun}; windows in time are for models of sound")
        return self.preprocessing

    def conversions(self, file: Path) -> tuple[str, ...]:
        """What is done to a sound of any length before it is heard window by window, in words.

        Raises:
            UserError: the model does not hear, or the file is missing or does not decode.
        """
        return conversions(read_sound(file), self.sound().rate)

    def is_longer(self, file: Path | str) -> bool:
        """Whether a sound is longer than the model's window.

        Raises:
            UserError: the model does not hear, or the file is missing or does not decode.
        """
        sound, audio = read_sound(Path(file)), self.sound()
        return len(sound.samples) / sound.rate > audio.seconds

    def listen(self, file: Path, every: float, top: int = 3) -> Iterator[StreamPrediction]:
        """Classifies a long clip window by window, as a microphone's stream would be.

        Args:
            every: seconds from one window to the next.

        Raises:
            UserError: the model does not hear, `every` is not positive, the file is missing or does not decode.
        """
        audio = self.sound()
        rate, length = audio.rate, audio.shape[0]
        if not 0 < every < math.inf:
            raise UserError(f"every = {every:g} s; give a positive time from one window to the next")
        samples = resampled(read_sound(file), rate)
        for start, window in windows(samples, length, max(1, round(every * rate))):
            inputs = self.normalize(torch.from_numpy(window.copy()).unsqueeze(0))
            yield StreamPrediction(start / rate, (start + length) / rate, self.classify(inputs, top)[0])

    def likeliest(self, probabilities: Tensor, top: int) -> list[Prediction]:
        """The likeliest classes by their probabilities (classes,), likeliest first."""
        best = probabilities.topk(min(top, len(probabilities)))
        return [
            Prediction(self.about["labels"][index], value)
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def vectors(self) -> dict[str, Tensor]:
        """The test vectors: "inputs" (N, ...), "outputs" (N, classes), "labels" (N,), raw samples where there are some.

        Several inputs or outputs are called "inputs.NAME" and "outputs.NAME".

        Raises:
            UserError: they cannot be read.
        """
        try:
            return load_file(self.folder / VECTORS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.folder / VECTORS}: damaged ({error}); make the bundle again") from error

    def inputs(self, count: int) -> Tensors:
        """The first inputs of the test vectors.

        Raises:
            UserError: they cannot be read.
        """
        vectors = self.vectors()
        several = {name.partition(".")[2]: one[:count] for name, one in vectors.items() if name.startswith("inputs.")}
        return several or vectors["inputs"][:count]

    def run_arrays(self, inputs: runner.Arrays) -> runner.Arrays:
        """The model's outputs for inputs (B, ...), both as arrays."""
        given: Tensors = (
            torch.from_numpy(inputs)
            if not isinstance(inputs, dict)
            else {name: torch.from_numpy(array) for name, array in inputs.items()}
        )
        outputs = self.run(given)
        return outputs.numpy() if isinstance(outputs, Tensor) else {name: one.numpy() for name, one in outputs.items()}

    def check(self) -> Check:
        """Replays the test vectors here.

        Another processor may round sums of float differently, which moves a logit by an integer or two: a
        difference of 2 % of the logits' span (`runner.ALLOWED`) is allowed, a changed prediction is not. A number has
        changed where it differs by more.

        Raises:
            UserError: the vectors cannot be read, or the file does not run on them.
        """
        vectors = {name: tensor.numpy() for name, tensor in self.vectors().items()}
        try:
            return runner.check(self.run_arrays, vectors, self.about)
        except runner.Refused as error:
            raise UserError(f"{self.folder}: {error}") from error
