"""A ResNet with weights of 4, 3 and 2 bits: calibrated, and trained on quantized with its float32 self as the teacher.

    python benchmarks/low_bits.py [--run runs/fashion_mnist] [--bits 2,3,4] [--set quantize.training.epochs=3]
        [--out benchmarks/results/low_bits.json]

The network is the teacher of `fashion_mnist`, from the run folder or trained there. Full test set, simulated integers.
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
    parser.add_argument("--bits", default="2,3,4")
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
        for bits in map(int, arguments.bits.split(",")):
            scheme = Scheme(weight_bits=bits, rounding="gptq")  # type: ignore[arg-type]
            taught = {"source": teacher, "distillation": recipe.distil.for_qat(), "views": recipe.views}
            ways[f"W{bits}A8, calibrated"] = partial(plain, scheme=scheme)
            ways[f"W{bits}A8, trained"] = partial(plain, scheme=scheme, training=recipe.quantize.training, **taught)
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
