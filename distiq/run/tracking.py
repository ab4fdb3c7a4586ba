"""A command as trackers see it: one run, with a child for each trial, candidate or arm, even where a process was killed
or a tracker could not be reached in between.

track/entries.jsonl   the entries to send, one a line, written as things happen
track/state.json      the recipe that they belong to, the trackers' ids of the runs, how much each tracker has received
track-search/, track-ablate/   the same for the other commands

A thread reads the lines and sends them, so that no tracker keeps a training waiting; what a tracker missed because the
process died, or its server was away, is sent when the same command runs again.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from distiq import environment
from distiq.data.splits import Data
from distiq.files import make_folder, sha256_of_json, write_atomically
from distiq.progress import Watch
from distiq.recipe.recipe import Recipe
from distiq.records.quality import Quality
from distiq.records.run import RunRecord
from distiq.records.training import TrainingRecord
from distiq.run.measure import LOGITS
from distiq.run.sender import ENTRIES, STATE, Sender, place_of
from distiq.run.trackers import check_packages
from distiq.training import processes

CURVE = 200  # values of a curve, at most
PATIENCE = 60.0  # seconds that the end of a run waits for its trackers
NO_FILES = {LOGITS, "record.json", "step.json"}  # of a trial's step: distiq's own


class Tracking:
    """Passes progress on to `watch` and reports it to the recipe's trackers. Use it as a context manager, inside the
    ledger's.

    Args:
        of: "search" or "ablate", which have runs of their own; empty for a run.

    Raises:
        UserError: a tracker's package is missing; on entering, a tracker cannot be reached.
    """

    def __init__(self, recipe: Recipe, folder: Path, command: str, watch: Watch, of: str = "") -> None:
        self.recipe, self.folder, self.command, self.watch, self.of = recipe, Path(folder), command, watch, of
        self.place = place_of(self.folder, of)
        self.on = bool(recipe.track.chosen) and processes.is_main()
        self.run, self.scope, self.done = "", "", 0  # "" is the run itself, else the name of a child
        self.within = ""  # the child that all steps belong to
        self.making = False  # whether a step of the ledger is under way
        self.last: dict[str, int] = {}  # the step that each curve has reached
        self.said: set[str] = set()  # parameters and files that are in the entries already
        self.senders: list[Sender] = []
        if self.on:
            check_packages(recipe.track)

    def __enter__(self) -> "Tracking":
        if not self.on:
            return self
        digest = sha256_of_json(self.recipe.model_dump(mode="json", exclude={"track"}))
        state = _state(self.place)
        if state.get("recipe") != digest:
            shutil.rmtree(self.place, ignore_errors=True)
            state = {"recipe": digest, "trackers": {}}
        make_folder(self.place)
        before = self._read_back()
        self.senders = [Sender(name, self.recipe, self.folder, self.of, state) for name in self.recipe.track.chosen]
        for sender in self.senders:
            sender.open()
        for sender in self.senders:
            sender.thread.start()
        if before == "running":
            self._write(kind="state", state="running", why="killed, and taken up again")
        else:
            self._write(kind="state", state="running", why="taken up again" if before else "")
        self._parameters(
            {
                "command": self.command,
                **_flat(self.recipe.model_dump(mode="json"), ""),
                **{f"version.{name}": one for name, one in environment.describe().versions.items()},
            }
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.on:
            return
        state = "finished" if kind is None else "killed" if issubclass(kind, KeyboardInterrupt) else "failed"
        if self.run:
            self._write(kind="state", run=self.run, state=state)
        self._write(kind="state", state=state, why=f"{value}" if kind else "")
        until = time.monotonic() + PATIENCE
        for sender in self.senders:
            sender.end(until - time.monotonic())
            if left := sender.left:
                self.watch.note(
                    f"tracking: {sender.name} was not told the last {left} bytes of {self.place / 'entries.jsonl'};"
                    " the same command tells them"
                )

    # What a run does --------------------------------------------------------------------------------------------------

    def read(self, data: Data) -> None:
        """The data was read."""
        if self.on:
            self._parameters({"data.digest": data.digest(), "data.train": str(len(data.train))})

    def begins(self, step: str) -> None:
        """The ledger is making the step of that name."""
        if self.on:
            self._go_to(step)
            self.making, self.done = True, 0

    def ends(self, step: str, record: object, folder: Path) -> None:
        """A step is finished, whether it was just made or found in the folder."""
        if not self.on:
            return
        self._go_to(step)
        self.making = False
        training = getattr(record, "training", None)
        if isinstance(training, TrainingRecord):
            self._history(training)
        self._values(_figures(record), 0)
        if self.run and not self.within:
            for file in sorted(path for path in folder.iterdir() if path.is_file() and path.name not in NO_FILES):
                self._file(file, "files")
        self._say()

    @contextlib.contextmanager
    def child(self, name: str, parameters: Mapping[str, str]) -> Iterator[None]:
        """Everything done within is reported to a child run of that name; an exception ends the child with the run."""
        if not self.on:
            yield
            return
        self.within = name
        self._enter(name)
        self._parameters(parameters)
        yield
        self.making, self.within = False, ""
        self._enter("")

    def tell(
        self,
        figures: Mapping[str, float],
        step: int = 0,
        parameters: Mapping[str, str] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """Reports the results of the child, or of the command itself.

        Args:
            step: the figures' place in their curves; places that a curve has already reached are not reported again.
            parameters: values that never change, since trackers refuse to replace one.
        """
        if self.on:
            self.scope = ""
            self._values(figures, step)
            self._parameters(parameters or {})
            for file in files:
                self._write(kind="file", run=self.run, path=str(file), folder="")

    def finished(self, record: RunRecord) -> None:
        """The run's record is written, with bundle and report."""
        if not self.on:
            return
        for trial in record.trials:
            self._enter(trial.rung)
            self._parameters({"rung": trial.rung, "scheme": trial.scheme, "reason": trial.reason})
        self._enter("")
        self._parameters({"data.digest": record.data.digest})
        delivered = next(trial.deployed for trial in record.trials if trial.rung == record.verdict.chosen)
        self._values({"budget met": float(record.verdict.met), **_of_quality("delivered", delivered.test)}, 0)
        self._write(kind="parameters", values={"delivered": record.verdict.chosen})
        for name in ("report.html", "recipe.toml", "records", "bundle"):
            self._write(kind="file", path=str(self.folder / name), folder="")

    # A watch ----------------------------------------------------------------------------------------------------------

    def stage(self, title: str) -> None:
        self.watch.stage(title)
        self._say()

    def note(self, text: str) -> None:
        self.watch.note(text)

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        self.watch.step(done, total, values)
        if self.making:
            self.done = done
            if done % max(1, total // CURVE) == 0 or done == total:
                numbers = {key: one for key, one in values.items() if isinstance(one, float) and key != "samples/s"}
                self._values(numbers, done)

    def epoch(self, number: int, goodness: float | None) -> None:
        self.watch.epoch(number, goodness)
        if self.making and goodness is not None:
            self._values({"validation": goodness}, self.done)

    # Lines ------------------------------------------------------------------------------------------------------------

    def _go_to(self, step: str) -> None:
        """Switches to the run that a step belongs to: its trial's, the child that is under way, or the run itself."""
        is_trial = step.startswith("trial-")
        self._enter(self.within or (step.removeprefix("trial-") if is_trial else ""))
        self.scope = "" if is_trial else step.removesuffix("-predictions")

    def _enter(self, run: str) -> None:
        if run == self.run:
            return
        if self.run:
            self._write(kind="state", run=self.run, state="finished")
        self.run, self.scope = run, ""
        if run:
            self._write(kind="state", run=run, state="running")

    def _history(self, training: TrainingRecord) -> None:
        """Reports the epochs of a training that were not reported while it ran."""
        for entry in training.epochs:
            step = entry.epoch * training.steps // max(1, len(training.epochs))
            metric = {"validation": entry.validation.goodness} if entry.validation else {}
            self._values({**entry.losses, "lr": entry.learning_rate, **metric}, step)

    def _values(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of a step, except those that their curve has already passed: a resumed training repeats them."""
        named = {f"{self.scope}/{key}" if self.scope else key: one for key, one in values.items()}
        fresh = {
            key: one
            for key, one in named.items()
            if math.isfinite(one) and self.last.get(f"{self.run}|{key}", -1) < step
        }
        if fresh:
            self.last |= {f"{self.run}|{key}": step for key in fresh}
            self._write(kind="metrics", run=self.run, step=step, values=fresh)

    def _parameters(self, values: Mapping[str, str]) -> None:
        fresh = {key: one for key, one in values.items() if f"{self.run}|{key}" not in self.said}
        if fresh:
            self.said |= {f"{self.run}|{key}" for key in fresh}
            self._write(kind="parameters", run=self.run, values=fresh)

    def _file(self, path: Path, folder: str) -> None:
        if f"{self.run}|{path}" not in self.said:
            self.said.add(f"{self.run}|{path}")
            self._write(kind="file", run=self.run, path=str(path), folder=folder)

    def _write(self, **entry: Any) -> None:
        line = json.dumps({"time_ms": int(1000 * time.time()), "run": "", **entry})
        with (self.place / ENTRIES).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _read_back(self) -> str:
        """Restores what was reported before; returns the last state of the run, empty where there was none."""
        state, file = "", self.place / ENTRIES
        whole = file.read_text(encoding="utf-8") if file.is_file() else ""
        if whole and not whole.endswith("\n"):  # the process was killed while it wrote the line
            whole = whole[: whole.rfind("\n") + 1]
            write_atomically(file, whole.encode())
        for entry in map(json.loads, whole.splitlines()):
            run = entry["run"]
            match entry["kind"]:
                case "metrics":
                    for key in entry["values"]:
                        self.last[f"{run}|{key}"] = max(entry["step"], self.last.get(f"{run}|{key}", -1))
                case "parameters":
                    self.said |= {f"{run}|{key}" for key in entry["values"]}
                case "file":
                    self.said.add(f"{run}|{entry['path']}")
                case _:
                    state = state if run else entry["state"]
        return state

    def _say(self) -> None:
        for sender in self.senders:
            if problem := sender.problem_to_say():
                self.watch.note(
                    f"tracking: {sender.name} does not take what it is told ({problem}); the run goes on, and tells it"
                    " again later"
                )


def _state(place: Path) -> dict[str, Any]:
    try:
        return json.loads((place / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _flat(tree: Mapping[str, Any], before: str) -> dict[str, str]:
    """Keys of a recipe with their places: "student.training.epochs"."""
    rows: dict[str, str] = {}
    for key, value in tree.items():
        rows |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": json.dumps(value)}
    return rows


def _of_quality(place: str, quality: Quality) -> dict[str, float]:
    return {f"{place}/{metric.name}": metric.value for metric in (quality.primary, *quality.metrics)}


def _figures(record: object) -> dict[str, float]:
    """What a step measured: quality by split, size, latency, SQNR; empty for a step that measures nothing."""
    deployed = getattr(record, "deployed", None)
    scores, cost = getattr(deployed or record, "scores", record), getattr(record, "cost", None)
    rows: dict[str, float] = {}
    for split in ("validation", "test"):
        if isinstance(quality := getattr(scores, split, None), Quality):
            rows |= _of_quality(split, quality)
    if cost is not None:
        rows["size_bytes"] = float(cost.size_bytes)
        rows["latency_ms"] = cost.timed("", cost.alone).at_batch(1).p50_ms
    if deployed is not None:
        rows["sqnr_db"] = deployed.sqnr_db
    return rows
