"""Does the teacher help on speakers that nobody has heard? Each speaker of the spoken digits is held out in turn.

    python benchmarks/speech.py [recipes/spoken_digits.toml] [--seeds 5] [--speakers theo,lucas] [--run runs/speech]

For each speaker: a teacher trained on the other five, then the recipe's student with it and without it: the same steps,
weights, order and views in each seed, float32, all 500 clips of the held-out speaker. A pair is a speaker and a seed.

Two intervals of the mean gain, both Student's t. Over speakers: would another speaker gain? Their means are what
varies, for all seeds of a speaker share the teacher and the clips; pairs taken for independent ones would make the
interval too narrow. Over seeds: do these speakers gain with other seeds? Only what seeds differ in within a speaker
counts.

Every training is a step that is kept: interrupted, the same command goes on. The JSON file is written after every
speaker. By the CPU time of a few steps 65 minutes on one core for six speakers and five seeds.
"""

import argparse
import json
import math
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from distiq import environment
from distiq.commands.ablate import ablate
from distiq.data.audio import DIGIT_SPEAKERS
from distiq.evaluation.statistics import quantile
from distiq.files import write_atomically
from distiq.progress import Lines
from distiq.recipe.read import load_recipe
from distiq.records.ablation import AblationRecord

Interval = tuple[float, float]


def over_speakers(gains: Sequence[Sequence[float]]) -> Interval:
    """95 % interval of the mean of the speakers' mean gains: Student's t over two speakers or more."""
    means = [statistics.mean(each) for each in gains]
    half = quantile(len(means) - 1) * statistics.stdev(means) / math.sqrt(len(means))
    return statistics.mean(means) - half, statistics.mean(means) + half


def over_seeds(gains: Sequence[Sequence[float]]) -> Interval:
    """The same for these speakers alone: Student's t of what the seeds of each differ in, as many seeds for each."""
    count, seeds = len(gains), len(gains[0])
    variance = statistics.mean(statistics.variance(each) for each in gains)
    half = quantile(count * (seeds - 1)) * math.sqrt(variance / (count * seeds))
    mean = statistics.mean(statistics.mean(each) for each in gains)
    return mean - half, mean + half


def summary(records: Mapping[str, AblationRecord]) -> dict:
    """Every pair's gain, their mean and both intervals, in points; None for what needs more of them."""
    gains = {speaker: record.pairs[0].per_seed_points for speaker, record in records.items()}
    pairs = list(gains.values())
    return {
        "gains_points": gains,
        "mean_points": statistics.mean(statistics.mean(each) for each in pairs),
        "over_speakers_points": over_speakers(pairs) if len(pairs) > 1 else None,
        "over_seeds_points": over_seeds(pairs) if len(pairs[0]) > 1 else None,
    }


def markdown(records: Mapping[str, AblationRecord]) -> str:
    lines = [
        "| held out | teacher | no teacher | with teacher | gain, points (each seed) | 95 % interval | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for speaker, record in records.items():
        means = {arm.name: statistics.mean(arm.values) for arm in record.arms}
        (pair,) = record.pairs
        each = ", ".join(f"{points:+.1f}" for points in pair.per_seed_points)
        lines.append(
            f"| {speaker} | {100 * record.teacher.value:.2f} % | {100 * means['no teacher']:.2f} %"
            f" | {100 * means['recipe']:.2f} % | {pair.difference_points:+.2f} ({each})"
            f" | {_written(pair.interval_points)} | {pair.verdict} |"
        )
    found = summary(records)
    teacher = statistics.mean(record.teacher.value for record in records.values())
    arms = [
        statistics.mean(statistics.mean(record.arms[number].values) for record in records.values()) for number in (0, 1)
    ]
    low, high = found["over_speakers_points"] or (0.0, 0.0)
    verdict = "helps" if low > 0 else "hurts" if high < 0 else "cannot tell"
    lines.append(
        f"| **mean of {len(records)}** | {100 * teacher:.2f} % | {100 * arms[0]:.2f} % | {100 * arms[1]:.2f} %"
        f" | **{found['mean_points']:+.2f}** | over speakers {_written(found['over_speakers_points'])};"
        f" over seeds {_written(found['over_seeds_points'])} | {verdict} |"
    )
    return "\n".join(lines)


def _written(interval: Interval | None) -> str:
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/spoken_digits.toml"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speakers", default=",".join(DIGIT_SPEAKERS), help="separated by commas; by default all")
    parser.add_argument("--run", type=Path, default=Path("runs/speech"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speech.json"))
    parser.add_argument("--set", action="append", default=[], help="override a key of the recipe, as of distiq run")
    arguments = parser.parse_args()
    command = shlex.join(["python", *sys.argv])
    records: dict[str, AblationRecord] = {}
    for speaker in arguments.speakers.split(","):
        recipe = load_recipe(arguments.recipe, [f'data.audio.held_out=["{speaker}"]', *arguments.set])
        records[speaker] = ablate(
            recipe,
            seeds=arguments.seeds,
            arms={"no teacher": recipe.distil.without_teacher(), "recipe": recipe.distil},
            run=arguments.run / speaker,
            watch=Lines(Console(), seconds=60),
            command=command,
        )
        report = {
            "command": command,
            "environment": environment.describe().model_dump(),
            "seconds": sum(record.seconds for record in records.values()),
            **summary(records),
            "speakers": {name: record.model_dump(mode="json") for name, record in records.items()},
        }
        write_atomically(arguments.out, json.dumps(report, indent=1).encode())
    print(markdown(records))


if __name__ == "__main__":
    main()
