"""Whole runs as trackers see them."""

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.records.run import RunRecord


def test_a_finished_run_is_told_whole_and_nothing_is_trained_again(finished, run_copy: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = ["run", str(finished.recipe), "--run", str(run_copy), "--set", "track.tensorboard=true"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 3, result.output
    assert "s] training" not in result.stdout and "s] qat" not in result.stdout, "no step's key holds the trackers"
    run = RunRecord.load(run_copy / "records" / "run.json")
    own, trial = (EventAccumulator(str(run_copy / "tensorboard" / name)).Reload() for name in (".", "qat"))
    history = run.student.training.epochs
    assert [one.value for one in own.Scalars("student/validation")] == pytest.approx(
        [entry.validation.goodness for entry in history]
    )
    qat = next(trial for trial in run.trials if trial.rung == "qat")
    assert trial.Scalars("test/accuracy")[0].value == pytest.approx(qat.deployed.test.value)
    assert trial.Scalars("size_bytes")[0].value == qat.deployed.cost.size_bytes


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own, of SQLAlchemy 2.1
@pytest.mark.slow
def test_a_killed_run_is_one_run_of_mlflow_without_a_gap(recipe_file, started, tmp_path: Path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recipe = recipe_file(("epochs = 2", "epochs = 12"), more=f'[track]\nmlflow = "{uri}"')
    process = started(recipe, tmp_path / "run")
    while process.poll() is None and not list((tmp_path / "run" / "steps").glob("student-*.partial/checkpoint*")):
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.communicate()
    second = started(recipe, tmp_path / "run")
    said = second.communicate(timeout=900)
    assert second.returncode == 3, said
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    (own,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == own.info.run_id}
    assert children == {"static", "qat"} and own.info.status == "FINISHED"
    assert "killed, and taken up again" in own.data.tags["distiq.history"]
    record = RunRecord.load(tmp_path / "run" / "records" / "run.json")
    for network in (record.teacher, record.student):
        curve = client.get_metric_history(own.info.run_id, f"{network.role}/validation")
        assert sorted((one.step, one.value) for one in curve) == [
            (entry.epoch * network.training.steps // 12, pytest.approx(entry.validation.goodness))
            for entry in network.training.epochs
        ]
    assert own.data.params["data.digest"] == record.data.digest
    assert own.data.metrics["delivered/accuracy"] == pytest.approx(record.trials[-1].deployed.test.value)
    assert {one.path for one in client.list_artifacts(own.info.run_id)} == {
        "bundle", "records", "recipe.toml", "report.html",
    }  # fmt: skip
