"""A ResNet of few bits: calibrated, and trained on quantized with its float32 self as the teacher.

    python benchmarks/low_bits.py [--run runs/fashion_mnist] [--schemes W2A8,W4A4] [--set quantize.training.epochs=3]
        [--out benchmarks/results/low_bits.json]

The network is the teacher of `fashion_mnist`, from the run folder or trained there (`--set teacher.weights=FILE` takes
one that is). Closed-form rounding of the weights; quantization-aware training then learns all scales, those of
activations too. Full test set, simulated integers; no runtime computes activations of 4 bits.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from negative_loss import Predicted, predict
from rich.console import Console
from safetensors.torch import load_file

from distiq import environment
from distiq.evaluation.statistics import paired_interval
from distiq.files import write_atomically
from distiq.progress import Lines
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import load_recipe
from distiq.run.ledger import Ledger
from distiq.run.measure import LOGITS
from distiq.run.networks import build_network
from distiq.run.prepare import read_data
from distiq.run.train import train_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--schemes", default="W2A8,W4A4", help="bits of the weights and of the activations")
    parser.add_argument("--set", action="append", default=["quantize.training.epochs=3"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/low_bits.json"))
    arguments = parser.parse_args()
    recipe = load_recipe("fashion_mnist", arguments.set)
    right: dict[str, torch.Tensor] = {}
    with Ledger(arguments.run, Lines(Console())) as ledger:
        data = read_data(recipe, ledger)
        teacher = train_teacher(ledger, recipe, data, build_network(recipe, data, "teacher", watch=ledger.watch))
        plain = partial(predict, network=teacher, data=data)
        ways = {"float32": partial(plain, scheme=None)}
        taught = {"source": teacher, "distillation": recipe.distil.for_qat(), "views": recipe.views}
        for name in arguments.schemes.split(","):
            weight, activation = map(int, name.removeprefix("W").split("A"))
            scheme = Scheme(weight_bits=weight, activation_bits=activation, rounding="gptq")  # type: ignore[arg-type]
            ways[f"{name}, calibrated"] = partial(plain, scheme=scheme)
            ways[f"{name}, trained"] = partial(
                plain, scheme=scheme, training=recipe.quantize.training, learn_ranges=True, **taught
            )
        for name, make in ways.items():
            step = ledger.step("quantized", name, Predicted, make)
            ledger.watch.note(f"{name}: {100 * step.record.top1:.2f} %")
            right[name] = load_file(step.folder / LOGITS)["test"].argmax(1) == data.test.labels
    rows = {}
    for name, own in right.items():
        against = [100 * part for part in paired_interval(own.unsqueeze(0), right["float32"].unsqueeze(0))]
        rows[name] = {"top1": float(own.double().mean()), "points_against_float32": against}
    report = {"environment": environment.describe().model_dump(), "set": arguments.set, "networks": rows}
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
