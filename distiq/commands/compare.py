"""compare(): several runs side by side: quality, size, time, and where their recipes differ."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from distiq.data.load import load
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.evaluation.paired import paired_drop
from distiq.recipe.read import read_recipe
from distiq.records.comparison import ComparedRun, PairedRecord, RunsRecord
from distiq.records.run import RunRecord
from distiq.records.trials import FLOAT32
from distiq.report.reading import chosen_trial, median_ms, read_run
from distiq.run.measure import LOGITS
from distiq.run.prepare import with_task
from distiq.tasks.choose import task_of

WITHOUT_MEANING = {"name", "track"}  # keys that do not affect what a run does


def compare(folders: Sequence[Path]) -> RunsRecord:
    """Reads the runs; each is paired with the first if both have the same test set and that can be read here.

    Raises:
        UserError: fewer than two runs, or a run's record is missing or damaged.
    """
    if len(folders) < 2:
        raise UserError(f"distiq compare: {len(folders)} run is given; name two or more")
    runs = [read_run(folder / "records") for folder in folders]
    data, why = _data_of(runs[0])
    reference = _outputs(folders[0], runs[0])
    rows = []
    for folder, run in zip(folders, runs, strict=True):
        paired, reason = None, ""
        if run is not runs[0]:
            reason = why or _unlike(runs[0], run)
            own = None if reason else _outputs(folder, run)
            if data is not None and own is not None and reference is not None and not reason:
                paired = _paired(data, own, reference)
            reason = reason or ("" if paired else "its step's outputs are gone")
        rows.append(_row(folder, run, paired, reason))
    return RunsRecord(runs=tuple(rows), differing=differing([run.recipe_toml for run in runs]))


def _row(folder: Path, run: RunRecord, paired: PairedRecord | None, reason: str) -> ComparedRun:
    quality, cost = (delivered := chosen_trial(run).deployed).test, delivered.cost
    assert cost is not None
    return ComparedRun(
        folder=str(folder),
        name=run.name,
        created=run.created,
        machine=f"{run.environment.cpu}, {run.environment.cores} cores",
        model=run.student.model,
        delivered=run.verdict.chosen,
        runtime=cost.runtime,
        teacher=run.teacher.column("float32").test.primary,
        test=quality.primary,
        samples=quality.samples,
        size_bytes=cost.size_bytes,
        latency_ms=median_ms(run, cost),
        met=run.verdict.met,
        digest=run.data.digest,
        paired=paired,
        unpaired=reason,
    )


def _data_of(run: RunRecord) -> tuple[Data | None, str]:
    """The first run's data, which holds the right answers; or None and the reason why it is missing."""
    recipe = read_recipe(run.recipe_toml.encode(), run.name)
    if recipe.code():
        return None, "its recipe runs code, which is not run here"
    try:
        return with_task(load(recipe.data, recipe.seed), recipe.task), ""
    except UserError as error:
        return None, f"its data cannot be read here ({error})"


def _unlike(first: RunRecord, other: RunRecord) -> str:
    if first.task.name != other.task.name:
        return f"another task ({other.task.name})"
    return "" if first.data.digest == other.data.digest else "other data"


def _outputs(folder: Path, run: RunRecord) -> Tensor | None:
    """What the delivered file gave for the test set, kept in its step."""
    name = "student-float32" if run.verdict.chosen == FLOAT32 else f"trial-{run.verdict.chosen}"
    file = folder / "steps" / run.steps.get(name, "none") / LOGITS
    return load_file(file)["test"] if file.is_file() else None


def _paired(data: Data, own: Tensor, reference: Tensor) -> PairedRecord:
    task, targets = task_of(data), data.test.labels
    worse, low, high = paired_drop(task, task.score(own, targets).primary, reference, own, targets)
    return PairedRecord(difference=-worse, interval=(-high, -low))


def differing(recipes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The keys of recipes (TOML) whose values are not the same in all, with each one's value as JSON.

    A key that a recipe leaves out has its default; the value is empty if the recipe is from another version of distiq.
    """
    flat = [dict(_flat(_resolved(recipe), "")) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: tuple(one.get(key, "") for one in flat) for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def _resolved(recipe: str) -> dict[str, Any]:
    try:
        tree = read_recipe(recipe.encode(), "recipe.toml").model_dump(mode="json")
    except UserError:
        tree = tomllib.loads(recipe)
    return {key: value for key, value in tree.items() if key not in WITHOUT_MEANING}


def _flat(tree: dict[str, Any], before: str) -> list[tuple[str, str]]:
    rows = []
    for key, value in tree.items():
        if isinstance(value, dict) and key != "options":
            rows += _flat(value, f"{before}{key}.")
        else:
            rows.append((f"{before}{key}", json.dumps(value)))
    return rows
