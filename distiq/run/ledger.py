"""The run folder: steps keyed by the hash of what they are made from, written whole, reused when nothing changed.

steps/<name>-<key>/            a finished step: record.json, its files, and step.json: their checksums, its seconds
steps/<name>-<key>.partial/    a step under way; its training checkpoint survives a kill
records/                       what the report reads
.lock                          held while a run is writing
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from distiq.errors import UserError
from distiq.files import PARTIAL, sha256_of_file, write_atomically
from distiq.progress import Silent, Watch
from distiq.records.record import Record
from distiq.run.keys import step_key
from distiq.training import processes

CHECKPOINT = "checkpoint.safetensors"
FINISHED = "step.json"
R = TypeVar("R", bound=Record)


class Step(NamedTuple, Generic[R]):
    """A finished step: its record, its folder, its key, the seconds that it took."""

    record: R
    folder: Path
    key: str
    seconds: float


class Place(NamedTuple):
    """Where a step is made: its folder, the run's cache, and who watches. None of them decides the result."""

    folder: Path
    cache: Path
    watch: Watch


class Ledger:
    """A run folder, held by one run at a time. Use it as a context.

    Of a run's processes the main one holds it and writes; the others wait for its results.

    `used` are the steps that were asked for since it was entered, by folder name.

    Args:
        watch: told what is being made.

    Raises:
        UserError: on entering, when another run holds the folder or it cannot be written.
    """

    def __init__(self, folder: Path, watch: Watch | None = None) -> None:
        self.folder, self.watch = Path(folder), watch or Silent()
        self.records = self.folder / "records"
        self.used: dict[str, Step[Any]] = {}
        self._lock = FileLock(self.folder / ".lock")

    def __enter__(self) -> "Ledger":
        processes.on_main(self._take)
        return self

    def _take(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._sweep()
        except Timeout:
            raise UserError(
                f"{self.folder}: another distiq run is writing here; wait for it, or give this one its own folder"
                " with --run"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write here ({error.strerror}); choose another with --run"
            ) from error

    def _sweep(self) -> None:
        """Removes what was being written when its run was killed, in the places where this run writes alone."""
        for place in ("", "records/", "cache/*/", "steps/", "steps/*/"):
            for left in list(self.folder.glob(place + PARTIAL)):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def step(
        self, name: str, title: str, kind: type[R], make: Callable[[Place], R | None], *, together: bool = False
    ) -> Step[R]:
        """The step's result: read if the same code made it from the same values, else made and kept.

        Args:
            title: what is said while it is made.
            make: fills the folder and returns the record; it finds what a killed attempt left there. A function, or a
                `functools.partial` of one that binds by keyword all that the result is made from: see `step_key`.
            together: every process of the run makes it. The main one's record counts, and it alone writes; the others
                may leave with None.
        """
        key = step_key(name, make)
        final = self.folder / "steps" / f"{name}-{key}"
        step: Step[R] | None = processes.on_main(lambda: self._kept(final, key, kind))
        if step is None:
            partial, record, began = final.with_name(final.name + ".partial"), None, time.monotonic()
            with _writing(partial):
                if together or processes.is_main():
                    self.watch.stage(title)
                    record = make(Place(partial, self.folder / "cache", self.watch))
                step = processes.on_main(lambda: _kept_from_now(record, partial, final, key, time.monotonic() - began))
        self.used[step.folder.name] = step
        return step

    def _kept(self, final: Path, key: str, kind: type[R]) -> Step[R] | None:
        """The step as it was finished; what is damaged is removed."""
        if not final.is_dir():
            return None
        step = _finished(final, key, kind)
        if isinstance(step, Step):
            return step
        shutil.rmtree(final)
        write_atomically(self.folder / "steps" / "repaired.txt", f"{final.name}: {step}; made again\n".encode())
        return None


@contextlib.contextmanager
def _writing(partial: Path) -> Iterator[None]:
    """Makes a step's folder, and says what to do where the disk refuses."""
    try:
        if processes.is_main():
            partial.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{partial}: writing failed ({error.strerror or error}); free the disk or choose another folder with"
            " --run, then run again: finished steps are kept"
        ) from error


def _kept_from_now(record: R | None, partial: Path, final: Path, key: str, seconds: float) -> Step[R]:
    """Finishes a step: its record and checksums are written, then its folder gets its final name."""
    assert record is not None
    record.save(partial / "record.json")
    training = getattr(record, "training", None)  # knows the seconds of killed attempts, too
    seconds = max(seconds, training.seconds if training else 0.0)
    beside = {CHECKPOINT, FINISHED}
    files = [file for file in sorted(partial.iterdir()) if file.is_file() and file.name not in beside]
    facts = {"seconds": seconds, "sha256": {file.name: sha256_of_file(file) for file in files}}
    write_atomically(partial / FINISHED, json.dumps(facts, indent=1).encode())
    partial.rename(final)
    (final / CHECKPOINT).unlink(missing_ok=True)  # last, so that a kill before it costs no training
    return Step(record, final, key, seconds)


def _finished(folder: Path, key: str, kind: type[R]) -> Step[R] | str:
    """A finished step as it was written, or what is wrong with it."""
    try:
        facts = json.loads((folder / FINISHED).read_bytes())
        checksums, seconds = facts["sha256"].items(), float(facts["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its checksums cannot be read"
    for name, expected in checksums:
        file = folder / name
        if not file.is_file() or sha256_of_file(file) != expected:
            return f"{name} is missing or damaged"
    try:
        record = kind.load(folder / "record.json")
    except (OSError, ValidationError):
        return "its record is of another form"
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return Step(record, folder, key, seconds)
