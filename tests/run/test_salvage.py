"""One damaged file of a finished step costs that file alone; what cannot be used is set aside, never removed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distiq.files import save_tensors
from distiq.progress import Silent
from distiq.records.record import Record
from distiq.run.ledger import CHECKPOINT, Ledger, Place

WEIGHTS = {"weight": torch.arange(6.0)}


class Number(Record):
    value: int


class Other(Record):
    other: int


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Maker:
    """Trains unless it finds weights; counts the trainings."""

    def __init__(self) -> None:
        self.trained = 0
        self.record: Record = Number(value=7)

    def __call__(self, place: Place) -> Record:
        folder = place.folder
        if not (folder / "weights.safetensors").exists():
            self.trained += 1
            save_tensors(WEIGHTS, folder / "weights.safetensors")
        (folder / "model.onnx").write_bytes(b"model")
        return self.record


class Held:
    """A run folder with one finished step."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.maker, self.watch = folder, Maker(), Notes()
        self.step = self.take()

    def take(self, kind=Number):
        with Ledger(self.folder, self.watch) as ledger:
            return ledger.step("student", "training the student", kind, self.maker)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path / "run")


def turned_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def garbage(path: Path) -> None:
    path.write_bytes(b"{")


def gone(path: Path) -> None:
    path.unlink()


DAMAGES = pytest.mark.parametrize("damage", [turned_bit, garbage, gone])


@DAMAGES
def test_a_damaged_record_is_mended_in_place(held: Held, damage):
    damage(held.step.folder / "record.json")
    assert held.take() == held.step
    assert held.maker.trained == 1
    assert json.loads((held.step.folder / "record.json").read_bytes()) == {"value": 7}
    assert held.watch.notes == [f"{held.step.folder.name}: record.json was damaged; mended from step.json"]
    assert held.take() == held.step and len(held.watch.notes) == 1, "mended once"


@DAMAGES
def test_damaged_checksums_cost_no_weights(held: Held, damage):
    damage(held.step.folder / "step.json")
    step = held.take()
    assert step.record == Number(value=7) and held.maker.trained == 1
    assert torch.equal(load_file(step.folder / "weights.safetensors")["weight"], WEIGHTS["weight"])
    assert held.take() == step


@DAMAGES
def test_damaged_records_of_both_kinds_cost_no_weights(held: Held, damage):
    for name in ("record.json", "step.json"):
        damage(held.step.folder / name)
    assert held.take().record == Number(value=7)
    assert held.maker.trained == 1
    assert "set aside" in held.watch.notes[0]


@DAMAGES
def test_damaged_weights_are_set_aside_and_made_again(held: Held, damage):
    damage(held.step.folder / "weights.safetensors")
    step = held.take()
    assert held.maker.trained == 2
    assert torch.equal(load_file(step.folder / "weights.safetensors")["weight"], WEIGHTS["weight"])
    aside = step.folder.with_name(f"{step.folder.name}.damaged")
    assert (aside / "model.onnx").read_bytes() == b"model"
    assert held.watch.notes == [
        f"{step.folder.name}: weights.safetensors is missing or damaged; set aside and made again"
    ]
    assert held.watch.notes[0] in (held.folder / "steps" / "repaired.txt").read_text()


def test_what_is_set_aside_twice_is_kept_twice(held: Held):
    for _ in range(2):
        garbage(held.step.folder / "model.onnx")
        held.take()
    assert len(list(held.folder.glob("steps/*.damaged*"))) == 2
    assert held.maker.trained == 1, "the weights were intact"


def test_a_record_of_another_form_costs_no_weights(held: Held):
    held.maker.record = Other(other=5)
    assert held.take(Other).record == Other(other=5)
    assert held.maker.trained == 1
    assert "of another form" in held.watch.notes[0]


def test_a_checkpoint_is_no_part_of_a_finished_step(held: Held):
    (held.step.folder / CHECKPOINT).write_bytes(b"half")
    assert held.take() == held.step and held.watch.notes == []
    assert not (held.step.folder / CHECKPOINT).exists()
