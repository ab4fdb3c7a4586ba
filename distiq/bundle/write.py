"""Writes a bundle: model file, preprocessing, labels, test vectors, card."""

import importlib.resources
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from distiq.bundle.card import _card, _card_text
from distiq.bundle.hub import front_matter
from distiq.bundle.open import CARD, PREPROCESSING, RUNNER, TOKENIZER, VECTOR_COUNT, VECTORS
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.data.tokenizer import bitmap
from distiq.files import make_folder, replace_folder, save_tensors, sha256_of_file, write_atomically
from distiq.models.signature import Signature, Tensors, type_name
from distiq.records.run import RunRecord
from distiq.records.trials import FLOAT32, TrialRecord
from distiq.runtimes.export import files_of, load, pair_sums, runtime_of
from distiq.tasks.choose import task_of
from distiq.tasks.task import Decoding

OUTPUTS: dict[Decoding, str] = {
    "softmax": "logits; the largest is the prediction, softmax gives probabilities",
    "sigmoid": "logits; those above 0 are the prediction, the logistic function gives probabilities",
    "number": "a number, in standard deviations (std) from the mean of `target`: the prediction is mean + std * output",
    "spans": "logits (labels, tokens); the largest is the tag of a token, those of the words' first tokens write down"
    " spans; padding has zeros",
    "mask": "logits (classes, H, W); the largest at a pixel is its class",
    "boxes": "by stride, classes_8: logits, and boxes_8: softplus gives the distances of a position's centre to the"
    " left, upper, right and lower side, in strides; or both in one, corners in pixels before logits; see objects_in in"
    " run.py",
    "transcript": "logits (labels, frames); the largest of each frame, repeats merged, without blanks (the first),"
    " is the text",
    "vector": "a vector of length 1",
    "none": "what the task's own code decodes",
}

README, WEB = "README.md", "web"
MODELS = ("model.onnx", "model.onnx.data", "model.xml", "model.bin", "model.tflite", "model.pte", "model.pt2",
          "model.c", "model.h", "vectors.h", "main.c", "Makefile", "CMakeLists.txt", "qemu.c", "qemu.ld")  # fmt: skip
OWN = (*MODELS, WEB, CARD, README, "CARD.md", PREPROCESSING, RUNNER, TOKENIZER, VECTORS, ".*.partial")
"""The names of a bundle's files; whatever else lies in the folder is somebody's and stays there."""


def write_bundle(
    target: Path,
    model: Path,
    run: RunRecord,
    trial: TrialRecord,
    data: Data,
    kept: Sequence[int] = (),
    frame: int = 0,
    page: Path | None = None,
) -> None:
    """Writes the bundle beside `target`, then puts it in its place in one step.

    Args:
        kept: of a model with a trimmed vocabulary, the tokens that it knows.
        frame: of a model that writes for every frame of sound, the samples from one to the next; see `frame_samples`.
        page: a finished folder `web`; see `write_web`.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    fixed = run.comparison.fixed_lengths.get(trial.deployed.cost.file) if trial.deployed.cost else None
    files = write_parts(partial, model, data, kept, fixed, frame)
    certificate, signature = "" if trial.rung == FLOAT32 else pair_sums(model), runtime_of(model).signature(model)
    integers = integer_io(signature)
    facts = {"model": model.name, "pair_sums": certificate, "signature": signature.to_json(), "integer_io": integers}
    _write_json(partial / CARD, {**facts, **_card(run, trial, files)})
    card = _card_text(run, trial, files, certificate, integers, data.preprocessing.pair)
    write_atomically(partial / README, (front_matter(run, trial, task_of(data).decoding) + card).encode())
    if page is not None:
        shutil.copytree(page, partial / WEB)
    replace_folder(partial, target, OWN)


def write_parts(
    folder: Path,
    model: Path,
    data: Data,
    kept: Sequence[int] = (),
    fixed_length: int | None = None,
    frame: int = 0,
) -> dict[str, str]:
    """Writes all of a bundle but its card; returns the SHA-256 of each file.

    Args:
        kept: of a model with a trimmed vocabulary, the tokens that it knows.
        fixed_length: of texts, the one length in tokens that the file takes.
        frame: as for `write_bundle`.
    """
    make_folder(folder)
    for part in files_of(model):
        write_atomically(folder / part.name, part.read_bytes())
    samples = data.test.drawn(VECTOR_COUNT)
    inputs = data.normalize(samples.inputs)
    outputs = load(folder / model.name)(inputs)
    write_beside = runtime_of(model).write_beside
    beside = write_beside(folder / model.name, inputs, outputs) if write_beside else ()
    vectors = {**_named("inputs", inputs), **_named("outputs", outputs), "labels": samples.labels}
    if name := data.preprocessing.raw_name:
        vectors[name] = samples.inputs
    save_tensors(vectors, folder / VECTORS)
    about = _preprocessing(data, kept, fixed_length) | ({"frame": frame} if frame else {})
    if tokenizer := about.get("tokenizer", ""):
        write_atomically(folder / TOKENIZER, tokenizer.encode())
        about["tokenizer"] = TOKENIZER
    _write_json(folder / PREPROCESSING, about)
    write_atomically(folder / RUNNER, (importlib.resources.files("distiq") / "device" / "run.py").read_bytes())
    names = [*(part.name for part in (*files_of(model), *beside)), PREPROCESSING, VECTORS, RUNNER]
    if tokenizer:
        names.append(TOKENIZER)
    return {name: sha256_of_file(folder / name) for name in names}


def integer_io(signature: Signature) -> dict[str, dict[str, object]]:
    """How the inputs and outputs of a file are quantized that take or give int8, by "input" and "output" or by name."""
    sides = (("input", signature.inputs), ("output", signature.outputs))
    return {
        side if len(specs) == 1 else spec.name: {"type": type_name(spec.dtype), **spec.quantization._asdict()}
        for side, specs in sides
        for spec in specs
        if spec.quantization
    }


def _named(side: str, tensors: Tensors) -> dict[str, Tensor]:
    """Test vectors of one side: by its name alone, or several as "inputs.NAME"."""
    if isinstance(tensors, Tensor):
        return {side: tensors}
    return {f"{side}.{name}": one for name, one in tensors.items()}


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def _preprocessing(data: Data, kept: Sequence[int], fixed_length: int | None) -> dict[str, Any]:
    preprocessing, task = data.preprocessing, task_of(data)
    if isinstance(preprocessing, Text):
        bits = bitmap(kept, preprocessing.vocabulary) if kept else ""
        preprocessing = replace(preprocessing, kept=bits, fixed_length=fixed_length or 0)
    return {
        **preprocessing.to_json(),
        "labels": list(data.classes),
        "task": task.name,
        "decoding": task.decoding,
        "output": OUTPUTS[task.decoding],
        **({"target": data.target._asdict()} if task.decoding == "number" else {}),
    }
