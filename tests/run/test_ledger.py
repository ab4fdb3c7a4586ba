import json
from functools import partial

import pytest

from distiq.errors import UserError
from distiq.files import replace_folder
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


@pytest.mark.parametrize("file", ["weights.bin", "record.json", "step.json"])
@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_damaged_step_is_made_again(ledger, maker, file, damage):
    folder = take(ledger, maker).folder
    if damage == "changed":
        (folder / file).write_bytes(b"{")
    else:
        (folder / file).unlink()
    assert take(ledger, maker).record.value == 2
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert folder.name in (folder.parent / "repaired.txt").read_text()
    assert take(ledger, maker).record.value == 2


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


def test_what_a_killed_run_was_writing_is_swept(tmp_path):
    partial = tmp_path / "run" / "steps" / "student-0.partial"
    partial.mkdir(parents=True)
    (partial / CHECKPOINT).write_bytes(b"half")
    (partial / f".{CHECKPOINT}.x.partial").write_bytes(b"ha")
    (tmp_path / "run" / ".bundle.partial").mkdir()
    with Ledger(tmp_path / "run"):
        assert [file.name for file in partial.iterdir()] == [CHECKPOINT]
        assert not (tmp_path / "run" / ".bundle.partial").exists()


def test_what_another_run_below_is_writing_is_left_alone(tmp_path):
    other = tmp_path / "runs" / "mine" / "steps" / "student-0.partial"
    other.mkdir(parents=True)
    (other / ".weights.x.partial").write_bytes(b"we")
    with Ledger(tmp_path / "runs"):
        assert (other / ".weights.x.partial").exists()


def test_a_record_of_an_older_form_is_made_again(ledger, maker):
    class Other(Record):
        other: int

    take(ledger, maker)
    step = ledger.step("student", "", Other, partial(lambda _place, *, epochs: Other(other=5), epochs=3))
    assert step.record == Other(other=5)


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


def test_a_users_error_passes_unchanged(ledger):
    def refused(place, *, epochs):
        raise UserError("student: no")

    with pytest.raises(UserError, match=r"^student: no$"):
        take(ledger, refused)


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


def test_replace_folder(tmp_path):
    for round_number in range(2):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / f"{round_number}").write_text("")
        replace_folder(tmp_path / "new", tmp_path / "target")
        assert [entry.name for entry in (tmp_path / "target").iterdir()] == [f"{round_number}"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]
