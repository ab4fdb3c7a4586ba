import os
import time
from pathlib import Path

import pytest

from distiq.commands.search_storage import open_storage
from distiq.errors import UserError

optuna = pytest.importorskip("optuna", reason="optuna is not installed")


@pytest.mark.parametrize("storage", ["nothing://host/x", "{folder}/none/journal.log", "{folder}/text.log"])
def test_what_cannot_be_opened_is_refused(tmp_path: Path, storage: str):
    (tmp_path / "text.log").write_text("no journal\n")
    with pytest.raises(UserError, match=r"^--storage .*: cannot be opened \(.*\); give a journal file in a folder"):
        open_storage(storage.format(folder=tmp_path))


def test_a_line_that_a_kill_cut_off_does_not_spoil_the_next(tmp_path: Path):
    journal = tmp_path / "journal.log"
    study = optuna.create_study(study_name="one", storage=open_storage(str(journal)))
    study.tell(study.ask(), 1.0)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    os.utime(journal, (time.time() - 60,) * 2)
    again = optuna.load_study(study_name="one", storage=open_storage(str(journal)))
    again.tell(again.ask(), 2.0)
    last = optuna.load_study(study_name="one", storage=open_storage(str(journal)))
    assert [trial.value for trial in last.trials] == [1.0, 2.0]


def test_a_line_that_is_being_written_is_left_alone(tmp_path: Path):
    journal = tmp_path / "journal.log"
    journal.write_bytes(b'{"op_code": 0')
    open_storage(str(journal))
    assert journal.read_bytes() == b'{"op_code": 0'
