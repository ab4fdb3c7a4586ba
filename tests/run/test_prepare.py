from pathlib import Path

from distiq.progress import Silent
from distiq.recipe.read import parse_recipe
from distiq.run.ledger import Ledger
from distiq.run.prepare import read_data


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def warnings(tree: dict[str, object], folder: Path) -> list[str]:
    watch, data = Notes(), {"source": "bccd", "image_size": [24, 32], "calibration": 9, "train": 40}
    with Ledger(folder, watch) as ledger:
        read_data(parse_recipe({"data": data, **tree}), ledger)
    return [note for note in watch.notes if note.startswith("warning: ")]


def test_settings_of_rungs_that_are_not_climbed_are_said(tmp_path: Path):
    quantize = {"rungs": ["rounding"], "percentile": 99.0, "learn_ranges": True, "training": {"epochs": 3}}
    said = dict(note.removeprefix("warning: ").split(": ", 1) for note in warnings({"quantize": quantize}, tmp_path))
    assert said == {
        "quantize.percentile has no effect": 'quantize.rungs names no "percentile"; add it, or leave them out',
        "quantize.learn_ranges, quantize.training.epochs have no effect": 'quantize.rungs names no "qat"; add it, or'
        " leave them out",
    }
    assert warnings({"quantize": quantize | {"rungs": None}}, tmp_path) == []


def test_keys_without_effect_are_said_when_the_data_is_read(tmp_path: Path):
    (said,) = warnings({"views": {"audio": {"noise": 0.5}}}, tmp_path)
    assert said.startswith("warning: views.audio.noise has no effect: ")
