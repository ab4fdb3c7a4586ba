"""search_record(): the best candidate of a search on the test set once, beside the recipe's own student."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from distiq import environment
from distiq.commands.ablate import Predicted, predict
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.evaluation.paired import gain, paired_drop
from distiq.recipe.recipe import Recipe, to_toml
from distiq.recipe.toml import written
from distiq.records.search import Candidate, CandidateCost, ComparedRecord, SearchRecord
from distiq.run.candidates import Shared, front_of, student_of, with_student
from distiq.run.forecast import records
from distiq.run.ledger import Ledger, Step
from distiq.run.measure import LOGITS
from distiq.run.networks import Network
from distiq.run.train import train_student
from distiq.tasks.choose import task_of

if TYPE_CHECKING:
    import optuna

STORAGE = "search.journal"


def search_record(
    ledger: Ledger,
    shared: Shared,
    own: Network | None,
    cost: CandidateCost | None,
    candidates: Sequence[Candidate],
    study: "optuna.Study",
    command: str,
    storage: str,
) -> SearchRecord:
    """The best on the validation split, shown on the test set once, beside the recipe's own student."""
    front = front_of(candidates)
    if not front:
        raise UserError(_none_holds(candidates, shared.limits))
    recipe = shared.recipe
    chosen = _test(ledger, with_student(recipe, front[0]), shared)
    compared = None
    if own is not None and cost is not None:
        compared = _compared(ledger, shared, with_student(recipe, front[0]), chosen, cost)
    return SearchRecord(
        name=recipe.name,
        command=command,
        recipe_toml=to_toml(recipe),
        environment=environment.describe(),
        storage=f"{storage or STORAGE}, study {study.study_name}",
        limits=shared.limits,
        forecasts=records(shared.forecast, candidates),
        candidates=tuple(candidates),
        front=tuple(one.number for one in front),
        chosen=front[0].number,
        student_toml=_lines(recipe, with_student(recipe, front[0])),
        test=chosen.record.test,
        compared=compared,
        seconds=sum(step.seconds for step in ledger.used.values()),
        steps=tuple(ledger.used),
    )


def _lines(recipe: Recipe, found: Recipe) -> str:
    """What the found student changes in the recipe."""
    lines = ["[student]", f"model = {written(found.student.model)}", f"options = {written(found.student.options)}"]
    if found.distil.losses != recipe.distil.losses:
        for loss in found.distil.losses:
            given = {key: value for key, value in loss.model_dump(mode="json").items() if value}
            lines += ["", "[[distil.losses]]", *(f"{key} = {written(value)}" for key, value in given.items())]
    return "\n".join([*lines, ""])


def _none_holds(candidates: Sequence[Candidate], limits: dict[str, float]) -> str:
    if not candidates:
        return "search: the hours were over before a candidate was tried; give more hours (what is timed is kept)"
    asked = ", ".join(f"{key} <= {most:.4g}" for key, most in limits.items())
    tried = [one for one in candidates if one.outcome == "over the limits"]
    nearest = f"; the last had {tried[-1].why}" if tried else ""
    refused = next((f"; {one.model}: {one.why}" for one in candidates if one.outcome == "refused"), "")
    return (
        f"search: none of {len(candidates)} candidates holds {asked}{nearest}{refused}; raise the budget or the trials"
    )


def _test(ledger: Ledger, recipe: Recipe, shared: Shared, seed: int | None = None) -> Step[Predicted]:
    network = student_of(recipe, shared.data, shared.models)
    trained = train_student(ledger, recipe, shared.data, network, shared.source, shared.teacher, seed=seed)
    return predict(ledger, shared.data, trained)


def _compared(
    ledger: Ledger, shared: Shared, found: Recipe, chosen: Step[Predicted], cost: CandidateCost
) -> ComparedRecord:
    """The chosen student against the recipe's own, trained with the recipe's seed and as many more as it asks for."""
    recipe, data = shared.recipe, shared.data
    own = _test(ledger, recipe, shared)
    pairs = [(chosen, own)]
    for seed in range(recipe.seed + 1, recipe.seed + recipe.search.seeds):
        pairs.append((_test(ledger, found, shared, seed), _test(ledger, recipe, shared, seed)))
    difference, low, high = _better(data, pairs)
    return ComparedRecord(
        own=own.record.test,
        own_cost=cost,
        found_values=tuple(pair[0].record.test.primary.value for pair in pairs),
        own_values=tuple(pair[1].record.test.primary.value for pair in pairs),
        difference=difference,
        interval=(low, high),
    )


def _better(data: Data, pairs: Sequence[tuple[Step[Predicted], Step[Predicted]]]) -> tuple[float, float, float]:
    """How much better the first of each pair is than the second, which has the same seed: (mean, low, high)."""
    task, metric = task_of(data), pairs[0][1].record.test.primary
    found, own = ([load_file(pair[side].folder / LOGITS)["test"] for pair in pairs] for side in (0, 1))
    if len(pairs) == 1:
        worse, low, high = paired_drop(task, metric, own[0], found[0], data.test.labels)
        return 0.0 - worse, 0.0 - high, 0.0 - low  # no -0.00
    better, least, most = (metric.scale * end for end in gain(task, metric, found, own, data.test.labels))
    return better, least, most
