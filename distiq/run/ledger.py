"""The run folder: steps keyed by the hash of what they are made from, written whole, reused when nothing changed.

steps/<name>-<key>/            a finished step: record.json, its files, and step.json: their checksums, its seconds
steps/<name>-<key>.partial/    a step under way; its training checkpoint survives a kill
records/                       what the report reads
.lock                          held while a run is writing
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from distiq.errors import UserError
from distiq.files import PARTIAL, sha256_of_file, sha256_of_json, write_atomically
from distiq.records.record import Record
from distiq.training import processes

PACKAGE = Path(__file__).parents[1]
CHECKPOINT = "checkpoint.safetensors"
FINISHED = "step.json"
R = TypeVar("R", bound=Record)


class Step(NamedTuple):
    """A finished step: its record, its folder, its key, the seconds that it took."""

    record: Any
    folder: Path
    key: str
    seconds: float


class Ledger:
    """A run folder, held by one run at a time. Use it as a context.

    Of a run's processes the main one holds it and writes; the others wait for its results.

    `used` are the steps that were asked for since it was entered, by folder name.

    Raises:
        UserError: on entering, when another run holds the folder or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.records = self.folder / "records"
        self.used: dict[str, Step] = {}
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
        self,
        name: str,
        inputs: dict[str, Any],
        code: tuple[str, ...],
        kind: type[R],
        make: Callable[[Path], R | None],
        *,
        together: bool = False,
    ) -> Step:
        """The step's result: read if it was made from the same inputs by the same code, else made and kept.

        Args:
            inputs: everything that decides the result, as JSON values; keys of earlier steps among them.
            code: the rooms and files of distiq that make it, such as "training.py" or "data".
            make: fills the given folder and returns the record. It finds what a killed attempt left there.
            together: every process of the run makes it. The main one's record counts, and it alone writes; the others
                may leave with None.
        """
        key = sha256_of_json({"name": name, "inputs": inputs, "code": source_hash(*code)})[:16]
        final = self.folder / "steps" / f"{name}-{key}"
        step = processes.on_main(lambda: self._kept(final, key, kind))
        if step is None:
            if together and not processes.is_main():
                make(_partial(final))
            step = processes.on_main(lambda: self._made(final, key, make))
        self.used[step.folder.name] = step
        return step

    def _kept(self, final: Path, key: str, kind: type[Record]) -> Step | None:
        """The step as it was finished; what is damaged is removed."""
        if not final.is_dir():
            return None
        found = _finished(final, key, kind)
        if isinstance(found, Step):
            return found
        shutil.rmtree(final)
        write_atomically(self.folder / "steps" / "repaired.txt", f"{final.name}: {found}; made again\n".encode())
        return None

    def _made(self, final: Path, key: str, make: Callable[[Path], Record | None]) -> Step:
        partial = _partial(final)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            record = make(partial)
            assert record is not None
            record.save(partial / "record.json")
            training = getattr(record, "training", None)  # knows the seconds of killed attempts, too
            seconds = max(time.monotonic() - began, training.seconds if training else 0.0)
            beside = {CHECKPOINT, FINISHED}
            files = [file for file in sorted(partial.iterdir()) if file.is_file() and file.name not in beside]
            facts = {"seconds": seconds, "sha256": {file.name: sha256_of_file(file) for file in files}}
            write_atomically(partial / FINISHED, json.dumps(facts, indent=1).encode())
            partial.rename(final)
            (final / CHECKPOINT).unlink(missing_ok=True)  # last, so that a kill before it costs no training
        except OSError as error:
            raise UserError(
                f"{partial}: writing failed ({error.strerror or error}); free the disk or choose another folder with"
                " --run, then run again: finished steps are kept"
            ) from error
        return Step(record, final, key, seconds)


def _partial(final: Path) -> Path:
    return final.with_name(final.name + ".partial")


def _finished(folder: Path, key: str, kind: type[Record]) -> Step | str:
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


def source_hash(*rooms: str) -> str:
    """Hash of the source of the given files and folders of distiq: the code's version, to the letter."""
    sha = hashlib.sha256()
    for room in sorted(rooms):
        path = PACKAGE / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()
