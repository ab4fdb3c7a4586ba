"""What trackers are told of a run: read back through their own clients."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.track import TrackSettings
from distiq.run.tracking import Tracking

SERVER = os.environ.get("DISTIQ_MLFLOW") or shutil.which("mlflow")  # a whole mlflow; the client alone has no server


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def train(tracking: Tracking, first: int, last: int, step: str = "student") -> None:
    """Steps of a training of 10 epochs of 4 steps; the loss is 1 / step, the metric of an epoch its number."""
    tracking.begins(step)
    for done in range(first, last + 1):
        tracking.step(done, 40, {"loss": 1 / done, "samples/s": 9.0, "epoch": "1/10"})
        if done % 4 == 0:
            tracking.epoch(done // 4, done / 4)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_event_files_hold_the_curves(tmp_path: Path):
    recipe = Recipe(track=TrackSettings(tensorboard=True))
    with Tracking(recipe, tmp_path, "distiq run x.toml", Silent()) as tracking:
        train(tracking, 1, 40)
        train(tracking, 1, 8, "trial-qat")
    own = scalars(tmp_path / "tensorboard")
    assert own["student/loss"] == [(done, pytest.approx(1 / done)) for done in range(1, 41)]
    assert own["student/validation"] == [(4 * epoch, epoch) for epoch in range(1, 11)]
    assert [step for step, _ in scalars(tmp_path / "tensorboard" / "qat")["loss"]] == list(range(1, 9))


def test_a_child_has_curves_of_its_own_and_a_search_a_run_of_its_own(tmp_path: Path):
    recipe = Recipe(track=TrackSettings(tensorboard=True))
    with Tracking(recipe, tmp_path, "distiq search x.toml", Silent(), "search") as tracking:
        for number in range(2):
            with tracking.child(f"candidate-{number}", {"model": "plain"}):
                train(tracking, 1, 8)
                tracking.tell({"size_kb": 3.0 + number}, parameters={"outcome": "trained"})
        tracking.tell({"chosen": 1.0}, 2)
    place = tmp_path / "tensorboard" / "search"
    for number in range(2):
        of_child = scalars(place / f"candidate-{number}")
        assert [step for step, _ in of_child["student/loss"]] == list(range(1, 9))
        assert of_child["size_kb"] == [(0, 3.0 + number)]
    assert scalars(place)["chosen"] == [(2, 1.0)]
    assert not (tmp_path / "track").exists(), "that of `distiq run`"


def test_a_killed_run_is_taken_up_without_a_gap(tmp_path: Path):
    recipe = Recipe(track=TrackSettings(tensorboard=True))
    killed = Tracking(recipe, tmp_path, "distiq run x.toml", Silent()).__enter__()
    train(killed, 1, 22)  # some of it may not have been told
    for sender in killed.senders:
        sender.ending.set()
        sender.thread.join()
    with (tmp_path / "track" / "entries.jsonl").open("a") as file:
        file.write('{"kind": "metr')  # the kill fell into a line
    with Tracking(recipe, tmp_path, "distiq run x.toml", Silent()) as tracking:
        train(tracking, 17, 40)  # from the checkpoint on
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["student/loss"]] == list(range(1, 41))


def test_a_long_training_gives_a_curve_of_at_most_so_many_values(tmp_path: Path):
    recipe = Recipe(track=TrackSettings(tensorboard=True))
    with Tracking(recipe, tmp_path, "", Silent()) as tracking:
        tracking.begins("student")
        for done in range(1, 100_001):
            tracking.step(done, 100_000, {"loss": 1.0})
    assert len(scalars(tmp_path / "tensorboard")["student/loss"]) == 200


def test_a_run_without_trackers_writes_nothing(tmp_path: Path):
    with Tracking(Recipe(), tmp_path, "", Silent()) as tracking:
        train(tracking, 1, 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_refused_with_what_to_install(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    settings = TrackSettings.model_validate({name: "sqlite:///x.db" if name == "mlflow" else True})
    with pytest.raises(UserError, match=rf"track\.{name}: needs the package {name}: pip install '.*{name}.*'"):
        Tracking(Recipe(track=settings), tmp_path, "", Silent())


def test_a_password_in_the_address_is_refused():
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD"):
        parse_recipe({"track": {"mlflow": "https://me:secret@host"}})


def test_a_server_that_is_not_there_is_refused_before_any_work(tmp_path: Path):
    pytest.importorskip("mlflow")
    recipe = Recipe(track=TrackSettings(mlflow=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(UserError, match=r'track\.mlflow = "http.*cannot be reached'):
        Tracking(recipe, tmp_path, "", Silent()).__enter__()


# Trackio, Weights & Biases --------------------------------------------------------------------------------------------


def told_twice(recipe: Recipe, folder: Path) -> None:
    """A run that is interrupted, and goes on, with a trial; what it is told comes in several parts."""
    first = Tracking(recipe, folder, "distiq run x.toml", Silent()).__enter__()
    train(first, 1, 15)
    first.__exit__(KeyboardInterrupt, None, None)
    (folder / "trial").mkdir()
    (folder / "trial" / "model.onnx").write_bytes(b"model")
    with Tracking(recipe, folder, "distiq run x.toml", Silent()) as tracking:
        train(tracking, 9, 40)
        train(tracking, 1, 8, "trial-qat")
        tracking.ends("trial-qat", object(), folder / "trial")
        time.sleep(2.5)
        tracking.begins("student")
        tracking.tell({"late": 1.0}, parameters={"later": "yes"})


@pytest.mark.slow
def test_trackio_is_told_a_run_and_its_trials(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "database"))  # read at import
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage as storage

    told_twice(Recipe(name="told", track=TrackSettings(trackio=True)), tmp_path / "run")
    by_name = {name.rpartition("-")[0]: name for name in storage.get_runs("told")}
    assert set(by_name) == {"run", "qat"}
    curve = [(row["training_step"], row["student/loss"]) for row in storage.get_logs("told", by_name["run"])
             if "student/loss" in row]  # fmt: skip
    assert curve == [(step, pytest.approx(1 / step)) for step in range(1, 41)]
    config = storage.get_run_config("told", by_name["run"])
    assert config["command"] == "distiq run x.toml" and config["later"] == "yes"


@pytest.mark.slow
def test_weights_and_biases_is_told_a_run_and_its_trials(tmp_path: Path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    told_twice(Recipe(name="told", track=TrackSettings(wandb=True)), tmp_path / "run")
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*-run-*"))) == 2, "before the interrupt, and after"
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*-qat-*"))


# MLflow ---------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A real MLflow server on this machine, which may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.uri, self.process = f"http://127.0.0.1:{port}", None
        self.command = [SERVER, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
                        "--artifacts-destination", f"{folder}/artifacts"]  # fmt: skip

    def start(self) -> None:
        hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            self.command, env=hidden, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(240):
            time.sleep(0.5)
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2)
            except OSError:
                continue
            return
        raise AssertionError("the server does not come up")

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not SERVER:
        pytest.skip("no mlflow command with a server: pip install mlflow elsewhere, set DISTIQ_MLFLOW to its command")
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


def runs_of(uri: str, name: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name(name).experiment_id]))


@pytest.mark.slow
def test_the_server_goes_away_in_the_middle(server: Server, tmp_path: Path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setattr("distiq.run.sender.RETRY", 0.2)
    recipe, notes = Recipe(name="away", track=TrackSettings(mlflow=server.uri)), Notes()
    with Tracking(recipe, tmp_path, "distiq run x.toml", notes) as tracking:
        train(tracking, 1, 12)
        time.sleep(4)
        server.stop()
        train(tracking, 13, 28)
        for _ in range(200):
            time.sleep(0.2)
            tracking.stage("next")
            if notes.lines:
                break
        server.start()
        train(tracking, 29, 40)
    assert len(notes.lines) == 1 and "mlflow does not take what it is told" in notes.lines[0]
    (run,) = runs_of(server.uri, "away")
    history = MlflowClient(server.uri).get_metric_history(run.info.run_id, "student/loss")
    assert sorted((one.step, one.value) for one in history) == [(done, 1 / done) for done in range(1, 41)]
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own, of SQLAlchemy 2.1
@pytest.mark.parametrize("store", ["server", "sqlite"])
def test_a_run_that_fails_is_killed_and_taken_up_is_one_run(store: str, request, tmp_path: Path):
    from mlflow import MlflowClient

    uri = request.getfixturevalue("server").uri if store == "server" else f"sqlite:///{tmp_path}/mlflow.db"
    recipe = Recipe(name=f"states-{store}", track=TrackSettings(mlflow=uri))

    def run(first: int, last: int, error: type[BaseException] | None) -> None:
        with Tracking(recipe, tmp_path / "run", "distiq run x.toml", Silent()) as tracking:
            train(tracking, first, last)
            (tmp_path / "trial").mkdir(exist_ok=True)
            (tmp_path / "trial" / "model.onnx").write_bytes(b"model")
            tracking.begins("trial-static")
            tracking.ends("trial-static", object(), tmp_path / "trial")
            if error:
                raise error("the disk is full")

    with pytest.raises(OSError):  # noqa: PT011
        run(1, 15, OSError)
    assert runs_of(uri, recipe.name)[-1].info.status == "FAILED"
    with pytest.raises(KeyboardInterrupt):
        run(9, 22, KeyboardInterrupt)
    run(19, 40, None)
    client = MlflowClient(uri)
    child, own = sorted(runs_of(uri, recipe.name), key=lambda one: "mlflow.parentRunId" not in one.data.tags)
    assert child.data.tags["mlflow.parentRunId"] == own.info.run_id and child.info.run_name == "static"
    assert (own.info.status, child.info.status) == ("FINISHED", "FINISHED")
    history = own.data.tags["distiq.history"]
    assert history.index("failed (the disk is full)") < history.index("killed") < history.index("finished")
    curve = client.get_metric_history(own.info.run_id, "student/loss")
    assert [one.step for one in sorted(curve, key=lambda one: one.step)] == list(range(1, 41))
    assert own.data.params["command"] == "distiq run x.toml" and own.data.params["student.training.epochs"] == "10"
    assert own.data.params["version.distiq"]
    assert [one.path for one in client.list_artifacts(child.info.run_id, "files")] == ["files/model.onnx"]
