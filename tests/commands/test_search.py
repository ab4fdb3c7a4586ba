"""search(): candidates are measured before they are trained, stopped behind better ones, found again after a kill."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.search import chosen_recipe, search, with_student
from distiq.errors import UserError
from distiq.recipe.part import changed
from distiq.recipe.read import load_recipe, parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.track import TrackSettings
from distiq.records.quality import Metric
from distiq.records.search import Candidate, CandidateCost
from distiq.run.candidates import JudgedWatch, front_of
from distiq.run.ledger import Ledger
from distiq.tasks.choose import task_of

pytest.importorskip("optuna", reason="optuna is not installed")

SPACE = """
def narrow(trial):
    width = trial.suggest_categorical("width", (8, 16, 24, 512))
    return "plain", {"layers": [[width, 2]] * trial.suggest_int("depth", 1, 2)}


def wide(trial):
    return "plain", {"layers": [[8 * trial.suggest_int("width", 1, 24), 2], [8 * trial.suggest_int("last", 1, 24), 1]]}


def broken(trial):
    return "plain", {"layers": [[trial.suggest_int("width", -9, -1), 2]]}


def strange(trial):
    return 3


def of_numpy(trial):
    import numpy

    return "plain", {"layers": [[numpy.int64(8), 2]]}


def failing(trial):
    return "plain", {"layers": [[8, {}[trial.suggest_int("stride", 2, 9)]]]}


def failing_at_times(trial):
    if trial.suggest_int("width", 1, 4) % 2:
        raise ValueError("odd")
    return "plain", {"layers": [[8 * trial.params["width"], 2]]}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Two classes of tiny images, a student of two epochs."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for split, count in (("train", 96), ("test", 32)):
        for number in range(count):
            folder = tmp_path / "photos" / split / ("dark", "light")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 140, (12, 12), dtype=np.uint8) + np.uint8(60 * (number % 2))
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "space.py").write_text(SPACE)
    return parse_recipe(
        {
            "name": "small",
            "data": {"source": "folder", "folder": "photos", "validation": 16, "calibration": 16, "channels": 1},
            "views": {"flip": False, "shift": 0},
            "teacher": {"options": {"widths": [8], "blocks": 1}, "training": {"epochs": 2, "batch_size": 16}},
            "student": {
                "model": "plain",
                "options": {"layers": [[24, 2], [24, 2]]},
                "training": {"epochs": 2, "batch_size": 16, "precision": "float32"},
            },
            "measure": {"rounds": 1, "seconds": 0.005},
            "budget": {"latency_ms": 1000.0},
            "search": {"space": f"{tmp_path}/space.py:narrow", "trials": 6, "first_epochs": 1},
        }
    )


def candidate(number: int, quality: float, ms: float, kb: float, outcome: str = "trained") -> Candidate:
    metric = Metric(name="accuracy", title="accuracy", value=quality)
    cost = CandidateCost(latency_ms=ms, size_kb=kb, parameters=1, macs=1)
    return Candidate.model_validate(
        {"number": number, "model": "plain", "options": {}, "outcome": outcome, "cost": cost, "validation": metric}
    )


def test_the_front_holds_what_none_beats():
    candidates = [
        candidate(0, 0.90, 1.0, 50), candidate(1, 0.92, 2.0, 60), candidate(2, 0.91, 2.5, 70),
        candidate(3, 0.80, 3.0, 10), candidate(4, 0.99, 0.1, 1, "stopped"),
    ]  # fmt: skip
    assert [one.number for one in front_of(candidates)] == [1, 0, 3]


@pytest.mark.slow
def test_what_is_over_the_limits_is_not_trained_and_the_best_is_delivered(recipe: Recipe, tmp_path: Path):
    record = search(recipe)
    own = record.compared
    assert own is not None
    assert record.limits == {"size_kb": own.own_cost.size_kb, "latency_ms": 1000.0}
    over = [one for one in record.candidates if one.cost and one.cost.size_kb > own.own_cost.size_kb]
    assert all(one.outcome == "over the limits" for one in over)
    assert {one.outcome for one in record.candidates if one not in over} <= {"trained", "stopped"}
    trained = [one for one in record.candidates if one.outcome == "trained"]
    assert all(one.epochs == 2 for one in trained)
    best = max(one.validation.value for one in trained if one.validation)
    chosen = record.candidate(record.chosen)
    assert chosen.validation is not None
    assert chosen.validation.value == best
    again = search(recipe)
    assert again.candidates == record.candidates
    result = CliRunner().invoke(app, ["deliver", "runs/small", "--plain"])
    assert result.exit_code in (0, 3), result.output
    run = json.loads((tmp_path / "runs/small/records/run.json").read_text())
    assert chosen.model in run["recipe_toml"]
    assert chosen_recipe(Path("runs/small")).student.options == chosen.options
    assert (tmp_path / "runs/small/report.html").read_text().count("How the student was found") == 1
    with pytest.raises(UserError, match=r"--point 99: no candidate of that number .* the front: "):
        chosen_recipe(Path("runs/small"), 99)


@pytest.mark.slow
def test_what_surely_breaks_a_limit_has_no_file_and_is_no_trial(recipe: Recipe):
    """Limits of 20 kB hold for few of the space's networks of up to 340 kB."""
    tree = recipe.model_dump(mode="json")
    tree["search"] |= {
        "space": tree["search"]["space"].replace(":narrow", ":wide"),
        "trials": 3,
        "probes": 16,
        "seeds": 2,
    }
    tree["budget"] = {"size_kb": 20.0, "latency_ms": 1000.0}
    record = search(parse_recipe(tree))
    left_out = [one for one in record.candidates if one.has_no_file]
    assert len(left_out) == len(record.candidates) - 3 > 0
    assert all(one.predicted["size_kb"] > 20 and one.why.startswith("size_kb") for one in left_out)
    latency, size = record.forecasts
    assert (latency.cost, size.cost, size.learned) == ("latency_ms", "size_kb", 16)
    assert size.crossed is not None
    assert size.crossed.median < 0.1
    assert record.compared is not None
    assert len(record.compared.own_values) == len(record.compared.found_values) == 2
    assert search(parse_recipe(tree)).candidates == record.candidates


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own, of SQLAlchemy 2.1
@pytest.mark.slow
def test_a_search_that_was_killed_ends_with_the_same_choice(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    from mlflow import MlflowClient

    whole = search(recipe, run=Path("runs/whole"))
    recipe = changed(recipe, {"track": TrackSettings(mlflow=f"sqlite:///{Path.cwd()}/mlflow.db")})
    epoch, firsts = JudgedWatch.epoch, []

    def killed(watch: JudgedWatch, number: int, goodness: float | None) -> None:
        epoch(watch, number, goodness)
        firsts.append(number)
        if number == 1:
            raise KeyboardInterrupt  # the next process goes on with the second epoch

    monkeypatch.setattr(JudgedWatch, "epoch", killed)
    for _ in range(20):
        try:
            again = search(recipe, run=Path("runs/killed"))
            break
        except KeyboardInterrupt:
            continue
    assert firsts.count(1) == firsts.count(2) > 2
    assert [(one.model, one.options, one.outcome, one.validation) for one in again.candidates] == [
        (one.model, one.options, one.outcome, one.validation) for one in whole.candidates
    ]
    assert again.candidate(again.chosen).options == whole.candidate(whole.chosen).options
    client = MlflowClient(recipe.track.mlflow)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    (own,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not own}
    assert len(children) == len(runs) - 1 == len(again.candidates), "a killed candidate is one run"
    assert own.info.status == "FINISHED" and "killed" in own.data.tags["distiq.history"]
    assert sorted(run.data.params["outcome"] for run in children.values()) == sorted(
        one.outcome for one in again.candidates
    )
    for run in children.values():
        steps = [one.step for one in client.get_metric_history(run.info.run_id, "student/validation")]
        assert steps == sorted(set(steps))
    assert own.data.metrics["chosen"] == again.chosen


def test_auto_needs_a_limit_and_finds_a_student(recipe: Recipe):
    auto = recipe.model_dump(mode="json") | {"student": {"model": "auto"}}
    auto["budget"] = {}
    with pytest.raises(UserError, match=r"set budget.size_kb or budget.latency_ms"):
        search(parse_recipe(auto), run=Path("runs/none"))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("broken", "none of the networks that it draws can be trained here; plain: "),
        ("strange", r"returned 3; return \(model, options\)"),
        ("of_numpy", "options that a recipe cannot hold: .*int64.*; give plain values"),
        ("failing", "failing fails: KeyError: "),
    ],
)
def test_spaces_that_give_no_network(recipe: Recipe, function: str, said: str, monkeypatch: pytest.MonkeyPatch):
    from distiq.commands import search as searching

    monkeypatch.setattr(searching, "train_teacher", None)  # refused before anything is trained
    tree = recipe.model_dump(mode="json")
    tree["search"] |= {"space": tree["search"]["space"].replace(":narrow", f":{function}"), "trials": 2}
    with pytest.raises(UserError, match=said):
        search(parse_recipe(tree))


@pytest.mark.slow
def test_a_draw_that_fails_ends_its_candidate_not_the_search(recipe: Recipe):
    tree = recipe.model_dump(mode="json")
    space = tree["search"]["space"].replace(":narrow", ":failing_at_times")
    tree["search"] |= {"space": space, "trials": 6, "probes": 0}
    record = search(parse_recipe(tree))
    failed = {one.number for one in record.candidates if "failing_at_times fails: ValueError: odd" in one.why}
    assert 0 < len(failed) < 6
    assert {one.outcome for one in record.candidates if one.number in failed} == {"refused"}


def test_hours_that_are_too_few_say_so(recipe: Recipe):
    tree = recipe.model_dump(mode="json")
    tree["search"] |= {"probes": 0}
    with pytest.raises(UserError, match=r"the hours were over before a candidate was tried"):
        search(parse_recipe(tree), hours=1e-9)


def test_seeds_are_for_tasks_that_count(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    from distiq.commands import search as searching

    counts_nothing = replace(task_of(searching.read_data(recipe, Ledger(Path("runs/read")))), correct=None, counts=None)
    monkeypatch.setattr(searching, "task_of", lambda _: counts_nothing)
    tree = recipe.model_dump(mode="json")
    tree["search"] |= {"seeds": 2}
    with pytest.raises(UserError, match=r"search.seeds = 2: the task classification has no interval .* leave it out"):
        search(parse_recipe(tree))


def test_without_optuna_it_says_so_at_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"needs the package optuna: pip install"):
        search(recipe)


def test_a_training_that_fails_ends_its_candidate_not_the_search(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    from distiq.commands import search as searching

    def diverges(*_: object, **__: object) -> None:
        raise UserError("student: the loss part(s) task became nan in epoch 1")

    monkeypatch.setattr(searching, "train_student", diverges)
    tree = recipe.model_dump(mode="json")
    tree["search"] |= {"trials": 2}
    with pytest.raises(UserError, match=r"none of 2 candidates holds .* became nan in epoch 1"):
        search(parse_recipe(tree))


def test_a_found_part_of_the_teacher_keeps_its_weights(recipe: Recipe):
    tree = recipe.model_dump(mode="json")
    tree["student"] |= {"model": "resnet", "weights": "teacher", "options": {"keep_channels": 0.5}}
    tree["student"]["training"]["pretrained_rate"] = 0.1
    own = parse_recipe(tree)
    part, other = (
        with_student(own, Candidate(number=1, model="resnet", options=options, outcome="trained")).student
        for options in ({"keep_channels": 0.25}, {"widths": [8]})
    )
    assert (part.weights, part.options, part.training.pretrained_rate) == ("teacher", {"keep_channels": 0.25}, 0.1)
    assert (other.weights, other.training.pretrained_rate) == ("", 1.0)


def test_losses_follow_the_layers_that_stay():
    own = load_recipe("sst2", ["data.folder=."])
    assert own.student.options["keep_layers"] == [0, 2, 4, 5]
    compared = {}
    for kept in ([0, 2, 4, 5], [0, 2, 3, 5], [0, 5], [0, 1, 2, 3, 4, 5], [5]):
        options = {"keep_layers": kept, "trim_vocabulary": True}
        found = with_student(own, Candidate(number=1, model="transformers:bert", options=options, outcome="trained"))
        (loss,) = found.distil.losses
        numbers = [[int(path.rpartition(".")[2]) for path in paths] for paths in (loss.student, loss.teacher)]
        compared[tuple(kept)] = list(zip(*numbers, strict=True))
    assert compared == {
        (0, 2, 4, 5): [(1, 2), (3, 5)],
        (0, 2, 3, 5): [(1, 2), (3, 5)],
        (0, 5): [(0, 2), (1, 5)],
        (0, 1, 2, 3, 4, 5): [(2, 2), (5, 5)],
        (5,): [(0, 5)],
    }


@pytest.mark.slow
def test_how_much_of_the_teacher_stays_is_searched(recipe: Recipe):
    tree = recipe.model_dump(mode="json")
    tree["teacher"]["options"] = {"widths": [32, 32], "blocks": 1}
    tree["student"] |= {"model": "resnet", "weights": "teacher", "options": {"keep_channels": 0.5}}
    tree["search"] |= {"space": "", "trials": 3}
    record = search(parse_recipe(tree))
    assert {tuple(one.options) for one in record.candidates} == {("keep_channels",)}
    assert any(one.outcome == "trained" for one in record.candidates)
    assert chosen_recipe(Path("runs/small")).student.weights == "teacher"


def test_the_found_student_stands_in_the_recipe(recipe: Recipe):
    other = Candidate(number=1, model="plain", options={"layers": [[8, 2]]}, outcome="trained")
    assert with_student(recipe, other).student.options == {"layers": [[8, 2]]}
    assert with_student(recipe, other).student.training == recipe.student.training
    tree = recipe.model_dump(mode="json")
    tree["student"]["training"]["pretrained_rate"] = 0.1  # of the recipe's own weights; a found student loads none
    assert with_student(parse_recipe(tree), other).student.training == recipe.student.training
