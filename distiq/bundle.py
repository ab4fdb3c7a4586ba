"""The bundle: what goes to the device. Model file, preprocessing, labels, test vectors, card.

model.onnx           the file, or that of another runtime (model.xml with model.bin, .tflite, .pte, .pt2)
preprocessing.json   how pixels become its input, and what its outputs mean
vectors.safetensors  inputs and the outputs that this file gave where it was made
card.json, CARD.md   what it is, what it was made from, how it was measured, hashes
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distiq.data.images import read_image
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.files import save_tensors, sha256_of_file, write_atomically
from distiq.ledger import replace_folder
from distiq.records import RunRecord, TrialRecord
from distiq.runtimes.export import Predict, files_of, load, pair_sums

PREPROCESSING, VECTORS, CARD = "preprocessing.json", "vectors.safetensors", "card.json"
VECTOR_COUNT = 32


class Prediction(NamedTuple):
    """An answer: class name and its softmax probability."""

    label: str
    probability: float


class Check(NamedTuple):
    """What replaying the test vectors showed: answers that changed, the largest difference of a logit."""

    vectors: int
    changed: int
    largest_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.changed == 0 and self.largest_difference <= self.tolerance


def write_bundle(target: Path, model: Path, run: RunRecord, trial: TrialRecord, data: Data) -> None:
    """Writes the bundle beside `target`, then puts it in its place in one step."""
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for part in files_of(model):
        write_atomically(partial / part.name, part.read_bytes())
    samples = data.test.take(slice(VECTOR_COUNT))
    inputs = data.normalize(samples.inputs)
    outputs = load(partial / model.name)(inputs)
    vectors = {"inputs": inputs, "outputs": outputs, "pixels": samples.inputs, "labels": samples.labels}
    save_tensors(vectors, partial / VECTORS)
    _write_json(partial / PREPROCESSING, _preprocessing(data))
    names = (*(part.name for part in files_of(model)), PREPROCESSING, VECTORS)
    files = {name: sha256_of_file(partial / name) for name in names}
    _write_json(partial / CARD, {"model": model.name, "pair_sums": pair_sums(model), **_card(run, trial, files)})
    write_atomically(partial / "CARD.md", _card_text(run, trial, files, pair_sums(model)).encode())
    replace_folder(partial, target)


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def _preprocessing(data: Data) -> dict[str, object]:
    return {
        "shape": list(data.sample_shape),
        "layout": "CHW",
        "color": "grey" if data.sample_shape[0] == 1 else "rgb",
        "divide_by": 255 if data.train.inputs.dtype == torch.uint8 else 1,
        "mean": list(data.mean),
        "std": list(data.std),
        "resize": "bilinear",
        "labels": list(data.classes),
        "output": "logits; the largest is the answer, softmax gives probabilities",
    }


def _card(run: RunRecord, trial: TrialRecord, files: dict[str, str]) -> dict[str, object]:
    return {
        "name": run.name,
        "created": run.created,
        "runtime": trial.deployed.cost.runtime if trial.deployed.cost else "",
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


def _card_text(run: RunRecord, trial: TrialRecord, files: dict[str, str], pair_sums: str) -> str:
    test, cost = trial.deployed.test, trial.deployed.cost
    assert cost is not None
    low, high = (100 * end for end in test.interval)
    latency = cost.at_batch(1)
    versions = ", ".join(f"{name} {version}" for name, version in run.environment.versions.items())
    teacher = run.teacher.column("float32").test.top1
    return (
        f"""# {run.name}

{run.student.model}, {trial.scheme}, for {cost.runtime}. Answers {len(run.data.classes)} classes:
{", ".join(run.data.classes)}.

| measured on the file | |
|---|---|
| accuracy, {test.samples} test images | {100 * test.top1:.2f} % (95 % interval {low:.2f} to {high:.2f}) |
| teacher ({run.teacher.model}) | {100 * teacher:.2f} % |
| size | {cost.size_bytes:,} bytes |
| latency, batch 1, {latency.threads} thread(s) | {latency.p50_ms:.3f} ms (p95 {latency.p95_ms:.3f}) |
| agrees with the simulated graph | {100 * trial.agreement:.2f} % of the test images |

Measured on {run.environment.cpu} ({", ".join(run.environment.instruction_sets)}) with {versions}.
{f"Sums of two 8-bit products are {pair_sums}." if pair_sums else ""}
Trained on {run.data.source}: {run.data.train} images. Made with `{run.command}`, {run.created}.

`distiq check .` replays the test vectors on another machine; `distiq predict . image.png` answers an image.

"""
        + "\n".join(f"- {name}: sha256 {value}" for name, value in files.items())
        + "\n"
    )


class Bundle:
    """An opened bundle.

    Raises:
        UserError: a file is missing, or differs from what the card says.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
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
        self.run: Predict = load(self.folder / model, threads)

    def _json(self, name: str) -> dict:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; {self.folder} is no distiq bundle (runs/<name>/bundle is one)")
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); make the bundle again") from error

    def normalize(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels -> the model's float32 input."""
        mean, std = (torch.tensor(self.preprocessing[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        return (pixels.float() / self.preprocessing["divide_by"] - mean) / std

    def predict(self, image: Path, top: int = 3) -> list[Prediction]:
        """The likeliest classes of an image file, likeliest first.

        Raises:
            UserError: the file is missing or does not decode.
        """
        channels, height, width = self.preprocessing["shape"]
        pixels = read_image(image, (channels, height, width)).unsqueeze(0)
        probabilities = torch.softmax(self.run(self.normalize(pixels))[0], 0)
        best = probabilities.topk(min(top, len(probabilities)))
        return [
            Prediction(self.preprocessing["labels"][index], value)
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def check(self) -> Check:
        """Replays the test vectors here.

        Another processor may round sums of float differently, which moves a logit by a step or two of its grid: a
        difference of 2 % of the logits' span is allowed, a changed answer is not.

        Raises:
            UserError: the vectors cannot be read.
        """
        try:
            vectors = load_file(self.folder / VECTORS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.folder / VECTORS}: damaged ({error}); make the bundle again") from error
        expected = vectors["outputs"]
        found = self.run(vectors["inputs"])
        return Check(
            vectors=len(expected),
            changed=int((found.argmax(1) != expected.argmax(1)).sum()),
            largest_difference=float((found - expected).abs().max()),
            tolerance=0.02 * float(expected.max() - expected.min()),
        )
