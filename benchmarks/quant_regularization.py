"""Does a term of `[distil.quant_regularization]` help? The same student with and without, paired.

    python benchmarks/quant_regularization.py [recipes/fashion_mnist.toml] [--set data.train=12512] [--seeds 5]
        [--only kurtosis]

Each seed trains the recipe's student with its teacher and each term in turn, with the same starting weights, order and
views, and quantizes it by calibration alone: 8 bits, and weights of 4 bits rounded to the nearest and in closed
form. What counts is float32's accuracy minus the quantized one, against the same of the student without a term (full
test set, simulated integers; intervals over seeds and images). Weights bring a term to 5 to 11 % of the label loss at
the start, none was tuned; a recipe with terms of its own (--set distil.quant_regularization.kurtosis=1.0) has
a row for them, "recipe".
Interrupted, the same command goes on.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from distiq import environment
from distiq.data.splits import Data
from distiq.evaluation.evaluate import outputs
from distiq.evaluation.statistics import paired_interval
from distiq.files import save_tensors, write_atomically
from distiq.numerics import sqnr_db
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.distil import QuantRegularizationSettings
from distiq.recipe.part import changed
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.records.record import Record
from distiq.run.check import check_networks
from distiq.run.ledger import Ledger, Place
from distiq.run.measure import LOGITS
from distiq.run.networks import build_models
from distiq.run.prepare import read_data
from distiq.run.train import TrainedNetwork, train_assistants, train_student, train_teacher
from distiq.tasks.classification import agreement

SCHEMES = {
    "W8A8": Scheme(),
    "W4A8 nearest": Scheme(weight_bits=4),
    "W4A8 closed form": Scheme(weight_bits=4, rounding="gptq"),
}
PLAIN = "plain"
ARMS = {
    PLAIN: QuantRegularizationSettings(),
    "kurtosis": QuantRegularizationSettings(kurtosis=0.1),
    "range": QuantRegularizationSettings(range=0.01),
    "balance": QuantRegularizationSettings(balance=0.3),
    "noise, 8 bits": QuantRegularizationSettings(noise=1.0),
    "noise, 4 bits": QuantRegularizationSettings(noise=1.0, noise_bits=4),
    "all": QuantRegularizationSettings(kurtosis=0.1, range=0.01, balance=0.3, noise=1.0, noise_bits=4),
}
FLOAT32 = "float32"


class Predicted(Record):
    """A step that leaves its network's logits for the test set."""

    top1: float


def predict(place: Place, *, network: TrainedNetwork, data: Data, scheme: Scheme | None) -> Predicted:
    """The step of a student's predictions, in float32 or quantized."""
    model = quantize(network.module, data.normalize(data.calibration.inputs), scheme) if scheme else network.module
    logits = outputs(model, data, data.test)
    save_tensors({"test": logits}, place.folder / LOGITS)
    return Predicted(top1=float((logits.argmax(1) == data.test.labels).double().mean()))


def logits_of(ledger: Ledger, data: Data, student: TrainedNetwork) -> dict[str, torch.Tensor]:
    """A student's logits for the test set, in float32 and quantized by each scheme."""
    found: dict[str, torch.Tensor] = {}
    for name, scheme in {FLOAT32: None, **SCHEMES}.items():
        make = partial(predict, network=student, data=data, scheme=scheme)
        step = ledger.step("quant_regularization", name, Predicted, make)
        ledger.watch.note(f"{name}: {100 * step.record.top1:.2f} %")
        found[name] = load_file(step.folder / LOGITS)["test"]
    return found


def measured(recipe: Recipe, arms: dict[str, QuantRegularizationSettings], seeds: int, run: Path) -> dict[str, dict]:
    """Figures of every arm, by name."""
    with Ledger(run, Lines(Console(), seconds=60)) as ledger:
        data = read_data(recipe, ledger.watch)
        settings = {name: changed(recipe.distil, {"quant_regularization": terms}) for name, terms in arms.items()}
        models = build_models(recipe, data, ledger.watch)
        check_networks(data, models, tuple(settings.values()), ledger.watch)
        teacher = train_teacher(ledger, recipe, data, models.teacher)
        source = train_assistants(ledger, recipe, data, models.assistants, teacher)
        logits: dict[str, dict[str, list[torch.Tensor]]] = {}
        for seed in range(recipe.seed, recipe.seed + seeds):
            for name, distil in settings.items():
                ledger.watch.stage(f"seed {seed}: {name}")
                student = train_student(ledger, recipe, data, models.student, source, teacher, distil, seed)
                for form, of_test in logits_of(ledger, data, student).items():
                    logits.setdefault(name, {}).setdefault(form, []).append(of_test)
    right = {
        name: {
            form: torch.stack([one.argmax(1) == data.test.labels for one in each]).float() for form, each in of.items()
        }
        for name, of in logits.items()
    }
    return {name: figures(logits[name], right[name], right[PLAIN]) for name in arms}


def figures(
    answers: dict[str, list[torch.Tensor]], right: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]
) -> dict:
    """Of one arm: accuracy in float32, and what each scheme takes of it, also against the plain student's."""

    def points(first: torch.Tensor, second: torch.Tensor) -> list[float]:
        return [100 * part for part in paired_interval(first, second)]

    def scheme(form: str) -> dict:
        pairs = list(zip(answers[FLOAT32], answers[form], strict=True))
        return {
            "top1": right[form].mean(1).tolist(),
            "drop_points": points(right[FLOAT32], right[form]),
            # The difference of two drops; below zero the term has helped.
            "drop_against_plain": points(right[FLOAT32] - right[form], plain[FLOAT32] - plain[form]),
            "flips": [1 - agreement(*pair) for pair in pairs],
            "sqnr_db": [sqnr_db(*pair) for pair in pairs],
        }

    against = points(right[FLOAT32], plain[FLOAT32])
    first = {"top1": right[FLOAT32].mean(1).tolist(), "points_against_plain": against}
    return {FLOAT32: first, "schemes": {form: scheme(form) for form in SCHEMES}}


def show(found: dict[str, dict], console: Console) -> None:
    def interval(parts: list[float]) -> str:
        mean, low, high = parts
        return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    table = Table("terms", "float32", "against plain", "scheme", "drop", "drop against plain", "flips", "SQNR")
    for name, of in found.items():
        own = (f"{100 * mean(of[FLOAT32]['top1']):.2f} %", interval(of[FLOAT32]["points_against_plain"]))
        for form, row in of["schemes"].items():
            drops = (interval(row[key]) for key in ("drop_points", "drop_against_plain"))
            closeness = (f"{100 * mean(row['flips']):.2f} %", f"{mean(row['sqnr_db']):.1f} dB")
            table.add_row(name, *own, form, *drops, *closeness)
            name, own = "", ("", "")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/fashion_mnist.toml"))
    parser.add_argument("--set", action="append", default=[], help="change a setting, such as data.train=12512")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], help="terms to try, by their row; all if not given")
    parser.add_argument("--run", type=Path, default=Path("runs/quant_regularization"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quant_regularization.json"))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set)
    arms = ARMS | ({"recipe": recipe.distil.quant_regularization} if recipe.distil.quant_regularization.is_on else {})
    if unknown := set(arguments.only) - arms.keys():
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(arms)}")
    wanted = {name: terms for name, terms in arms.items() if not arguments.only or name in (PLAIN, *arguments.only)}
    found = measured(recipe, wanted, arguments.seeds, arguments.run)
    show(found, Console())
    report = {
        "environment": environment.describe().model_dump(),
        "set": arguments.set,
        "seeds": arguments.seeds,
        "terms": {name: terms.model_dump() for name, terms in wanted.items()},
        "figures": found,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
