"""clean(run): removes from a run folder what no record names."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from distiq.errors import UserError
from distiq.records.ablation import AblationRecord
from distiq.report.reading import read_record, read_run, read_search
from distiq.run.ledger import Ledger

STEP = re.compile(r".+-[0-9a-f]{16}(\.partial|\.damaged(-\d+)?)?")
PACK = re.compile(r"pack-[0-9a-f]{16}")
STORE = re.compile(r"teacher-[0-9a-f]{16}-[0-9a-f]{6}-seed\d+")


class Unnamed(NamedTuple):
    """A folder that no record of the run names, and its size."""

    path: Path
    size_bytes: int


def clean(run: Path, dry_run: bool = False) -> tuple[Unnamed, ...]:
    """Removes the steps, packs and stored teachers' outputs that no record of the run, its ablation or search names.

    These belong to earlier settings, are unfinished, or were set aside as damaged. What distiq did not name stays.

    Args:
        run: the folder of a finished run.
        dry_run: remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        UserError: the run is not finished, a record cannot be read, or another process writes there.
    """
    if not (run / "records" / "run.json").is_file():
        raise UserError(
            f"{run}: no finished run, so no record names what is to be kept; `distiq run RECIPE --run {run}` ends it"
        )
    with Ledger(run) as ledger:
        named = _named(ledger.records)
        packs = read_run(ledger.records).data.packs
        unnamed = tuple(Unnamed(path, _size(path)) for path in _unnamed(ledger.folder, named, packs))
        for entry in () if dry_run else unnamed:
            shutil.rmtree(entry.path)
        return unnamed


def _named(records: Path) -> set[str]:
    """The folders of the steps that records name."""
    named = set(read_run(records).steps.values())
    ablation = records / "ablation.json"
    if ablation.is_file():
        named |= set(read_record(ablation, AblationRecord, "`distiq ablate RECIPE` again writes it").steps)
    if (search := read_search(records)) is not None:
        named |= set(search.steps)
    return named


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _unnamed(folder: Path, named: set[str], packs: Sequence[str]) -> Iterator[Path]:
    """Steps and packs by their names; a teacher's stored outputs by its step's name, which begins theirs."""
    steps, stores, packed = (
        [entry for entry in sorted((folder / room).glob("*")) if pattern.fullmatch(entry.name)]
        for room, pattern in (("steps", STEP), ("cache", STORE), ("cache", PACK))
    )
    yield from (step for step in steps if step.name not in named)
    teachers = tuple(f"teacher-{step.rpartition('-')[2]}-" for step in named)
    yield from (store for store in stores if not store.name.startswith(teachers))
    yield from (pack for pack in packed if pack.name not in packs)
