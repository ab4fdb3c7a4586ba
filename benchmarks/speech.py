"""Does the teacher help on speakers that nobody has heard? Each speaker of the spoken digits is held out in turn.

    python benchmarks/speech.py [recipes/spoken_digits.toml] [--seeds 5] [--speakers theo,lucas] [--run runs/speech]

For each speaker: a teacher trained on the other five, then the recipe's student with it and without it, the same steps,
several seeds, paired, float32, all 500 clips of the held-out speaker. The speakers' mean differences are summed up
with Student's t over speakers: what is asked is whether another speaker would gain. Interrupted, the same command goes
on. About a minute per training on one core: an hour for six speakers and five seeds.
"""

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distiq import environment
from distiq.ablation import ablate
from distiq.data.audio import DIGIT_SPEAKERS
from distiq.evaluation.compare import T_95
from distiq.files import write_atomically
from distiq.progress import Lines
from distiq.recipe import load_recipe
from distiq.records import AblationRecord


def summed_up(differences: list[float]) -> tuple[float, float, float]:
    """Mean of the speakers' differences and its 95 % interval by Student's t; two speakers or more."""
    mean, count = statistics.mean(differences), len(differences)
    spread = T_95[count - 2] * statistics.stdev(differences) / count**0.5
    return mean, mean - spread, mean + spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/spoken_digits.toml"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speakers", default=",".join(DIGIT_SPEAKERS), help="separated by commas; by default all")
    parser.add_argument("--run", type=Path, default=Path("runs/speech"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speech.json"))
    arguments = parser.parse_args()
    command = f"python benchmarks/speech.py {arguments.recipe} --seeds {arguments.seeds}"
    records: dict[str, AblationRecord] = {}
    for speaker in arguments.speakers.split(","):
        recipe = load_recipe(arguments.recipe, [f'data.audio.held_out=["{speaker}"]'])
        arms = {"no teacher": recipe.distil.without_teacher(), "recipe": recipe.distil}
        records[speaker] = ablate(
            recipe,
            seeds=arguments.seeds,
            arms=arms,
            run=arguments.run / speaker,
            watch=Lines(Console(), seconds=60),
            command=command,
        )
    table = Table("held out", "teacher", "no teacher", "with teacher", "gain, points", "95 % interval", "verdict")
    for speaker, record in records.items():
        means = {arm.name: statistics.mean(arm.top1) for arm in record.arms}
        (pair,) = record.pairs
        low, high = pair.interval_points
        table.add_row(
            speaker,
            f"{100 * record.teacher.top1:.2f} %",
            *(f"{100 * means[arm]:.2f} %" for arm in ("no teacher", "recipe")),
            f"{pair.difference_points:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            pair.verdict,
        )
    Console().print(table)
    report: dict = {
        "command": command,
        "environment": environment.describe().model_dump(),
        "speakers": {speaker: record.model_dump(mode="json") for speaker, record in records.items()},
    }
    if len(records) > 1:
        mean, low, high = summed_up([record.pairs[0].difference_points for record in records.values()])
        report["gain_points"], report["interval_points"] = mean, (low, high)
        print(f"all {len(records)} speakers: {mean:+.2f} points, 95 % interval over speakers {low:+.2f} to {high:+.2f}")
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
