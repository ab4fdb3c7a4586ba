"""Can a student on narrow grids, taught, beat its float32 self that was not? Trainings on grids, several seeds, paired.

    python benchmarks/negative_loss.py [recipes/fashion_mnist.toml] [--set data.train=12512] [--seeds 5]

Each seed trains the recipe's student without and with its teacher, in float32; puts the taught one on grids by
calibration alone (8 bits of weights; 4 and 3 with closed-form rounding) and trains it on there, with the stored
teacher and without (`quantize.training`). Full test set, simulated grids (that the files agree, the records of `distiq
run` say). Interrupted, the same command goes on; students of benchmarks/knowledge.py in the run folder serve again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import nn

from distiq import environment
from distiq.data.load import load as load_data
from distiq.distillation.distil import output_losses
from distiq.evaluation.evaluate import outputs
from distiq.evaluation.statistics import paired_interval
from distiq.files import save_tensors, write_atomically
from distiq.progress import Lines
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.distil import DistilSettings
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.records.record import Record
from distiq.run.ledger import Ledger, Step
from distiq.run.train import TRAINING_CODE, Networks, Source
from distiq.training.batches import Batch
from distiq.training.fit import Losses

SCHEMES = {
    "W8A8": Scheme(),
    "W4A8": Scheme(weight_bits=4, rounding="gptq"),
    "W3A8": Scheme(weight_bits=3, rounding="gptq"),
}
CODE = (*TRAINING_CODE, "quantization", "evaluation")
UNTAUGHT = "float32, no teacher"
TAUGHT = "float32, taught"


class Answered(Record):
    """A step that leaves its network's answers to the test set."""

    top1: float


def answers_of(networks: Networks, source: Source, seed: int) -> dict[str, torch.Tensor]:
    """Whether each network of a seed is right, for each image of the test set, by name."""
    recipe, data = networks.recipe, networks.data
    settings = recipe.distil
    untaught = networks.student(source, settings.without_teacher(), seed)
    taught = networks.student(source, settings, seed)
    calibration = data.normalize(data.calibration.inputs)
    found: dict[str, torch.Tensor] = {}

    def answered(name: str, basis: Step, inputs: dict, network: Callable[[], nn.Module]) -> None:
        def make(folder: Path) -> Answered:
            answers = outputs(network(), data, data.test)
            save_tensors({"test": answers}, folder / "answers.safetensors")
            return Answered(top1=float((answers.argmax(1) == data.test.labels).double().mean()))

        inputs |= {"network": basis.key, "data": networks.digest}
        step = networks.ledger.step("on-grids", inputs | {"way": name}, CODE, Answered, make)
        networks.watch.note(f"seed {seed}, {name}: {100 * step.record.top1:.2f} %")
        found[name] = load_file(step.folder / "answers.safetensors")["test"].argmax(1) == data.test.labels

    answered(UNTAUGHT, untaught, {}, lambda: networks.load("student", untaught))
    answered(TAUGHT, taught, {}, lambda: networks.load("student", taught))
    for name, scheme in SCHEMES.items():

        def calibrated(scheme: Scheme = scheme) -> nn.Module:
            return quantize(networks.load("student", taught), calibration, scheme)

        def trained(settings: DistilSettings, scheme: Scheme = scheme) -> nn.Module:
            networks.watch.stage(f"seed {seed}: training on grids")
            quantized = quantize(networks.load("student", taught), calibration, scheme)
            teacher = networks.answering(source, settings, seed)

            def losses(logits: torch.Tensor, batch: Batch) -> Losses:
                return output_losses(logits, batch, teacher(batch) if teacher else None, settings)

            train_quantized(
                quantized, losses, data, recipe.quantize.training, views=recipe.views, seed=seed, watch=networks.watch
            )
            return quantized

        training = {"training": recipe.quantize.training.model_dump(), "distil": settings.model_dump()}
        answered(f"{name}, calibrated", taught, {}, calibrated)
        answered(f"{name}, trained, no teacher", taught, dict(training), lambda: trained(settings.without_teacher()))
        answered(f"{name}, trained, taught", taught, dict(training), lambda: trained(settings.for_qat()))
    return found


def measured(recipe: Recipe, seeds: int, run: Path) -> dict[str, torch.Tensor]:
    """(seeds, samples) of right answers, by name."""
    with Ledger(run) as ledger:
        environment.keep_freed_memory()
        networks = Networks(recipe, ledger, load_data(recipe.data, recipe.seed), Lines(Console(), seconds=60))
        source = networks.last_teacher(networks.teacher())
        rows = [answers_of(networks, source, recipe.seed + number) for number in range(seeds)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/fashion_mnist.toml"))
    parser.add_argument("--set", action="append", default=[], help="change a setting, such as data.train=12512")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", type=Path, default=Path("runs/knowledge"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/negative_loss.json"))
    arguments = parser.parse_args()
    right = measured(load_recipe(arguments.recipe, arguments.set), arguments.seeds, arguments.run)
    table = Table("network", "top-1", f"against {UNTAUGHT}", f"against {TAUGHT}")
    rows = {}
    for name, ours in right.items():
        pairs = {other: [100 * part for part in paired_interval(ours, right[other])] for other in (UNTAUGHT, TAUGHT)}
        cells = [f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" for mean, low, high in pairs.values()]
        table.add_row(name, f"{100 * ours.double().mean():.2f} %", *cells)
        rows[name] = {"top1": ours.double().mean(1).tolist(), "points_against": pairs}
    Console().print(table)
    report = {
        "environment": environment.describe().model_dump(),
        "set": arguments.set,
        "seeds": arguments.seeds,
        "samples": next(iter(right.values())).shape[1],
        "networks": rows,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
