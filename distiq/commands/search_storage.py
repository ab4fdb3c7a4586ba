"""open_storage(): where a search keeps its candidates, an Optuna storage that several searches may share."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distiq.errors import UserError, first_line

if TYPE_CHECKING:
    import optuna

WRITING_S = 2.0  # a line that is still being written is not as old as this


def open_storage(storage: str) -> "optuna.storages.BaseStorage":
    """A database by its URL, or a journal file, which is made where there is none.

    Raises:
        UserError: it cannot be opened, or is no storage.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" in storage:
            return optuna.storages.get_storage(storage)
        _mend(Path(storage))
        return JournalStorage(JournalFileBackend(storage))
    except Exception as error:  # drivers of databases raise their own exception types
        raise UserError(
            f"--storage {storage}: cannot be opened ({first_line(error)}); give a journal file in a folder that is"
            " there, or a database, such as sqlite:///search.db"
        ) from error


def _mend(journal: Path) -> None:
    """Takes off what a killed search wrote of a line: Optuna would write the next entry behind it, and read neither.

    Raises:
        ValueError: a whole line is no entry.
    """
    if not journal.is_file():
        return
    *lines, rest = journal.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except ValueError as error:
            raise ValueError(f"its line {number} is no entry of a journal") from error
    if rest and time.time() - journal.stat().st_mtime > WRITING_S:
        os.truncate(journal, sum(len(line) + 1 for line in lines))
