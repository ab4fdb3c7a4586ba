"""The run folder: steps keyed by the hash of what they are made from, written whole, reused when nothing changed.

steps/<name>-<key>/            a finished step: record.json, its files, and step.json: their checksums, its seconds
steps/<name>-<key>.partial/    a step under way; its training checkpoint survives a kill
steps/<name>-<key>.damaged/    a step that was set aside; what of it is intact serves to make it again
records/                       what the report reads
.distiq, .lock                 see `folder`; held while a run is writing
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from filelock import FileLock, Timeout

from distiq.errors import UserError
from distiq.files import make_folder, sync_files, sync_folder, write_atomically
from distiq.progress import Silent, Watch
from distiq.records.record import Record
from distiq.run import salvage
from distiq.run.folder import LOCK, check_folder, is_done, keep_recipe, mark_done, mark_folder, sweep
from distiq.run.keys import step_key
from distiq.training import processes

CHECKPOINT = "checkpoint.safetensors"
R = TypeVar("R", bound=Record)


class Step(NamedTuple, Generic[R]):
    """A finished step: its record, its folder, its key, the seconds that it took."""

    record: R
    folder: Path
    key: str
    seconds: float


class Place(NamedTuple):
    """Where a step is made: its folder, the run's cache, and where progress is shown. None affects the result."""

    folder: Path
    cache: Path
    watch: Watch


class Follower(Protocol):
    """Is notified when a step begins and when it ends; of a step that was found finished, only of its end."""

    def begins(self, step: str) -> None: ...
    def ends(self, step: str, record: object, folder: Path) -> None: ...


class Ledger:
    """A run folder, held by one run at a time. Use it as a context manager.

    Of a run's processes the main one holds it and writes; the others wait for its results.

    `used` holds the steps that were requested since it was entered, by folder name.

    Args:
        watch: receives what is being made, what was damaged and what could be saved of it.
        recipe_file: the file that the run's recipe was read from, if any; it is never written to.
        chosen: the folder was named by the user and may serve several recipes.
        follower: notified of every step.

    Raises:
        UserError: on entering, when another run holds the folder, or the folder is not distiq's, belongs to another
            recipe, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        watch: Watch | None = None,
        recipe_file: Path | None = None,
        chosen: bool = True,
        follower: Follower | None = None,
    ) -> None:
        self.folder, self.watch = Path(folder), watch or Silent()
        self.records, self.cache = self.folder / "records", self.folder / "cache"
        self.used: dict[str, Step[Any]] = {}
        self._recipe_file, self._chosen, self._follower = recipe_file, chosen, follower
        self._lock = FileLock(self.folder / LOCK)

    def __enter__(self) -> "Ledger":
        processes.on_main(self._take)
        return self

    def _take(self) -> None:
        try:
            check_folder(self.folder, self._recipe_file, self._chosen)
            make_folder(self.folder)
            self._lock.acquire(timeout=0)
            mark_folder(self.folder, self._recipe_file)
            sweep(self.folder)
        except Timeout:
            raise UserError(
                f"{self.folder}: another distiq run is writing here; wait for it, or give this one its own folder"
                " with --run"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write here ({error.strerror}); choose another with --run"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def keep_recipe(self, text: str) -> None:
        """Leaves the recipe as it was understood in the folder; see `folder.keep_recipe`."""
        if processes.is_main() and (said := keep_recipe(self.folder, text, self._recipe_file)):
            self.watch.note(said)

    def once(self, name: str, title: str, work: Callable[[], None]) -> None:
        """Runs work that leaves no files behind, once for the same values and code; the folder's mark remembers it.

        Args:
            work: a `functools.partial` that binds by keyword what it is made from, as in `step`.
        """

        def tried() -> None:
            key = f"{name}-{step_key(name, work)}"
            if not is_done(self.folder, key):
                self.watch.stage(title)
                work()
                mark_done(self.folder, key)

        processes.on_main(tried)

    def step(
        self,
        name: str,
        title: str,
        kind: type[R],
        make: Callable[[Place], R | None],
        *,
        together: bool = False,
        watch: Watch | None = None,
    ) -> Step[R]:
        """The step's result: read if the same code made it from the same values, else made and kept.

        Args:
            title: shown while it is made.
            make: fills the folder and returns the record; it finds there what a killed attempt left, and what is
                intact of a damaged step. A function, or a `functools.partial` of one that binds by keyword all that
                the result is made from: see `step_key`.
            together: every process of the run makes it. The main one's record counts, and it alone writes; the others
                may return None.
            watch: shows its progress; by default the run's.
        """
        key = step_key(name, make)
        final = self.folder / "steps" / f"{name}-{key}"
        step: Step[R] | None = processes.on_main(lambda: self._kept(final, key, kind))
        if step is None:
            partial, record, began = _partial(final), None, time.monotonic()
            with _writing(partial):
                if self._follower:
                    self._follower.begins(name)
                if together or processes.is_main():
                    (watch or self.watch).stage(title)
                    record = make(Place(partial, self.cache, watch or self.watch))
                step = processes.on_main(lambda: _kept_from_now(record, partial, final, key, time.monotonic() - began))
        self.used[step.folder.name] = step
        if self._follower:
            self._follower.ends(name, step.record, step.folder)
        return step

    def _kept(self, final: Path, key: str, kind: type[R]) -> Step[R] | None:
        """The finished step, its record repaired if nothing else was damaged; a step with other damage is set aside."""
        if not final.is_dir():
            return None
        state = salvage.examine(final, kind, CHECKPOINT)
        if state.problem:
            self._say(final, state.problem)
        if state.record is None:
            salvage.set_aside(final, _partial(final), state.intact)
            return None
        if state.problem:
            salvage.write_facts(final, state.record, state.seconds, CHECKPOINT)
        (final / CHECKPOINT).unlink(missing_ok=True)
        return Step(state.record, final, key, state.seconds)

    def _say(self, final: Path, problem: str) -> None:
        self.watch.note(f"{final.name}: {problem}")
        file = self.folder / "steps" / "repaired.txt"
        before = file.read_bytes() if file.is_file() else b""
        write_atomically(file, before + f"{final.name}: {problem}\n".encode())


def _partial(final: Path) -> Path:
    return final.with_name(final.name + ".partial")


@contextlib.contextmanager
def _writing(partial: Path) -> Iterator[None]:
    """Makes a step's folder; if writing fails, says what to do about it and leaves no empty folder behind."""
    try:
        if processes.is_main():
            make_folder(partial)
        yield
    except OSError as error:
        raise UserError(
            f"{partial}: writing failed ({error.strerror or error}); free the disk or choose another folder with"
            " --run, then run again: finished steps are kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.rmdir()


def _kept_from_now(record: R | None, partial: Path, final: Path, key: str, seconds: float) -> Step[R]:
    """Finishes a step: its record and checksums are written, then its folder gets its final name."""
    assert record is not None
    training = getattr(record, "training", None)  # includes the seconds of killed attempts
    seconds = max(seconds, training.seconds if training else 0.0)
    salvage.write_facts(partial, record, seconds, CHECKPOINT)
    sync_files(partial)
    partial.rename(final)
    sync_folder(final.parent)
    (final / CHECKPOINT).unlink(missing_ok=True)  # last, so that a kill before it costs no training
    return Step(record, final, key, seconds)
