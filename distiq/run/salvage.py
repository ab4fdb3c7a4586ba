"""What a finished step still holds when some of it is damaged: its record, its weights.

The record is stored twice, in record.json and in step.json, and files of tensors hold their own checksums; so one
damaged file costs that file alone, and no training.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from distiq.files import is_intact, sha256_of_file, write_atomically
from distiq.records.record import Record

FACTS, RECORD = "step.json", "record.json"
TENSORS = ".safetensors"


class State(NamedTuple):
    """A finished step as it is found: the record if it can be used, what is wrong with it, which files are intact."""

    record: Any
    seconds: float
    problem: str
    intact: tuple[Path, ...]


def write_facts(folder: Path, record: Record, seconds: float, checkpoint: str) -> None:
    """Writes the record, then step.json: the checksums of all files but the training's checkpoint."""
    record.save(folder / RECORD)
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in (checkpoint, FACTS)]
    facts = {
        "seconds": seconds,
        "sha256": {file.name: sha256_of_file(file) for file in files},
        "record": json.loads(record.model_dump_json()),
    }
    write_atomically(folder / FACTS, json.dumps(facts, indent=1).encode())


def examine(folder: Path, kind: type[Record], checkpoint: str) -> State:
    """Verifies a finished step. Its record is None where the step has to be made again."""
    facts = _facts(folder / FACTS)
    checksums = facts.get("sha256", {})
    files = [file for file in folder.iterdir() if file.is_file() and file.name not in (checkpoint, FACTS, RECORD)]
    intact = tuple(file for file in files if _holds(file, checksums))
    lost = sorted({file.name for file in files if file not in intact} | (checksums.keys() - {RECORD} - _names(files)))
    own = folder / RECORD
    record = _loaded(own, kind)
    if record is not None and facts and sha256_of_file(own) != checksums.get(RECORD):
        record = None
    if record is not None and facts and not lost:
        return State(record, float(facts["seconds"]), "", intact)
    if lost:
        names = " and ".join(lost)
        problem = f"{names} is missing or damaged" if facts else f"{FACTS} is damaged, and nothing vouches for {names}"
        return State(None, 0.0, f"{problem}; set aside and made again", intact)
    if not facts:
        # The list of files is lost: weights that match their own checksum and an intact record are enough.
        if record is not None and intact:
            training = getattr(record, "training", None)
            seconds = training.seconds if training else 0.0
            return State(
                record, seconds, f"{FACTS} was damaged; its files hold their own checksums and are used", intact
            )
        return State(None, 0.0, f"{FACTS} and with it the checksums are damaged; set aside and made again", intact)
    record = _validated(facts.get("record"), kind)
    if record is None:
        return State(None, 0.0, f"{RECORD} is damaged or of another form; set aside and made again", intact)
    return State(record, float(facts["seconds"]), f"{RECORD} was damaged; mended from {FACTS}", intact)


def set_aside(folder: Path, partial: Path, intact: tuple[Path, ...]) -> None:
    """Moves a damaged step out of the way and copies its intact tensors to where the step will be made again."""
    aside = folder.with_name(f"{folder.name}.damaged")
    number = 2
    while aside.exists():
        aside, number = folder.with_name(f"{folder.name}.damaged-{number}"), number + 1
    folder.rename(aside)
    partial.mkdir(exist_ok=True)
    for file in intact:
        if file.suffix == TENSORS and not (partial / file.name).exists():
            shutil.copy2(aside / file.name, partial / file.name)


def _facts(file: Path) -> dict[str, Any]:
    """What step.json says; nothing if it cannot be read."""
    try:
        facts = json.loads(file.read_bytes())
        readable = {str(name): str(value) for name, value in facts["sha256"].items()}
        return {"sha256": readable, "seconds": float(facts["seconds"]), "record": facts.get("record")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _holds(file: Path, checksums: dict[str, str]) -> bool:
    """Whether a file is as it was written, by step.json's checksum or by its own."""
    return sha256_of_file(file) == checksums.get(file.name) or (file.suffix == TENSORS and is_intact(file))


def _names(files: list[Path]) -> set[str]:
    return {file.name for file in files}


def _loaded(file: Path, kind: type[Record]) -> Record | None:
    try:
        return kind.load(file)
    except (OSError, ValidationError):
        return None


def _validated(value: Any, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(json.dumps(value))
    except (ValidationError, ValueError, RecursionError):
        return None
