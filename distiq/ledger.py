"""The run folder: steps keyed by the hash of what they are made from, written whole, reused when nothing changed.

steps/<name>-<key>/            a finished step: record.json, its files, and their checksums
steps/<name>-<key>.partial/    a step under way; its training checkpoint survives a kill
records/                       what the report reads
.lock                          held while a run is writing
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from distiq.errors import UserError
from distiq.files import sha256_of_file, sha256_of_json, write_atomically
from distiq.records import Record

PACKAGE = Path(__file__).parent
CHECKPOINT = "checkpoint.safetensors"
CHECKSUMS = "checksums.json"
STEP = re.compile("-[0-9a-f]{16}")
R = TypeVar("R", bound=Record)


class Step(NamedTuple):
    """A finished step: its record, its folder, its key."""

    record: Any
    folder: Path
    key: str


class Ledger:
    """A run folder, held by one process at a time. Use it as a context.

    Raises:
        UserError: on entering, when another process holds the folder or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.records = self.folder / "records"
        self._lock = FileLock(self.folder / ".lock")

    def __enter__(self) -> "Ledger":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.folder}: another distiq run is writing here; wait for it, or give this one its own folder"
                " with --run"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write here ({error.strerror}); choose another with --run"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def step(
        self, name: str, inputs: dict[str, Any], code: tuple[str, ...], kind: type[R], make: Callable[[Path], R]
    ) -> Step:
        """The step's result: read if it was made from the same inputs by the same code, else made and kept.

        Args:
            inputs: everything that decides the result, as JSON values; keys of earlier steps among them.
            code: the rooms and files of distiq that make it, such as "training.py" or "data".
            make: fills the given folder and returns the record. It finds what a killed attempt left there.
        """
        key = sha256_of_json({"name": name, "inputs": inputs, "code": source_hash(*code)})[:16]
        final = self.folder / "steps" / f"{name}-{key}"
        if final.is_dir():
            if (damage := _damage(final)) is None:
                return Step(kind.load(final / "record.json"), final, key)
            shutil.rmtree(final)
            write_atomically(self.folder / "steps" / "repaired.txt", f"{final.name}: {damage}; made again\n".encode())
        partial = final.with_name(final.name + ".partial")
        try:
            partial.mkdir(parents=True, exist_ok=True)
            record = make(partial)
            record.save(partial / "record.json")
            (partial / CHECKPOINT).unlink(missing_ok=True)
            (partial / CHECKSUMS).unlink(missing_ok=True)  # of an attempt that was killed right here
            checksums = {file.name: sha256_of_file(file) for file in sorted(partial.iterdir()) if file.is_file()}
            write_atomically(partial / CHECKSUMS, json.dumps(checksums, indent=1).encode())
            partial.rename(final)
        except OSError as error:
            raise UserError(
                f"{partial}: writing failed ({error.strerror or error}); free the disk or choose another folder with"
                " --run, then run again: finished steps are kept"
            ) from error
        return Step(record, final, key)

    def latest(self, name: str) -> Path:
        """The folder of the newest finished step of a name.

        Raises:
            UserError: there is none.
        """
        found = [path for path in self.folder.glob(f"steps/{name}-*") if STEP.fullmatch(path.name.removeprefix(name))]
        if not found:
            raise UserError(f'{self.folder}: no finished step "{name}"; run the recipe again')
        return max(found, key=lambda path: path.stat().st_mtime)


def _damage(folder: Path) -> str | None:
    """What is wrong with a finished step's files; None if they are as they were written."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_bytes())
    except (OSError, ValueError):
        return "its checksums cannot be read"
    for name, expected in checksums.items():
        file = folder / name
        if not file.is_file() or sha256_of_file(file) != expected:
            return f"{name} is missing or damaged"
    return None


def source_hash(*rooms: str) -> str:
    """Hash of the source of the given files and folders of distiq: the code's version, to the letter."""
    sha = hashlib.sha256()
    for room in sorted(rooms):
        path = PACKAGE / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()


def replace_folder(new: Path, target: Path) -> None:
    """Puts the finished folder `new` in the place of `target`, which may exist."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
