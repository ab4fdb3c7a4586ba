"""search(recipe): the student is found. Measured first, trained in stages, compared on fresh data."""

import importlib.util
import inspect
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from distiq.commands.search_record import STORAGE, search_record
from distiq.commands.search_storage import open_storage
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.errors import UserError, first_line
from distiq.evaluation.paired import has_figures
from distiq.factory import call_factory
from distiq.files import sha256_of_json
from distiq.models.build import space_of_cuts
from distiq.models.create import STATIC, TABLES, VECTOR
from distiq.models.frontend import front_end
from distiq.models.spaces import SPACES, SPACES_OF_TASKS, Choice, Space
from distiq.progress import Silent, Watch
from distiq.recipe.part import changed
from distiq.recipe.read import read_recipe
from distiq.recipe.recipe import Recipe
from distiq.records.search import REPEATED, Candidate, CandidateCost, SearchRecord
from distiq.report.reading import read_search
from distiq.run.candidates import (
    JudgedWatch,
    Shared,
    cost_of,
    figures_of,
    figures_of_search,
    in_words,
    student_of,
    with_student,
    yardstick,
)
from distiq.run.check import check_networks, check_recipe
from distiq.run.forecast import Forecast, drawn, largest, learn
from distiq.run.ledger import Ledger
from distiq.run.measure import example_of, reason_of
from distiq.run.networks import Models, Network, build_network
from distiq.run.prepare import read_data
from distiq.run.tracking import Tracking
from distiq.run.train import train_assistants, train_student, train_teacher
from distiq.tasks.choose import task_of
from distiq.timing.predictor import FEWEST
from distiq.training import processes

if TYPE_CHECKING:
    import optuna

RECORD = "search.json"
TRIED = 8  # networks that a space draws, of which one has to be trainable before anything is trained
DRAWS = 40  # at most, for each candidate that is measured
CANDIDATE, FOLDER, REACHED, TRACKED = "candidate", "folder", "reached", "tracked"  # what the storage keeps of a trial


class Stopped(Exception):
    """Others were better at this stage."""


def search(
    recipe: Recipe,
    *,
    trials: int | None = None,
    hours: float | None = None,
    run: Path | None = None,
    storage: str = "",
    watch: Watch | None = None,
    command: str = "distiq.search(recipe)",
    recipe_file: Path | None = None,
) -> SearchRecord:
    """Finds the student of a recipe.

    Each candidate's quantized file is made from untrained weights and timed in the runtime that is delivered; one that
    is larger or slower than the budget allows, or where the budget does not say, than the recipe's own student, is not
    trained. Of one that surely is, by what the files of drawn networks tell, not even a file is made. The others are
    trained with the recipe's settings; after 2, 6, 18, ... epochs only the better third goes on (asynchronous
    successive halving: Li et al. 2020, "A system for massively parallel hyperparameter tuning", arXiv:1810.05934). What
    is tried next follows from what was seen (Optuna's TPE with constraints) and, in turn, from what is large for its
    predicted cost. After an interruption, the same call resumes the search.

    Args:
        trials, hours: in place of the recipe's `search`.
        run: the run folder; by default runs/<name>.
        storage: an Optuna storage, a journal file or a database's URL; by default a journal in the run folder. Several
            searches with run folders of their own work on one.
        recipe_file: as for `compress`.

    Raises:
        UserError: the recipe or the data is refused, Optuna is missing, or no candidate stays within the limits.
    """
    if processes.count() > 1:
        raise UserError("distiq search runs in one process; start several with one --storage, each with its own --run")
    if importlib.util.find_spec("optuna") is None:
        raise UserError("distiq search needs the package optuna: pip install 'distiq[search]'")
    if recipe.student.is_searched:
        _limits(recipe, None)  # before anything is read or trained
    began = time.monotonic()
    settings = changed(recipe.search, {key: value for key, value in (("trials", trials), ("hours", hours)) if value})
    folder = run or Path("runs") / recipe.name
    tracking = Tracking(recipe, folder, command, watch or Silent(), "search")
    with Ledger(folder, tracking, recipe_file, chosen=run is not None, follower=tracking) as ledger, tracking:
        opened = open_storage(storage or str(ledger.folder / STORAGE))
        data = read_data(recipe, ledger)
        tracking.read(data)
        check_recipe(recipe, data)
        _check_seeds(recipe, data)
        roles = [f"assistants.{number}" for number in range(len(recipe.assistants))]
        models = tuple(build_network(recipe, data, role, watch=ledger.watch) for role in ("teacher", *roles))
        space = _space(recipe, data, models[0].module)
        own = None if recipe.student.is_searched else student_of(recipe, data, models)
        _check_space(recipe, data, models, space)
        shared, cost = _shared(ledger, recipe, data, models, own, space)
        shared = replace(shared, forecast=_forecast(ledger, shared))
        study = _study(opened, recipe, shared)
        _take_up(study, ledger.folder)
        while _measured(candidates := _candidates(study)) < settings.trials:
            if len(candidates) >= DRAWS * settings.trials:
                ledger.watch.note(f"{len(candidates)} networks were drawn, and nearly all surely break a limit")
                break
            if settings.hours and time.monotonic() - began > 3600 * settings.hours:
                ledger.watch.note(f"{settings.hours:g} hours are over, {len(candidates)} candidates were tried")
                break
            _try_one(ledger, study, shared, recipe.seed + len(candidates), candidates, tracking)
        record = search_record(ledger, shared, own, cost, candidates, study, command, storage)
        record.save(ledger.records / RECORD)
        tracking.tell(figures_of_search(record), len(candidates), files=[ledger.records / RECORD])
    return record


def chosen_recipe(folder: Path, number: int | None = None) -> Recipe:
    """The recipe of the search in a run folder with the student that it chose, or another of its front.

    Raises:
        UserError: no search ended there, its record is damaged, or the candidate was not trained to its end.
    """
    record = read_search(folder / "records")
    if record is None:
        raise UserError(f"{folder}: no search has ended here; `distiq search RECIPE` makes one")
    number = record.chosen if number is None else number
    trained = {one.number: one for one in record.candidates if one.outcome == "trained"}
    if number not in trained:
        front = ", ".join(map(str, record.front))
        raise UserError(f"--point {number}: no candidate of that number was trained to its end; the front: {front}")
    return with_student(read_recipe(record.recipe_toml.encode(), str(folder / "records" / RECORD)), trained[number])


# What candidates share ------------------------------------------------------------------------------------------------


def _shared(
    ledger: Ledger, recipe: Recipe, data: Data, models: tuple[Network, ...], own: Network | None, space: Space
) -> tuple[Shared, CandidateCost | None]:
    """The teacher is trained, the recipe's own student measured."""
    if own is not None:
        check_networks(data, Models(models[0], models[1:], own, ()), (recipe.distil,), ledger.watch)
    measured = cost_of(ledger, recipe, data, own, None) if own is not None else None
    limits = _limits(recipe, measured.record if measured else None)
    teacher = train_teacher(ledger, recipe, data, models[0])
    source = train_assistants(ledger, recipe, data, models[1:], teacher)
    beside = yardstick(measured, recipe) if measured else None
    shared = Shared(recipe, data, models, teacher, source, space, limits, beside)
    said = " and ".join(f"{key} <= {value:.4g}" for key, value in limits.items())
    ledger.watch.note(f"candidates are trained where {said}")
    return shared, measured.record if measured else None


def _forecast(ledger: Ledger, shared: Shared) -> Forecast:
    """What candidates will cost, learned from files of networks that are drawn from the space."""
    choices = drawn(partial(_choice, shared.recipe, shared.space), shared.recipe.search.probes, shared.recipe.seed)
    if len(choices) < FEWEST:
        return shared.forecast
    measured = []
    for model, options in choices:
        recipe = with_student(shared.recipe, Candidate(number=0, model=model, options=options, outcome="refused"))
        try:
            network = student_of(recipe, shared.data, shared.models)
            measured.append((network.module, cost_of(ledger, recipe, shared.data, network, shared.beside).record))
        except Exception as error:  # exporters raise their own exception types; a full disk is re-raised
            ledger.watch.note(f"{model} {json.dumps(options)} tells nothing: {reason_of(error)}")
    return learn(measured, example_of(shared.data))


def _limits(recipe: Recipe, own: CandidateCost | None) -> dict[str, float]:
    """The most that a candidate's file may cost: by the budget, else what the recipe's own student costs."""
    budget = {"size_kb": recipe.budget.size_kb, "latency_ms": recipe.budget.latency_ms}
    if own is not None:
        budget = {key: getattr(own, key) if limit is None else limit for key, limit in budget.items()}
    limits = {key: limit for key, limit in budget.items() if limit is not None}
    if not limits:
        raise UserError(
            'student.model = "auto": nothing says how small or fast the student must be; set budget.size_kb or'
            " budget.latency_ms"
        )
    return limits


def _space(recipe: Recipe, data: Data, teacher: nn.Module) -> Space:
    if reference := recipe.search.space:
        return lambda trial: call_factory(reference, {"trial": trial}, "search.space")
    task, student = task_of(data), recipe.student
    if student.is_cut and student.model != STATIC:
        parts = space_of_cuts(teacher, student.model, isinstance(data.preprocessing, Text))
        if parts is not None:
            return parts
    if own := SPACES_OF_TASKS.get((task.name, data.modality)):
        return own
    form = task.form(data.train.labels[:2])
    if form.dimensions or not (form.outputs or task.decoding == "vector"):
        raise UserError(
            f"distiq search has no space of networks for the task {task.name}; name your own in search.space, as"
            " file.py:function"
        )
    return SPACES[data.modality]


def _check_seeds(recipe: Recipe, data: Data) -> None:
    task, seeds = task_of(data), recipe.search.seeds
    if seeds > 1 and not has_figures(task):
        raise UserError(f"search.seeds = {seeds}: the task {task.name} has no interval of several seeds; leave it out")


def _check_space(recipe: Recipe, data: Data, models: tuple[Network, ...], space: Space) -> None:
    """Raises UserError unless, of a few networks that the space draws, one can be trained on these data."""
    why = ""
    for model, options in drawn(partial(_choice, recipe, space), TRIED, recipe.seed):
        candidate = Candidate(number=0, model=model, options=options, outcome="refused")
        try:
            network = student_of(with_student(recipe, candidate), data, models)
            check_networks(data, Models(models[0], models[1:], network, ()), (recipe.distil,), Silent())
            return
        except Exception as error:  # whatever a network raises; a full disk is raised again
            why = f"{model}: {reason_of(error)}"
    named = "; name another in search.space, as file.py:function" if not recipe.search.space else ""
    raise UserError(f"search.space: none of the networks that it draws can be trained here{named}; {why}")


def _study(storage: "optuna.storages.BaseStorage", recipe: Recipe, shared: Shared) -> "optuna.Study":
    """The study of these data, this teacher and these settings in the storage; made where there is none."""
    import optuna

    settings, student = recipe.search, recipe.student
    basis = [
        shared.data.digest(), shared.source.key, recipe.distil, student.training, recipe.views, settings.space,
        settings.reduction, settings.first_epochs, shared.limits, recipe.measure.runtimes[0],
    ]  # fmt: skip
    plain = [one.model_dump() if hasattr(one, "model_dump") else one for one in basis]
    return optuna.create_study(
        study_name=f"{recipe.name}-{sha256_of_json(plain)[:12]}",
        storage=storage,
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=settings.first_epochs, reduction_factor=settings.reduction
        ),
        load_if_exists=True,
    )


def _take_up(study: "optuna.Study", folder: Path) -> None:
    """Puts the candidates that this folder's search was working on when it was killed at the head of the queue."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(FOLDER) == str(folder.resolve()):
            study.tell(trial.number, state=TrialState.FAIL)
            reached = {str(epoch): value for epoch, value in trial.intermediate_values.items()}
            before = trial.user_attrs.get(REACHED, {})
            kept = {name: trial.user_attrs[name] for name in (FOLDER, TRACKED) if name in trial.user_attrs}
            study.enqueue_trial(trial.params, user_attrs={**kept, REACHED: before | reached})


def _candidates(study: "optuna.Study") -> list[Candidate]:
    """What was tried, in order."""
    kept = (trial.user_attrs.get(CANDIDATE) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished())
    return [Candidate.model_validate_json(one) for one in kept if one]


def _measured(candidates: Sequence[Candidate]) -> int:
    return sum(not one.has_no_file for one in candidates)


# One candidate --------------------------------------------------------------------------------------------------------


def _try_one(
    ledger: Ledger,
    study: "optuna.Study",
    shared: Shared,
    seed: int,
    before: Sequence[Candidate],
    tracking: Tracking,
) -> None:
    """Draws a candidate, measures it, trains it if it is within the limits, and reports it to the study."""
    import optuna

    # A sampler for each candidate: what it draws follows from the seed and from what was seen, killed or not.
    # After a network that was tried before it draws at random: TPE may go on with the best of a small space for ever.
    at_random = bool(before) and before[-1].is_repeated
    sampler = optuna.samplers.RandomSampler if at_random else optuna.samplers.TPESampler
    study.sampler = sampler(seed=seed)
    if len(before) % 2 and not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
        _enqueue_largest(study, shared, seed)
    trial = study.ask()
    trial.set_user_attr(FOLDER, str(ledger.folder.resolve()))
    try:
        model, options, fails = *_choice(shared.recipe, shared.space, trial), ""
    except UserError as error:
        model, options, fails = "", {}, str(error)
    same = next((one for one in before if (one.model, one.options) == (model, options)), None)
    name = trial.user_attrs.get(TRACKED, f"candidate-{trial.number}")  # a killed one keeps its name
    trial.set_user_attr(TRACKED, name)
    with tracking.child(name, {"model": model, "options": json.dumps(options)}):
        if fails:
            candidate = Candidate(number=trial.number, model=model, options=options, outcome="refused", why=fails)
        else:
            candidate = _as_before(trial.number, same) if same else _tried(ledger, trial, shared, model, options)
        became = {"outcome": candidate.outcome, "why": candidate.why}
        tracking.tell(figures_of(candidate), parameters=became)
    for key, most in shared.limits.items():
        value = getattr(candidate.cost, key) if candidate.cost else candidate.predicted.get(key, math.inf)
        excess = value / most - 1
        trial.set_constraint(key, excess)
    trial.set_user_attr(CANDIDATE, candidate.model_dump_json())
    if candidate.outcome == "trained" and candidate.validation is not None:
        study.tell(trial, candidate.validation.goodness)
    else:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    if not candidate.has_no_file:
        ledger.watch.note(in_words(candidate))


def _enqueue_largest(study: "optuna.Study", shared: Shared, seed: int) -> None:
    def module_of(choice: Choice) -> nn.Module:
        candidate = Candidate(number=0, model=choice[0], options=choice[1], outcome="refused")
        return student_of(with_student(shared.recipe, candidate), shared.data, shared.models).module

    example, count = example_of(shared.data), shared.recipe.search.draws
    choose = partial(_choice, shared.recipe, shared.space)
    if found := largest(choose, module_of, shared.forecast, shared.limits, example, count, seed):
        study.enqueue_trial(found)


def _as_before(number: int, same: Candidate) -> Candidate:
    return Candidate.model_validate({**dict(same), "number": number, "why": f"{REPEATED} {same.number}"})


def _choice(recipe: Recipe, space: Space, trial: Any) -> Choice:
    """The network that the space draws, with what the recipe says of its front-end, of tokens that no text has and of
    its vectors' width."""
    where = f"search.space: {recipe.search.space}"
    try:
        chosen = space(trial)
    except UserError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise UserError(f"{where} fails: {type(error).__name__}: {first_line(error)}") from error
    match chosen:
        case (str() as model, dict() as given):
            pass
        case _:
            raise UserError(f"{where} returned {chosen!r}; return (model, options)")
    try:
        options = json.loads(json.dumps(given))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} returned options that a recipe cannot hold: {error}; give plain values") from error
    carried = {*inspect.signature(front_end).parameters, TABLES[0], *([VECTOR] if recipe.task == "embedding" else [])}
    kept = {key: value for key, value in recipe.student.options.items() if key in carried}
    return model, {**kept, **options}


def _tried(ledger: Ledger, trial: Any, shared: Shared, model: str, options: dict[str, Any]) -> Candidate:
    make = partial(Candidate, number=trial.number, model=model, options=options)
    recipe = with_student(shared.recipe, make(outcome="refused"))
    try:
        network = student_of(recipe, shared.data, shared.models)
        models = Models(shared.models[0], shared.models[1:], network, ())
        check_networks(shared.data, models, (recipe.distil,), ledger.watch)
        predicted = shared.forecast.costs(network.module, example_of(shared.data))
        make = partial(make, predicted=predicted)
        if over := shared.forecast.surely_over(predicted, shared.limits):
            why = ", ".join(f"{key} {value:.4g}, as predicted" for key, value in over.items())
            return make(outcome="over the limits", why=why)
        cost = cost_of(ledger, recipe, shared.data, network, shared.beside).record
    except Exception as error:  # exporters raise their own exception types; a full disk is re-raised
        return make(outcome="refused", why=reason_of(error))
    if broken := [
        f"{key} {getattr(cost, key):.4g}" for key, most in shared.limits.items() if getattr(cost, key) > most
    ]:
        return make(outcome="over the limits", why=", ".join(broken), cost=cost)
    reached: list[tuple[int, float]] = []
    for epoch, goodness in trial.user_attrs.get(REACHED, {}).items():  # before a kill: those stages stay passed
        trial.report(goodness, int(epoch))
        trial.should_prune()
    watch = JudgedWatch(ledger.watch, partial(_judge, trial, reached))
    try:
        trained = train_student(ledger, recipe, shared.data, network, shared.source, shared.teacher, watch=watch)
    except Stopped:
        why = f"others were better after {reached[-1][0]} epochs"
        return make(outcome="stopped", why=why, cost=cost, epochs=reached[-1][0])
    except UserError as error:  # such as a loss that is not finite; a full disk is raised again
        return make(outcome="refused", why=reason_of(error), cost=cost)
    training = trained.step.record.training
    assert training is not None
    return make(outcome="trained", cost=cost, epochs=len(training.epochs), validation=training.epochs[-1].validation)


def _judge(trial: Any, reached: list[tuple[int, float]], epoch: int, goodness: float) -> None:
    """Ends a training that is not among the better third of those that came so far."""
    reached.append((epoch, goodness))
    trial.report(goodness, epoch)
    if trial.should_prune():
        raise Stopped
