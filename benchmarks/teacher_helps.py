"""Does the teacher help? The recipe's student with and without it, same steps, several seeds, paired.

    python benchmarks/teacher_helps.py recipes/fashion_mnist.toml [--seeds 5] [--run runs/teacher_helps]

One teacher (the recipe's, seed 0) serves all seeds; the seed changes the student's weights, the order and the views.
Float32 students, full test set, last epoch. Interrupted, it goes on where it was. The interval is Student's t, 95 %,
of the paired differences.
"""

import argparse
import json
import math
import statistics
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
from distiq.evaluation.evaluate import evaluate
from distiq.files import save_tensors, write_atomically
from distiq.ledger import CHECKPOINT, Ledger
from distiq.models.build import build
from distiq.progress import Lines
from distiq.recipe import load_recipe
from distiq.records import AccuracyRecord

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
CODE = ("training.py", "data", "models", "distillation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(T_95))
    parser.add_argument("--run", type=Path, default=Path("runs/teacher_helps"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/teacher_helps.json"))
    arguments = parser.parse_args()
    environment.keep_freed_memory()
    recipe = load_recipe(arguments.recipe)
    data = load_data(recipe.data, recipe.seed)
    classes, shape = len(data.classes), data.image_shape
    watch = Lines(Console(), seconds=60)
    none = recipe.distil.model_copy(update={"teacher": "none", "hints": (), "attention": ()})

    def trained(role: str, seed: int, teacher: LiveTeacher | CachedTeacher | None, folder: Path) -> AccuracyRecord:
        settings = getattr(recipe, role)
        watch.stage(f"{role}, seed {seed}, {'without' if teacher is None else 'with'} teacher")
        torch.manual_seed(seed)
        model = build(settings, classes, shape, role)
        distillation = none if teacher is None else recipe.distil
        model, _ = distil(
            model, teacher, data, distillation, settings.training,
            views=recipe.views, seed=seed, stage=role, checkpoint=folder / CHECKPOINT, watch=watch,
        )  # fmt: skip
        save_tensors(model.state_dict(), folder / "w.safetensors")
        record = evaluate(model, data)
        watch.note(f"{100 * record.top1:.2f} % of the test set")
        return record

    inputs = {"recipe": recipe.model_dump(mode="json", exclude={"quantize", "budget", "measure", "name"})}
    rows: dict[str, list[float]] = {"without": [], "with": []}
    with Ledger(arguments.run) as ledger:
        step = ledger.step(
            "teacher", inputs, CODE, AccuracyRecord, lambda to: trained("teacher", recipe.seed, None, to)
        )
        model = build(
            recipe.teacher.model_copy(update={"weights": str(step.folder / "w.safetensors")}), classes, shape, "teacher"
        )
        pairs = (*recipe.distil.hints, *recipe.distil.attention)
        live = LiveTeacher(model, [pair.teacher for pair in pairs])
        for seed in range(arguments.seeds):
            views = Views(recipe.views, seed)
            cached = CachedTeacher(live, data, views, arguments.run / f"cache-{step.key}-{seed}", f"{step.key} {seed}")
            teachers = {"without": None, "with": cached if recipe.distil.teacher == "cached" else live}
            for name, teacher in teachers.items():
                key = {**inputs, "seed": seed, "teacher": step.key if teacher else None}
                made = ledger.step(
                    f"student-{name}-{seed}", key, CODE, AccuracyRecord,
                    lambda to, seed=seed, teacher=teacher: trained("student", seed, teacher, to),
                )  # fmt: skip
                rows[name].append(100 * made.record.top1)
    differences = [one - other for one, other in zip(rows["with"], rows["without"], strict=True)]
    mean = statistics.mean(differences)
    half = T_95[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    verdict = "helps" if mean - half > 0 else "hurts" if mean + half < 0 else "cannot tell"
    table = Table("seed", "without teacher %", "with teacher %", "difference, points")
    for seed, (without, with_) in enumerate(zip(rows["without"], rows["with"], strict=True)):
        table.add_row(str(seed), f"{without:.2f}", f"{with_:.2f}", f"{with_ - without:+.2f}")
    Console().print(table)
    print(
        f"teacher {100 * step.record.top1:.2f} %; difference {mean:+.2f} points, 95 % interval {mean - half:+.2f} to"
        f" {mean + half:+.2f} (n = {len(differences)} seeds): the teacher {verdict}"
    )
    report = {
        "environment": environment.describe().model_dump(),
        "teacher": step.record.top1,
        "with": rows["with"],
        "without": rows["without"],
        "mean": mean,
        "half_interval": half,
        "verdict": verdict,
    }
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
