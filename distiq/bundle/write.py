"""Writes a bundle: model file, preprocessing, labels, test vectors, card."""

import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from distiq.bundle.card import _card, _card_text
from distiq.bundle.open import CARD, PREPROCESSING, RUNNER, TOKENIZER, VECTOR_COUNT, VECTORS
from distiq.data.splits import Data
from distiq.data.text import bitmap
from distiq.device.run import RAW
from distiq.files import replace_folder, save_tensors, sha256_of_file, write_atomically
from distiq.records.run import RunRecord
from distiq.records.trials import FLOAT32, TrialRecord
from distiq.runtimes.export import files_of, integer_io, load, pair_sums


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
    write_atomically(partial / RUNNER, (importlib.resources.files("distiq") / "device" / "run.py").read_bytes())
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
    if data.multi_label:
        output = "logits; those above 0 are the answer, the logistic function gives probabilities"
    if data.regression:
        output = "a number, in standard deviations (std) from the mean of `target`: the answer is mean + std * output"
    answers = {
        "kind": data.kind,
        "shape": list(data.sample_shape),
        "labels": list(data.classes),
        "raw": str(data.train.inputs.dtype).removeprefix("torch."),
        "multi_label": data.multi_label,
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
    channels, is_ready = data.sample_shape[0], data.as_uint8
    return answers | {
        "layout": "CHW",
        "color": "grey" if channels == 1 else "rgb",
        "divide_by": 255 if data.train.inputs.dtype == torch.uint8 and not is_ready else 1,
        "mean": [0.0] * channels if is_ready else list(data.mean),
        "std": [1.0] * channels if is_ready else list(data.std),
        "type": "uint8" if is_ready else "float32",
        "resize": "bilinear",
    }
