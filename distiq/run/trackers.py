"""The trackers that a run can report to, each behind the same few calls."""

import contextlib
import importlib
import os
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distiq.errors import UserError
from distiq.recipe.track import TrackSettings

PACKAGES = {
    "mlflow": ("mlflow", "distiq[mlflow]"),
    "tensorboard": ("tensorboard", "distiq[tensorboard]"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
HISTORY = "distiq.history"  # a tag: every state that the run was in
MOST_AT_ONCE = 100  # metrics or parameters in one call to MLflow's server


class Point(NamedTuple):
    """Metrics at a step of a training, and when, in milliseconds since 1970."""

    time_ms: int
    step: int
    values: Mapping[str, float]


class Tracker(Protocol):
    """One run and its children; each is known by the id that `open` gave."""

    def open(self, name: str, parent: str, known: str) -> str:
        """A new run, or the `known` one again; `parent` is the id of the run that it is a trial of, or empty."""

    def parameters(self, run: str, values: Mapping[str, str]) -> None: ...
    def metrics(self, run: str, points: Sequence[Point]) -> None: ...
    def file(self, run: str, path: Path, folder: str) -> None: ...
    def state(self, run: str, state: str, why: str) -> None:
        """state: "running", "finished", "failed" or "killed"."""


def check_packages(settings: TrackSettings) -> None:
    """Refuses a tracker whose package is missing, before anything is done."""
    for name in settings.chosen:
        package, extra = PACKAGES[name]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"track.{name}: needs the package {package}: pip install '{extra}'") from error


def tracker_named(name: str, settings: TrackSettings, project: str, folder: Path, of: str = "") -> Tracker:
    """A tracker of a recipe.

    Args:
        project: the name that its runs are kept under. folder: the run's. of: "search" or "ablate".
    """
    match name:
        case "mlflow":
            return MLflow(settings.mlflow, project)
        case "tensorboard":
            return TensorBoard(folder / "tensorboard" / of)
        case "trackio":
            return Dashboard("trackio", project, {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False})
        case _:
            own = {"reinit": "create_new", "dir": str(folder), "settings": {"silent": True}}
            return Dashboard("wandb", project, own)


def _name(key: str) -> str:
    """A key in the characters that MLflow accepts."""
    return re.sub(r"[^\w./: -]", "_", key)


class MLflow:
    """A tracking server or a database, by MLflow's client: runs by id, so that two of them never mix."""

    def __init__(self, uri: str, project: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # by default it tries for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(project)
        database = uri.removeprefix("sqlite:///")
        beside = (Path(database).resolve().parent / "mlartifacts").as_uri() if database != uri else None
        self.experiment = found.experiment_id if found else self.client.create_experiment(project, beside)

    def open(self, name: str, parent: str, known: str) -> str:
        if known:
            self.client.update_run(known, status="RUNNING")
            return known
        tags = {"mlflow.parentRunId": parent} if parent else {}
        return self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id

    def parameters(self, run: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        rows = [Param(_name(key), value[:6000]) for key, value in values.items()]
        for first in range(0, len(rows), MOST_AT_ONCE):
            self.client.log_batch(run, params=rows[first : first + MOST_AT_ONCE])

    def metrics(self, run: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        rows = [
            Metric(_name(key), value, point.time_ms, point.step)
            for point in points
            for key, value in point.values.items()
        ]
        for first in range(0, len(rows), MOST_AT_ONCE):
            self.client.log_batch(run, metrics=rows[first : first + MOST_AT_ONCE])

    def file(self, run: str, path: Path, folder: str) -> None:
        if path.is_dir():
            self.client.log_artifacts(run, str(path), folder or path.name)
        else:
            self.client.log_artifact(run, str(path), folder or None)

    def state(self, run: str, state: str, why: str) -> None:
        told = f"{state} ({why})" if why else state
        before = self.client.get_run(run).data.tags.get(HISTORY, "")
        self.client.set_tag(run, HISTORY, f"{before}; {told}"[-5000:] if before else told)
        if state == "running":
            self.client.update_run(run, status="RUNNING")
        else:
            self.client.set_terminated(run, {"finished": "FINISHED", "killed": "KILLED"}.get(state, "FAILED"))


class TensorBoard:
    """Event files: a folder for the run, one below it for each trial. It keeps no files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: dict[str, Any] = {}

    def open(self, name: str, parent: str, known: str) -> str:
        return name if parent else "."

    def _writer(self, run: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if run not in self.writers:
            self.writers[run] = SummaryWriter(str(self.folder / run))
        return self.writers[run]

    def parameters(self, run: str, values: Mapping[str, str]) -> None:
        rows = "".join(f"| {key} | {value} |\n" for key, value in values.items())
        self._writer(run).add_text("parameters", f"| key | value |\n|---|---|\n{rows}")
        self._writer(run).flush()

    def metrics(self, run: str, points: Sequence[Point]) -> None:
        for point in points:
            for key, value in point.values.items():
                self._writer(run).add_scalar(key, value, point.step, point.time_ms / 1000)
        self._writer(run).flush()

    def file(self, run: str, path: Path, folder: str) -> None:
        pass

    def state(self, run: str, state: str, why: str) -> None:
        self._writer(run).add_text("state", f"{state}: {why}" if why else state)
        self._writer(run).flush()


class Dashboard:
    """Weights & Biases, and Trackio, which has the same calls; a run that has ended is resumed by its name."""

    def __init__(self, package: str, project: str, options: Mapping[str, Any]) -> None:
        self.module, self.project, self.options = importlib.import_module(package), project, dict(options)
        self.is_trackio = package == "trackio"
        self.groups: dict[str, str] = {}
        self.live: dict[str, Any] = {}

    def open(self, name: str, parent: str, known: str) -> str:
        run = known or f"{name}-{uuid.uuid4().hex[:8]}"
        self.groups[run] = parent or run
        self._live(run)
        return run

    def _live(self, run: str, parameters: Mapping[str, str] | None = None) -> Any:
        """The run, open."""
        if run not in self.live:
            if self.is_trackio:
                self.live.clear()  # its init ends the previous run
            # With the first line logged after `init`, Trackio overwrites the configuration that the run had.
            own = {"config": {**self._configured(run), **(parameters or {})}} if self.is_trackio else {"id": run}
            with contextlib.redirect_stdout(sys.stderr):  # Trackio says where it keeps its database
                self.live[run] = self.module.init(
                    project=self.project, name=run, group=self.groups[run], resume="allow", **own, **self.options
                )
        return self.live[run]

    def _end(self, run: str) -> None:
        if run in self.live:
            with contextlib.redirect_stdout(sys.stderr):
                self.live.pop(run).finish()

    def parameters(self, run: str, values: Mapping[str, str]) -> None:
        if not self.is_trackio:
            self._live(run).config.update(dict(values), allow_val_change=True)
            return
        self._end(run)
        self._live(run, values).log({"parameters": float(len(values))})

    def _configured(self, run: str) -> dict[str, str]:
        """The parameters that Trackio already holds for a run."""
        try:
            runs = self.module.Api().runs(self.project)
        except ValueError:  # nothing has been logged in this project yet
            return {}
        before = next((one.config or {} for one in runs if one.name == run), {})
        return {key: value for key, value in before.items() if not key.startswith("_")}

    def metrics(self, run: str, points: Sequence[Point]) -> None:
        for point in points:
            self._live(run).log({**point.values, "training_step": point.step})

    def file(self, run: str, path: Path, folder: str) -> None:
        artifact = self.module.Artifact(re.sub(r"[^\w.-]", "-", f"{run}-{path.name}"), type=folder or "result")
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        self._live(run).log_artifact(artifact)

    def state(self, run: str, state: str, why: str) -> None:
        if state != "running":
            self._live(run).log({"finished": float(state == "finished")})
            self._end(run)
