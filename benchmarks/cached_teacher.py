"""What a teacher costs: epochs without one, with a stored one, and with one that runs at every step.

    python benchmarks/cached_teacher.py [recipes/fashion_mnist.toml] [--images 6400] [--rounds 9]

The recipe's student and an untrained teacher of the recipe's shape (its answers' values do not change the time); the
same samples, views and loader. One epoch of each in turn, another first in each of the `rounds`, after one round that
fills the store and warms up; medians, and the median of the rounds' own ratios.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.distil import distil
from distiq.distillation.teacher import LiveTeacher
from distiq.files import write_atomically
from distiq.models.build import build
from distiq.recipe.read import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/fashion_mnist.toml"))
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cached_teacher.json"))
    arguments = parser.parse_args()
    environment.keep_freed_memory()
    recipe = load_recipe(
        arguments.recipe,
        [
            f"data.train={arguments.images + recipe_rest(arguments.recipe)}",
            "student.training.epochs=1",
            "views.distinct=1",
        ],
    )
    data = load_data(recipe.data, recipe.seed)
    example, classes = data.example, len(data.classes)
    live = LiveTeacher(build(recipe.teacher, classes, example, "teacher"))
    student = build(recipe.student, classes, example, "student")
    seconds: dict[str, list[float]] = {"no teacher": [], "stored": [], "live": []}
    with tempfile.TemporaryDirectory() as folder:
        stored = CachedTeacher(live, data, Views(recipe.views, recipe.seed), Path(folder), "benchmark")
        ways = {"no teacher": None, "stored": stored, "live": live}
        for number in range(arguments.rounds + 1):
            for name in list(ways)[number % 3 :] + list(ways)[: number % 3]:  # none always after the same other
                teacher = ways[name]
                settings = recipe.distil if teacher else recipe.distil.without_teacher()
                _, record = distil(
                    student, teacher, data, settings, recipe.student.training, views=recipe.views, validate=False
                )
                if number:
                    seconds[name].append(record.seconds)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    table = Table("epoch", "median s", "against no teacher")
    ratios = {}
    for name, times in seconds.items():
        ratios[name] = statistics.median(a / b for a, b in zip(times, seconds["no teacher"], strict=True))
        table.add_row(name, f"{statistics.median(times):.3f}", f"{ratios[name]:.3f}")
    Console().print(table)
    per_view = size / len(data.train)
    threads = torch.get_num_threads()
    print(f"{len(data.train)} images, {arguments.rounds} rounds, {threads} threads; {per_view:.1f} bytes a view")
    report = {
        "environment": environment.describe().model_dump(),
        "images": len(data.train),
        "seconds": seconds,
        "ratios": ratios,
        "bytes_per_view": per_view,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


def recipe_rest(path: Path) -> int:
    """Images that validation and calibration take away."""
    data = load_recipe(path).data
    return data.validation + data.calibration


if __name__ == "__main__":
    main()
