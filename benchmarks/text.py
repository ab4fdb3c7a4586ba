"""A text recipe over several seeds: its teacher, its student with the teacher and without it, its int8 file.

    python benchmarks/text.py recipes/sst2.toml --set data.folder=FOLDER [--seeds 3] [--runs runs/text]

Every seed trains its own teacher and makes the recipe's whole run; then the same student is trained without the
teacher: the same steps, order and views, cut from the encoder that the teacher was before it was fine-tuned. All
accuracies are of the full test set, after the last epoch; float32 is measured in PyTorch, int8 in the delivered file.
Means stand with Student's interval over seeds.

Interrupted, the same command goes on; the JSON file is written after every seed.
"""

import argparse
import json
import math
import shlex
import statistics
import sys
from pathlib import Path

from rich.console import Console

from distiq import environment
from distiq.commands.ablate import ablate
from distiq.commands.compress import compress
from distiq.evaluation.statistics import quantile
from distiq.files import write_atomically
from distiq.progress import Lines
from distiq.recipe.read import load_recipe
from distiq.records.ablation import AblationRecord
from distiq.records.run import RunRecord
from distiq.report.reading import chosen_trial, columns_of

Figures = dict[str, float]
SHOWN = {
    "teacher": "teacher, %",
    "untaught": "student without it, %",
    "taught": "student with it, %",
    "int8": "int8 file, %",
    "kept": "of the teacher, %",
    "gain": "gain by the teacher, points",
    "smaller": "times smaller",
    "faster": "times faster",
    "agreement": "deployed = simulated, %",
    "minutes": "minutes",
}


def figures(run: RunRecord, ablation: AblationRecord) -> Figures:
    """What one seed gives; files and times against the teacher's float32 file, timed side by side in the run."""
    arms = {arm.name: 100 * arm.values[0] for arm in ablation.arms}
    trial, files = chosen_trial(run), run.comparison.files  # batch 1 stands first
    teacher = next(column.cost for column in columns_of(run, run.teacher) if column.cost)
    delivered = trial.deployed.cost
    teacher, best = 100 * ablation.teacher.value, 100 * trial.deployed.test.value
    return {
        "teacher": teacher,
        "untaught": arms["no teacher"],
        "taught": arms["recipe"],
        "int8": best,
        "kept": 100 * best / teacher,
        "gain": arms["recipe"] - arms["no teacher"],
        "smaller": teacher.size_bytes / delivered.size_bytes,
        "faster": files[teacher.file][0].p50_ms / files[delivered.file][0].p50_ms,
        "agreement": 100 * trial.agreement,
        "minutes": run.seconds / 60,
    }


def mean(values: list[float]) -> str:
    """The mean and, of two values or more, Student's 95 % interval."""
    middle = statistics.mean(values)
    if len(values) == 1:
        return f"{middle:.2f}"
    half = quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{middle:.2f} ({middle - half:.2f} to {middle + half:.2f})"


def table(seeds: dict[int, Figures]) -> str:
    lines = [
        f"| | {' | '.join(f'seed {seed}' for seed in seeds)} | mean (95 % interval) |",
        "|---" * (len(seeds) + 2) + "|",
    ]
    for name, title in SHOWN.items():
        values = [found[name] for found in seeds.values()]
        lines.append(f"| {title} | {' | '.join(f'{value:.2f}' for value in values)} | {mean(values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/text"))
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/<name of the recipe>.json")
    parser.add_argument("--set", action="append", default=[], help="override a key of the recipe, as of distiq run")
    arguments = parser.parse_args()
    command, watch = shlex.join(["python", *sys.argv]), Lines(Console(), seconds=60)
    seeds: dict[int, Figures] = {}
    for seed in range(arguments.seeds):
        recipe = load_recipe(arguments.recipe, [*arguments.set, f"seed={seed}"])
        folder = arguments.runs / f"{recipe.name}-{seed}"
        run = compress(recipe, run=folder, watch=watch, command=command)
        arms = {"no teacher": recipe.distil.without_teacher(), "recipe": recipe.distil}
        seeds[seed] = figures(run, ablate(recipe, seeds=1, arms=arms, run=folder, watch=watch, command=command))
        report = {"command": command, "environment": environment.describe().model_dump(), "seeds": seeds}
        out = arguments.out or Path("benchmarks/results") / f"{recipe.name}.json"
        write_atomically(out, json.dumps(report, indent=1).encode())
    print(table(seeds))


if __name__ == "__main__":
    main()
