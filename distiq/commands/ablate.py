"""ablate(recipe): did the teacher help? The same student and steps with and without, over several seeds."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from distiq import environment
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.evaluation.evaluate import outputs
from distiq.evaluation.paired import figures, gain, has_figures
from distiq.evaluation.statistics import mcnemar
from distiq.files import save_tensors
from distiq.progress import Silent, Watch
from distiq.recipe.distil import DistilSettings
from distiq.recipe.part import changed
from distiq.recipe.recipe import Recipe, to_toml
from distiq.records.ablation import AblationRecord, ArmRecord, PairRecord
from distiq.records.quality import Metric, Quality
from distiq.records.record import Record
from distiq.run.check import check_networks, check_training
from distiq.run.ledger import Ledger, Place, Step
from distiq.run.measure import LOGITS
from distiq.run.networks import Models, build_models
from distiq.run.prepare import read_data
from distiq.run.tracking import Tracking
from distiq.run.train import TrainedNetwork, basis_of, train_assistants, train_student, train_teacher
from distiq.tasks.choose import task_of
from distiq.tasks.score import score
from distiq.tasks.task import Task
from distiq.training import processes


class Predicted(Record):
    """The record of a step that leaves a network's logits for the test set."""

    test: Quality


def arms_of(settings: DistilSettings) -> dict[str, DistilSettings]:
    """What is compared: no teacher, its outputs alone (plain distillation), the recipe's losses where they differ."""
    plain = DistilSettings()
    weights = {} if settings.kd_weight else {"kd_weight": plain.kd_weight, "task_weight": plain.task_weight}
    logits = changed(settings, {"losses": (), **weights})
    arms = {"no teacher": settings.without_teacher(), "outputs alone": logits}
    return arms if logits == settings else {**arms, "recipe": settings}


def ablate(
    recipe: Recipe,
    *,
    seeds: int = 3,
    arms: Mapping[str, DistilSettings] | None = None,
    run: Path | None = None,
    watch: Watch | None = None,
    command: str = "distiq.ablate(recipe)",
    recipe_file: Path | None = None,
) -> AblationRecord:
    """Trains the recipe's student without its teacher, with the teacher's outputs, and with all losses of the recipe.

    Every arm has the same steps, and the same weights, order and views in each seed; float32 students are compared on
    the full test set after the last epoch. One teacher serves all. An interrupted ablation resumes where it
    stopped; a teacher that `compress` left in the run folder is used again.

    Args:
        seeds: how many; the recipe's own is the first.
        arms: what is compared, by name, "no teacher" first; by default `arms_of` the recipe. Each is compared with
            "no teacher" and, where there is such an arm, with "outputs alone".
        run: the run folder; by default runs/<name>.
        recipe_file: as for `compress`.

    Raises:
        UserError: the recipe or the data is refused, or the recipe has no teacher.
    """
    if recipe.distil.teacher == "none":
        raise UserError('distil.teacher = "none": there is no teacher to compare with; set it to "cached" or "live"')
    folder = run or Path("runs") / recipe.name
    tracking = Tracking(recipe, folder, command, watch or Silent(), "ablate")
    with Ledger(folder, tracking, recipe_file, chosen=run is not None, follower=tracking) as ledger, tracking:
        data = read_data(recipe, ledger)
        tracking.read(data)
        if not has_figures(task := task_of(data)):
            raise UserError(
                f"distiq ablate compares what is counted of each sample, which {task.name} does not have; run the"
                ' recipe with --set distil.teacher="none" in a run folder of its own, and compare the metrics'
            )
        arms = arms or arms_of(recipe.distil)
        if len(arms) < 2 or "no teacher" not in arms:
            raise UserError(f'arms: {", ".join(arms)}; give "no teacher" and at least one more')
        check_training(recipe, data)
        models = build_models(recipe, data, ledger.watch)
        check_networks(data, models, tuple(arms.values()), ledger.watch)
        teacher = train_teacher(ledger, recipe, data, models.teacher)
        source = train_assistants(ledger, recipe, data, models.assistants, teacher)
        results: dict[str, list[Step[Predicted]]] = {arm: [] for arm in arms}
        for seed in range(recipe.seed, recipe.seed + seeds):
            for arm, settings in arms.items():
                ledger.watch.stage(f"seed {seed}: {arm}")
                with tracking.child(f"seed-{seed}-{arm.replace(' ', '-')}", {"arm": arm, "seed": str(seed)}):
                    student = train_student(ledger, recipe, data, models.student, source, teacher, settings, seed)
                    results[arm].append(predict(ledger, data, student))
                ledger.watch.note(f"{results[arm][-1].record.test.primary.in_words} on the test set")
        record = _record(ledger, recipe, data, models, command, predict(ledger, data, teacher), results)
        if processes.is_main():
            record.save(ledger.records / "ablation.json")
            tracking.tell(figures_of(record), seeds, files=[ledger.records / "ablation.json"])
    return record


def figures_of(record: AblationRecord) -> dict[str, float]:
    """The results as figures, for trackers."""
    return {
        f"{pair.first} against {pair.second}/{key}": value
        for pair in record.pairs
        for key, value in zip(("points", "low", "high"), (pair.difference_points, *pair.interval_points), strict=True)
    }


def predict(ledger: Ledger, data: Data, network: TrainedNetwork) -> Step[Predicted]:
    """A network's logits for the test set and their quality, kept in a step."""
    role = network.network.role
    make = partial(predict_test, network=network, data=data)
    return ledger.step(f"{role}-predictions", f"testing the {role}", Predicted, make)


def predict_test(place: Place, *, network: TrainedNetwork, data: Data) -> Predicted:
    """The step of a network's predictions."""
    logits = outputs(network.module, data, data.test)
    save_tensors({"test": logits}, place.folder / LOGITS)
    quality = score(task_of(data), logits, data.test.labels)
    return Predicted(test=quality)


def _record(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    models: Models,
    command: str,
    teacher: Step[Predicted],
    results: Mapping[str, list[Step[Predicted]]],
) -> AblationRecord:
    """The comparison of every two arms, from the predictions of each in every seed."""
    kept = {arm: [load_file(step.folder / LOGITS)["test"] for step in steps] for arm, steps in results.items()}
    once = torch.ones(len(data.test), dtype=torch.float64)
    values = {arm: tuple(figures(task_of(data), own, data.test.labels)(once).tolist()) for arm, own in kept.items()}
    compare = partial(_pair, data=data, kept=kept, values=values, primary=teacher.record.test.primary)
    seeds = len(next(iter(results.values())))
    return AblationRecord(
        name=recipe.name,
        command=command,
        recipe_toml=to_toml(recipe),
        environment=environment.describe(),
        basis=basis_of(recipe, data, models),
        teacher=teacher.record.test,
        seeds=tuple(range(recipe.seed, recipe.seed + seeds)),
        samples=len(data.test),
        arms=tuple(ArmRecord(name=arm, values=own) for arm, own in values.items()),
        pairs=tuple(compare(first, second) for first, second in _pairs(values)),
        seconds=sum(step.seconds for step in ledger.used.values()),
        steps=tuple(ledger.used),
    )


def _pairs(arms: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Every arm against no teacher, and every arm against the outputs alone."""
    for second in ("no teacher", "outputs alone"):
        yield from ((first, second) for first in arms if second in arms and first not in ("no teacher", second))


def _pair(
    first: str,
    second: str,
    *,
    data: Data,
    kept: Mapping[str, Sequence[Tensor]],
    values: Mapping[str, tuple[float, ...]],
    primary: Metric,
) -> PairRecord:
    """Compares two arms.

    Args:
        kept: of each arm the outputs in each seed, as the task keeps them.
        values: the figure of each arm in each seed.
        primary: the task's primary metric, for its direction.
    """
    task, targets = task_of(data), data.test.labels
    sign = 1 if task.correct is not None or primary.higher_is_better else -1
    mean, low, high = gain(task, primary, kept[first], kept[second], targets)
    one_seed = len(values[first]) == 1  # says nothing about other seeds
    verdict = "cannot tell" if one_seed else "helps" if low > 0 else "hurts" if high < 0 else "cannot tell"
    return PairRecord(
        first=first,
        second=second,
        difference_points=100 * mean,
        interval_points=(100 * low, 100 * high),
        per_seed_points=tuple(
            100 * sign * (own - against) for own, against in zip(values[first], values[second], strict=True)
        ),
        mcnemar_p=_mcnemar(*(_right(task, kept[arm], targets) for arm in (first, second))),
        verdict=verdict,
    )


def _right(task: Task, outputs: Sequence[Tensor], targets: Tensor) -> list[Tensor]:
    """Of each seed which samples are right, (N,) bool; empty where none is simply right."""
    return [task.correct(task.decode(one), targets) for one in outputs] if task.correct is not None else []


def _mcnemar(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[float, ...]:
    """The test's p-value in each seed, of boolean masks (samples,) of correct predictions."""
    return tuple(mcnemar(int((a & ~b).sum()), int((~a & b).sum())) for a, b in zip(one, other, strict=True))
