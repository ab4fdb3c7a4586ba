"""Sends a run's entries to one tracker while the run goes on."""

import contextlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.recipe.recipe import Recipe
from distiq.run.trackers import Point, Tracker, tracker_named

SECONDS = 1.0  # between two checks for new entries
RETRY = 30.0  # seconds until a tracker that did not answer is tried again
ENTRIES, STATE = "entries.jsonl", "state.json"


def place_of(folder: Path, of: str) -> Path:
    """The folder of a command's entries for trackers: "track" for a run, "track-search" for a search."""
    return folder / (f"track-{of}" if of else "track")


class Sender:
    """Sends the entries that a run folder holds, one a line, to one tracker, in a thread of its own.

    Args:
        of: "search" or "ablate"; empty for a run. state: that of all trackers; each uses its own part alone.
    """

    def __init__(self, name: str, recipe: Recipe, folder: Path, of: str, state: dict[str, Any]) -> None:
        self.name, self.recipe, self.folder, self.of = name, recipe, folder, of
        self.file, self.state_file = place_of(folder, of) / ENTRIES, place_of(folder, of) / STATE
        self.state = state
        self.own: dict[str, Any] = state["trackers"].setdefault(
            f"{name} {getattr(self.recipe.track, name)}", {"ids": {}, "told": 0}
        )
        self.opened: set[str] = set()
        self.problem, self.was_said, self.ending = "", False, threading.Event()
        self.thread = threading.Thread(target=self._work, name=f"tracking {name}", daemon=True)

    def open(self) -> None:
        """Opens the run.

        Raises:
            UserError: the tracker cannot be reached.
        """
        try:
            logging.getLogger("alembic").setLevel(logging.ERROR)  # it logs the making of a fresh database line by line
            self.tracker: Tracker = tracker_named(self.name, self.recipe.track, self.recipe.name, self.folder, self.of)
            self._id("")
        except Exception as error:  # every package raises its own exception types
            where = f'mlflow = "{self.recipe.track.mlflow}"' if self.name == "mlflow" else f"{self.name} = true"
            raise UserError(
                f"track.{where}: cannot be reached ({_short(error)}); start it, correct the address, or leave it out"
            ) from error

    @property
    def left(self) -> int:
        """How many bytes of entries have not been sent."""
        return self.file.stat().st_size - self.own["told"] if self.file.is_file() else 0

    def end(self, seconds: float) -> None:
        self.ending.set()
        self.thread.join(max(0.0, seconds))

    def problem_to_say(self) -> str:
        """Why the tracker does not answer; said once, empty afterwards."""
        if not self.problem or self.was_said:
            return ""
        self.was_said = True
        return self.problem

    def _work(self) -> None:
        while True:
            ending = self.ending.wait(RETRY if self.problem else SECONDS)
            try:
                while self._tell_some():
                    pass
                self.problem = ""
            except Exception as error:  # every package raises its own exception types; the run goes on
                self.problem = _short(error)
            if ending:
                return

    def _tell_some(self) -> bool:
        """Sends the entries that are there; returns whether there were any."""
        if not self.left:
            return False
        with self.file.open("rb") as file:
            file.seek(self.own["told"])
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        entries = [json.loads(line) for line in lines.splitlines()]
        for run in dict.fromkeys(entry["run"] for entry in entries):
            self._tell(self._id(run), [entry for entry in entries if entry["run"] == run])
        self.own["told"] += len(lines)
        write_atomically(self.state_file, json.dumps(self.state).encode())
        return bool(lines)

    def _tell(self, run: str, entries: Sequence[dict[str, Any]]) -> None:
        of = {kind: [entry for entry in entries if entry["kind"] == kind] for kind in
              ("parameters", "metrics", "file", "state")}  # fmt: skip
        for entry in of["parameters"]:
            self.tracker.parameters(run, entry["values"])
        self.tracker.metrics(run, [Point(one["time_ms"], one["step"], one["values"]) for one in of["metrics"]])
        for entry in of["file"]:
            with contextlib.suppress(FileNotFoundError):  # the step has been made again since
                self.tracker.file(run, Path(entry["path"]), entry["folder"])
        for entry in of["state"]:
            self.tracker.state(run, entry["state"], entry.get("why", ""))

    def _id(self, run: str) -> str:
        """The tracker's id of a run, which is opened if this process has not done so yet."""
        if run not in self.opened:
            own = self.folder.resolve().name + (f"-{self.of}" if self.of else "")
            name, parent = run or own, self.own["ids"].get("", "") if run else ""
            self.own["ids"][run] = self.tracker.open(name, parent, self.own["ids"].get(run, ""))
            self.opened.add(run)
            write_atomically(self.state_file, json.dumps(self.state).encode())
        return self.own["ids"][run]


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
