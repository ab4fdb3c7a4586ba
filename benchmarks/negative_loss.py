"""Can a student of few bits, taught, beat its float32 self that was not? Quantized trainings, several seeds, paired.

    python benchmarks/negative_loss.py [recipes/fashion_mnist.toml] [--set data.train=12512] [--seeds 5]

Each seed trains the recipe's student without and with its teacher, in float32; quantizes the taught one by
calibration alone (8 bits of weights; 4 and 3 with closed-form rounding) and trains it on there, with the stored
teacher and without (`quantize.training`). Full test set, simulated integers (the records of `distiq run` say that the
files agree). Interrupted, the same command goes on; students of benchmarks/knowledge.py in the run folder serve again.
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
from distiq.progress import Lines
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import QATSettings
from distiq.records.record import Record
from distiq.run.ledger import Ledger, Place
from distiq.run.measure import LOGITS
from distiq.run.networks import Models, build_models
from distiq.run.prepare import read_data
from distiq.run.train import TrainedNetwork, train_assistants, train_student, train_teacher
from distiq.run.trial import Lesson, train_on

SCHEMES = {
    "W8A8": Scheme(),
    "W4A8": Scheme(weight_bits=4, rounding="gptq"),
    "W3A8": Scheme(weight_bits=3, rounding="gptq"),
}
UNTAUGHT = "float32, no teacher"
TAUGHT = "float32, taught"


class Predicted(Record):
    """A step that leaves its network's logits for the test set."""

    top1: float


def predict(
    place: Place,
    *,
    network: TrainedNetwork,
    data: Data,
    scheme: Scheme | None,
    source: TrainedNetwork | None = None,
    distillation: DistilSettings | None = None,
    training: QATSettings | None = None,
    views: ViewSettings | None = None,
    learn_ranges: bool = False,
    seed: int = 0,
) -> Predicted:
    """The step of a student's predictions: in float32, quantized by the scheme, or trained on quantized."""
    model = network.module
    if scheme is not None:
        quantized = quantize(model, data.normalize(data.calibration.inputs), scheme)
        if distillation is not None and training is not None and views is not None:
            lesson = Lesson(source, distillation, training, 0.0, views, learn_ranges)
            train_on(place, quantized, lesson, data, seed)
        model = quantized
    logits = outputs(model, data, data.test)
    save_tensors({"test": logits}, place.folder / LOGITS)
    return Predicted(top1=float((logits.argmax(1) == data.test.labels).double().mean()))


def correct_of(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    models: Models,
    teacher: TrainedNetwork,
    source: TrainedNetwork,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Whether each network of a seed is right, for each image of the test set, by name."""
    alone, taught = recipe.distil.without_teacher(), recipe.distil
    learn = partial(train_student, ledger, recipe, data, models.student, source, teacher)
    untaught_student, student = learn(alone, seed), learn(taught, seed)
    plain = partial(predict, network=student, data=data)
    ways = {UNTAUGHT: partial(plain, network=untaught_student, scheme=None), TAUGHT: partial(plain, scheme=None)}
    for name, scheme in SCHEMES.items():
        trained = partial(plain, scheme=scheme, training=recipe.quantize.training, views=recipe.views, seed=seed)
        ways |= {
            f"{name}, calibrated": partial(plain, scheme=scheme),
            f"{name}, trained, no teacher": partial(trained, distillation=alone),
            f"{name}, trained, taught": partial(trained, source=source, distillation=taught.for_qat()),
        }
    correct: dict[str, torch.Tensor] = {}
    for name, make in ways.items():
        step = ledger.step("quantized", f"seed {seed}: {name}", Predicted, make)
        ledger.watch.note(f"seed {seed}, {name}: {100 * step.record.top1:.2f} %")
        correct[name] = load_file(step.folder / LOGITS)["test"].argmax(1) == data.test.labels
    return correct


def measured(recipe: Recipe, seeds: int, run: Path) -> dict[str, torch.Tensor]:
    """Boolean masks (seeds, samples) of correct predictions, by name."""
    with Ledger(run, Lines(Console(), seconds=60)) as ledger:
        data = read_data(recipe, ledger.watch)
        models = build_models(recipe, data, ledger.watch)
        teacher = train_teacher(ledger, recipe, data, models.teacher)
        source = train_assistants(ledger, recipe, data, models.assistants, teacher)
        last = recipe.seed + seeds
        rows = [correct_of(ledger, recipe, data, models, teacher, source, seed) for seed in range(recipe.seed, last)]
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
