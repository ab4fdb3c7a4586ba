import json
from functools import partial

import pytest

from distiq.errors import UserError
from distiq.records.record import Record
from distiq.run import ledger as ledger_module
from distiq.run.ledger import CHECKPOINT, Ledger


class Number(Record):
    value: int


class Maker:
    """Counts its calls and writes a file and a checkpoint beside the record."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, place, *, epochs, share=0.5):
        folder = place.folder
        self.calls += 1
        (folder / "weights.bin").write_bytes(b"weights")
        (folder / CHECKPOINT).write_bytes(b"half")
        return Number(value=self.calls)


@pytest.fixture
def maker():
    return Maker()


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "run") as held:
        yield held


def take(ledger, maker, name="student", **values):
    return ledger.step(name, "training the student", Number, partial(maker, **{"epochs": 3, **values}))


def test_the_same_inputs_are_made_once(ledger, maker):
    first, second = take(ledger, maker), take(ledger, maker)
    assert maker.calls == 1
    assert first == second
    assert first.record == Number(value=1)
    assert (first.folder / "weights.bin").read_bytes() == b"weights"
    assert not (first.folder / CHECKPOINT).exists()
    assert [entry.name for entry in first.folder.parent.iterdir()] == [f"student-{first.key}"]


def test_another_process_finds_what_was_made(tmp_path, maker):
    for _ in range(2):
        with Ledger(tmp_path / "run") as held:
            assert take(held, maker).record.value == 1


@pytest.mark.parametrize("changed", [{"epochs": 4}, {"share": 0.25}, {"name": "teacher"}], ids=str)
def test_anything_that_decides_the_result_makes_it_again(ledger, maker, changed):
    first, second = take(ledger, maker), take(ledger, maker, **changed)
    assert maker.calls == 2
    assert first.key != second.key
    assert first.folder.is_dir(), "the earlier step is kept"


def test_a_failing_step_is_not_finished_but_keeps_its_folder(ledger, maker):
    def killed(place, *, epochs):
        (place.folder / CHECKPOINT).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(ledger, killed)
    (left,) = (ledger.folder / "steps").iterdir()
    assert left.name.endswith(".partial")

    found = []

    def resumed(place, *, epochs):
        found.append((place.folder / CHECKPOINT).read_bytes())
        return Number(value=7)

    assert take(ledger, resumed).record.value == 7
    assert found == [b"half"]
    assert not left.exists()


def test_a_kill_just_before_the_end_leaves_the_checkpoint_to_go_on_from(ledger, maker, monkeypatch):

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ledger_module.Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            take(ledger, maker)
    (partial,) = (ledger.folder / "steps").iterdir()
    assert (partial / CHECKPOINT).read_bytes() == b"half"
    step = take(ledger, maker)
    assert json.loads((step.folder / "step.json").read_bytes())["sha256"].keys() == {"record.json", "weights.bin"}
    assert take(ledger, maker) == step
    assert maker.calls == 2


def test_a_kill_after_the_rename_leaves_a_finished_step(tmp_path, maker):
    with Ledger(tmp_path / "run") as held:
        folder = take(held, maker).folder
    (folder / CHECKPOINT).write_bytes(b"half")
    with Ledger(tmp_path / "run") as held:
        take(held, maker)
    assert maker.calls == 1
    assert not (folder / CHECKPOINT).exists()


def test_the_seconds_of_a_step_are_kept(tmp_path, maker):
    for _ in range(2):
        with Ledger(tmp_path / "run") as held:
            step = take(held, maker)
            assert held.used == {step.folder.name: step}
            assert 0 < step.seconds < 60


def test_a_full_disk_is_explained(ledger):
    def full(place, *, epochs):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*--run, then run again: finished steps are kept"):
        take(ledger, full)


def test_a_users_error_passes_unchanged_and_leaves_no_step(ledger):
    def refused(place, *, epochs):
        raise UserError("student: no")

    with pytest.raises(UserError, match=r"^student: no$"):
        take(ledger, refused)
    assert list((ledger.folder / "steps").iterdir()) == []


def test_a_folder_is_held_by_one_run(tmp_path):
    with (
        Ledger(tmp_path / "run"),
        pytest.raises(UserError, match=r"run: another distiq run is writing here; .* --run"),
        Ledger(tmp_path / "run"),
    ):
        pass
    with Ledger(tmp_path / "run"):
        pass  # free again


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(UserError, match=r"run: cannot write here .*choose another with --run"),
        Ledger(tmp_path / "file" / "run"),
    ):
        pass
