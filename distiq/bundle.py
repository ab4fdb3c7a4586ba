"""The bundle: what goes to the device. Model file, preprocessing, labels, test vectors, card.

model.onnx           the file, or that of another runtime (model.xml with model.bin, .tflite, .pte, .pt2)
run.py               checks, answers and times the file with numpy and its runtime alone
preprocessing.json   how pixels, sound or the columns of a row become its input, and what its outputs mean
tokenizer.json       of texts: how they are cut into tokens
vectors.safetensors  inputs and the outputs that this file gave where it was made
card.json, CARD.md   what it is, what it was made from, how it was measured, hashes
"""

import importlib.resources
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distiq import runner
from distiq.data.audio import conversions, read_sound, remarks, resampled, windows
from distiq.data.columns import read_columns
from distiq.data.images import read_image
from distiq.data.splits import Data
from distiq.data.tables import Encoding
from distiq.data.text import TextEncoder, bitmap
from distiq.errors import UserError
from distiq.files import save_tensors, sha256_of_file, write_atomically
from distiq.ledger import replace_folder
from distiq.recipe import AudioSettings
from distiq.records import FLOAT32, NOUNS, Kind, RegressionRecord, RunRecord, TrialRecord
from distiq.runner import RAW, Check, fitted
from distiq.runtimes.export import Predict, files_of, integer_io, load, pair_sums
from distiq.runtimes.litert import IntegerTensor

PREPROCESSING, VECTORS, CARD = "preprocessing.json", "vectors.safetensors", "card.json"
TOKENIZER, RUNNER = "tokenizer.json", "run.py"
VECTOR_COUNT = 32
EXAMPLES = {"image": "image.png", "audio": "clip.wav", "text": '"a text"', "table": "rows.csv"}


class Prediction(NamedTuple):
    """An answer: class name and its probability."""

    label: str
    probability: float


class Prepared(NamedTuple):
    """Inputs (B, ...) as the model wants them, and sentences about what was changed, missing or unknown."""

    inputs: Tensor
    notes: tuple[str, ...] = ()


class Heard(NamedTuple):
    """What was heard in a window of a long clip: its begin and end in seconds, the likeliest classes."""

    start_s: float
    end_s: float
    answers: list[Prediction]


def write_bundle(
    target: Path, model: Path, run: RunRecord, trial: TrialRecord, data: Data, kept: Sequence[int] = ()
) -> None:
    """Writes the bundle beside `target`, then puts it in its place in one step.

    Args:
        kept: of a model with a trimmed vocabulary, the tokens that it knows.
    """
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for part in files_of(model):
        write_atomically(partial / part.name, part.read_bytes())
    count = min(VECTOR_COUNT, len(data.test))
    samples = data.test.take(torch.arange(count) * len(data.test) // count)  # a folder's samples are sorted by class
    inputs = data.normalize(samples.inputs)
    outputs = load(partial / model.name)(inputs)
    vectors = {"inputs": inputs, "outputs": outputs, "labels": samples.labels}
    if data.kind in RAW:
        vectors[RAW[data.kind]] = samples.inputs
    save_tensors(vectors, partial / VECTORS)
    fixed = run.comparison.fixed_lengths.get(trial.deployed.cost.file) if trial.deployed.cost else None
    _write_json(partial / PREPROCESSING, _preprocessing(data, kept, fixed))
    write_atomically(partial / RUNNER, (importlib.resources.files("distiq") / "runner.py").read_bytes())
    names = [*(part.name for part in files_of(model)), PREPROCESSING, VECTORS, RUNNER]
    if "text" in data.preparation:
        write_atomically(partial / TOKENIZER, data.preparation["text"]["tokenizer"].encode())
        names.append(TOKENIZER)
    files = {name: sha256_of_file(partial / name) for name in names}
    certificate, ends = "" if trial.rung == FLOAT32 else pair_sums(model), integer_io(model)
    grids = {name: end._asdict() for name, end in ends.items()}
    facts = {"model": model.name, "pair_sums": certificate, "integer_io": grids}
    _write_json(partial / CARD, {**facts, **_card(run, trial, files)})
    is_pair = data.preparation.get("text", {}).get("pair", False)
    write_atomically(partial / "CARD.md", _card_text(run, trial, files, certificate, ends, is_pair).encode())
    replace_folder(partial, target)


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def _preprocessing(data: Data, kept: Sequence[int], fixed_length: int | None) -> dict[str, object]:
    output = "logits; the largest is the answer, softmax gives probabilities"
    if data.several_labels:
        output = "logits; those above 0 are the answer, the logistic function gives probabilities"
    if data.regression:
        output = "a number, in standard deviations (std) from the mean of `target`: the answer is mean + std * output"
    answers = {
        "kind": data.kind,
        "shape": list(data.sample_shape),
        "labels": list(data.classes),
        "raw": str(data.train.inputs.dtype).removeprefix("torch."),
        "several_labels": data.several_labels,
        "output": output,
        **({"target": data.target._asdict()} if data.regression else {}),
    }
    if "text" in data.preparation:
        known = {name: value for name, value in data.preparation["text"].items() if name != "tokenizer"}
        if kept:
            known["kept"] = bitmap(kept, known["vocabulary"])
        if fixed_length:
            known["fixed_length"] = fixed_length
        return answers | {"text": known}
    if data.kind == "audio":
        return answers | {
            "rate": data.rate,
            "channels": "one; several are averaged",
            "window": "a shorter clip stands in the middle of silence, of a longer one the middle is heard",
            "divide_by": 32768 if data.train.inputs.dtype == torch.int16 else 1,
        }
    if data.kind != "image":
        return answers | data.preparation
    channels, is_ready = data.sample_shape[0], data.as_pixels
    return answers | {
        "layout": "CHW",
        "color": "grey" if channels == 1 else "rgb",
        "divide_by": 255 if data.train.inputs.dtype == torch.uint8 and not is_ready else 1,
        "mean": [0.0] * channels if is_ready else list(data.mean),
        "std": [1.0] * channels if is_ready else list(data.std),
        "type": "uint8" if is_ready else "float32",
        "resize": "bilinear",
    }


def _card(run: RunRecord, trial: TrialRecord, files: dict[str, str]) -> dict[str, object]:
    cost = trial.deployed.cost
    tuning = run.comparison.tuning.get(cost.file) if cost else None
    setting: dict[str, object] = {"threads": cost.at_batch(1).threads if cost else 1, "options": {}}
    if tuning:
        setting = tuning.setting.model_dump(include={"threads", "options"})
    return {
        "name": run.name,
        "created": run.created,
        "setting": setting,
        "runtime": cost.runtime if cost else "",
        "scheme": trial.scheme,
        "rung": trial.rung,
        "made_from": {
            "student": run.student.model,
            "teacher": f"{run.teacher.model} ({run.teacher.origin})",
            "data": run.data.model_dump(mode="json"),
            "recipe": run.recipe_toml,
            "command": run.command,
            "code_version": run.code_version,
        },
        "measured": trial.deployed.model_dump(mode="json"),
        "agreement_with_simulation": trial.agreement,
        "float_operations": list(trial.float_operations),
        "runtimes": [entry.model_dump(mode="json") for entry in trial.runtimes],
        "environment": run.environment.model_dump(mode="json"),
        "sha256": files,
    }


def _card_text(
    run: RunRecord,
    trial: TrialRecord,
    files: dict[str, str],
    pair_sums: str,
    ends: Mapping[str, IntegerTensor],
    is_pair: bool = False,
) -> str:
    test, cost = trial.deployed.test, trial.deployed.cost
    assert cost is not None
    low, high = (100 * end for end in test.interval)
    latency = cost.at_batch(1)
    versions = ", ".join(f"{name} {version}" for name, version in run.environment.versions.items())
    teacher = run.teacher.column("float32").test.quality
    by_length = "".join(
        f"\n| latency, {entry.tokens} tokens | {entry.files[cost.file].p50_ms:.3f} ms |"
        for entry in run.comparison.lengths
        if cost.file in entry.files
    )
    facts = [f"Sums of two 8-bit products are {pair_sums}."] if pair_sums else []
    if fixed := run.comparison.fixed_lengths.get(cost.file):
        facts.append(f"The file takes texts of {fixed} tokens alone; shorter ones are padded.")
    noun, example = NOUNS[run.data.kind], EXAMPLES[run.data.kind]
    example += ' "another text"' if is_pair else ""
    quality = f"{100 * test.quality:.2f} % (95 % interval {low:.2f} to {high:.2f})"
    names, agrees = ", ".join(run.data.classes), f"{100 * trial.agreement:.2f} % of the test {noun}"
    answers = f"{len(run.data.classes)} classes:\n{names}"
    rows = ""
    if isinstance(test, RegressionRecord):
        answers, agrees = f"a number: {names}", f"to 1/255 of its span on {agrees}"
        span = " to ".join(f"{end:.4g}" for end in test.rmse_interval)
        rows = f"\n| root mean squared error | {test.rmse:.4g} (95 % interval {span}) |"
    return (
        f"""# {run.name}

{run.student.model}, {trial.scheme}, for {cost.runtime}. Answers {answers}.

| measured on the file | |
|---|---|
| {run.data.measure}, {test.samples} test {noun} | {quality} |{rows}
| teacher ({run.teacher.model}) | {100 * teacher:.2f} % |
| size | {cost.size_bytes:,} bytes |
| latency, batch 1, {latency.threads} thread(s) | {latency.p50_ms:.3f} ms (p95 {latency.p95_ms:.3f}) |{by_length}
| agrees with the simulated graph | {agrees} |

{run.verdict.sentence}

Measured on {run.environment.cpu} ({", ".join(run.environment.instruction_sets)}) with {versions}.
{" ".join(facts)}
{_said_of(ends)}Trained on {run.data.source}: {run.data.train} {noun}. Made with `{run.command}`, {run.created}.

`distiq check .` replays the test vectors on another machine; `distiq predict . {example}` answers a sample.
Without distiq, `python run.py` checks, answers and times the file; it needs numpy and {cost.runtime} alone.

"""
        + "\n".join(f"- {name}: sha256 {value}" for name, value in files.items())
        + "\n"
    )


def _said_of(ends: Mapping[str, IntegerTensor]) -> str:
    """A line about the ends of a file that are of integers."""
    grids = "; ".join(f"{name} with scale {end.scale:.9g}, zero point {end.zero_point}" for name, end in ends.items())
    return f"Of int8, for (integer - zero point) * scale: {grids}.\n" if grids else ""


class Bundle:
    """An opened bundle.

    Args:
        threads: of the runtime; by default those of the card.

    Raises:
        UserError: a file is missing, or differs from what the card says.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.folder = Path(folder)
        card = self._json(CARD)
        hashes = card.get("sha256") if isinstance(card, dict) else None
        model = card.get("model", "model.onnx") if isinstance(card, dict) else ""
        if not isinstance(hashes, dict) or not {model, PREPROCESSING, VECTORS} <= hashes.keys():
            raise UserError(f"{self.folder / CARD}: damaged (it lacks the files' checksums); make the bundle again")
        for name, expected in hashes.items():
            file = self.folder / name
            if not file.is_file():
                raise UserError(f"{file}: missing; this bundle is not whole, make it again with distiq run")
            if sha256_of_file(file) != expected:
                raise UserError(f"{file}: damaged or changed (its SHA-256 is not the card's); make the bundle again")
        self.card, self.preprocessing = card, self._json(PREPROCESSING)
        self.model = self.folder / model
        setting = card.get("setting") or {}
        self.threads: int = threads or setting.get("threads", 1)
        self.run: Predict = load(self.model, self.threads, setting.get("options"))

    def _json(self, name: str) -> dict:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; {self.folder} is no distiq bundle (runs/<name>/bundle is one)")
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); make the bundle again") from error

    def normalize(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels or (B, T) int16 samples -> the model's input."""
        return torch.from_numpy(runner.normalized(pixels.numpy(), self._about))

    @property
    def _about(self) -> dict:
        return {"kind": self.kind, **self.preprocessing}

    @property
    def kind(self) -> Kind:
        """What the model reads: "image", "audio", "text" or "table"."""
        return self.preprocessing.get("kind", "image")

    @property
    def audio(self) -> AudioSettings:
        """Rate and window that the model of clips expects."""
        rate = self.preprocessing["rate"]
        return AudioSettings(rate=rate, seconds=self.preprocessing["shape"][0] / rate)

    @property
    def pair(self) -> bool:
        """Whether the model reads two texts together."""
        return self.preprocessing.get("text", {}).get("pair", False)

    def prepare(self, sample: Path | str, second: str = "") -> Prepared:
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
        if self.kind in RAW and self.preprocessing.get("raw") == "float32":
            raise UserError(
                f"{self.folder}: this model was made from float32 {NOUNS[self.kind]}, which files do not hold; it"
                " answers prepared inputs alone (`distiq.bundle.Bundle.answer`)"
            )
        match self.kind:
            case "image":
                channels, height, width = self.preprocessing["shape"]
                return Prepared(self.normalize(read_image(Path(sample), (channels, height, width)).unsqueeze(0)))
            case "audio":
                sound = read_sound(Path(sample))
                clip = fitted(resampled(sound, self.audio.rate), self.preprocessing["shape"][0])
                return Prepared(self.normalize(torch.from_numpy(clip.copy()).unsqueeze(0)), remarks(sound, self.audio))
            case "table" if "table" in self.preprocessing:
                encoding = Encoding.from_json(self.preprocessing["table"])
                rows = read_columns(Path(sample), encoding.columns)
                if not rows[encoding.columns[0]]:
                    raise UserError(f"{sample}: holds no row")
                return Prepared(*encoding.encode(rows, str(sample)))
            case "text" if "text" in self.preprocessing:
                tokenizer = (self.folder / TOKENIZER).read_text(encoding="utf-8")
                known = self.preprocessing["text"]
                encoder = TextEncoder(tokenizer, known["length"], known.get("kept", ""), self.pair)
                to_longest, seconds = "fixed_length" not in known, [second] if self.pair else []
                numbers, notes = encoder.encode([str(sample)], "the text", to_longest, seconds)
                if os.path.isfile(sample):
                    notes = (
                        f"{sample}: a file is called so, but its name is what was read; give texts themselves",
                        *notes,
                    )
                return Prepared(numbers, notes)
            case kind:
                raise UserError(f"{self.folder}: this bundle cannot read raw {NOUNS[kind]}; it answers prepared inputs")

    def answer(self, inputs: Tensor, top: int = 3) -> list[list[Prediction]]:
        """The likeliest classes of each input (B, ...), likeliest first.

        Raises:
            UserError: the model answers a number.
        """
        if self.regression:
            raise UserError(f"{self.folder}: this model answers a number, no classes; ask `numbers` for it")
        return [self.likeliest(probabilities, top) for probabilities in self.probabilities(self.run(inputs))]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, classes): of one class a sample the softmax; of several labels each one's own."""
        return torch.sigmoid(logits) if self.preprocessing.get("several_labels") else torch.softmax(logits, 1)

    def predict(self, sample: Path | str, top: int = 3, second: str = "") -> list[Prediction]:
        """The likeliest classes of a sample, likeliest first; of a file of several rows, of its first.

        Raises:
            UserError: as `prepare` and `answer`.
        """
        return self.answer(self.prepare(sample, second).inputs[:1], top)[0]

    @property
    def regression(self) -> bool:
        """Whether the model answers a number in place of classes."""
        return "target" in self.preprocessing

    def numbers(self, inputs: Tensor) -> Tensor:
        """What the model answers to each input (B, ...), in the unit of the data, (B,).

        Raises:
            UserError: the model answers classes.
        """
        if not self.regression:
            raise UserError(f"{self.folder}: this model answers classes, no number; ask `answer` for them")
        target = self.preprocessing["target"]
        return target["mean"] + target["std"] * self.run(inputs)[:, 0]

    def require_sound(self) -> None:
        """Raises UserError unless the model hears."""
        if self.kind != "audio":
            raise UserError(
                f"{self.folder}: this model reads {NOUNS[self.kind]}; windows in time are for models of sound"
            )

    def conversions(self, file: Path) -> tuple[str, ...]:
        """What is done to a sound of any length before it is heard window by window, in words.

        Raises:
            UserError: the model does not hear, or the file is missing or does not decode.
        """
        self.require_sound()
        return conversions(read_sound(file), self.audio)

    def listen(self, file: Path, every: float, top: int = 3) -> Iterator[Heard]:
        """Answers a long clip window after window, as a microphone's stream would be.

        Args:
            every: seconds from one window to the next.

        Raises:
            UserError: the model does not hear, `every` is not positive, the file is missing or does not decode.
        """
        self.require_sound()
        rate, length = self.audio.rate, self.preprocessing["shape"][0]
        if not 0 < every < math.inf:
            raise UserError(f"every = {every:g} s; give a positive time from one window to the next")
        samples = resampled(read_sound(file), rate)
        for start, window in windows(samples, length, max(1, round(every * rate))):
            inputs = self.normalize(torch.from_numpy(window.copy()).unsqueeze(0))
            yield Heard(start / rate, (start + length) / rate, self.answer(inputs, top)[0])

    def likeliest(self, probabilities: Tensor, top: int) -> list[Prediction]:
        """The likeliest classes by their probabilities (classes,), likeliest first."""
        best = probabilities.topk(min(top, len(probabilities)))
        return [
            Prediction(self.preprocessing["labels"][index], value)
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def vectors(self) -> dict[str, Tensor]:
        """The test vectors: "inputs" (N, ...), "outputs" (N, classes), "labels" (N,), raw samples where there are some.

        Raises:
            UserError: they cannot be read.
        """
        try:
            return load_file(self.folder / VECTORS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.folder / VECTORS}: damaged ({error}); make the bundle again") from error

    def check(self) -> Check:
        """Replays the test vectors here.

        Another processor may round sums of float differently, which moves a logit by a step or two of its grid: a
        difference of 2 % of the logits' span (`runner.ALLOWED`) is allowed, a changed answer is not. A number has
        changed where it differs by more.

        Raises:
            UserError: the vectors cannot be read, or the file does not run on them.
        """
        vectors = {name: tensor.numpy() for name, tensor in self.vectors().items()}
        try:
            return runner.check(lambda inputs: self.run(torch.from_numpy(inputs)).numpy(), vectors, self._about)
        except runner.Refused as error:
            raise UserError(f"{self.folder}: {error}") from error
