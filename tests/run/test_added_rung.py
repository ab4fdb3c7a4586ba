"""A rung that distiq does not have is added: one file (seven_bits.py) and one line (the fixture's)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.commands.compress import compress
from distiq.data.splits import from_tensors
from distiq.recipe.read import parse_recipe
from distiq.run import rungs
from distiq.run.rungs import rung_named, rungs_of, table
from tests.run.seven_bits import SEVEN_BITS


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rungs, "RUNGS", (*rungs.RUNGS, SEVEN_BITS))


def test_recipe_and_documentation_know_it():
    assert rung_named("seven_bits") is SEVEN_BITS
    assert SEVEN_BITS in rungs_of(parse_recipe({}).quantize, False, ("onnxruntime",)), "it is climbed by default"
    assert "| `seven_bits` | weights of 7 bits in every layer |" in table()


def test_a_run_climbs_it_and_delivers_its_file(tmp_path: Path):
    torch.manual_seed(0)
    labels = torch.arange(120) % 2
    images = torch.rand(120, 1, 6, 6) + labels.view(-1, 1, 1, 1)
    data = from_tensors((images[:90], labels[:90]), (images[90:], labels[90:]), validation=20, calibration=20)
    recipe = parse_recipe(
        {
            "student": {"training": {"epochs": 1, "batch_size": 16, "precision": "float32"}},
            "views": {"flip": False, "shift": 0},
            "quantize": {"rungs": ["seven_bits"], "fall_back": False},
            "measure": {"throughput_batch": 2, "rounds": 1, "seconds": 0.002},
        }
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2))
    record = compress(recipe, run=tmp_path / "run", teacher=network, student=network, data=data)
    (trial,) = record.trials
    assert (trial.rung, trial.scheme, record.verdict.chosen) == ("seven_bits", "static W7A8, mse", "seven_bits")
    assert trial.reason == f"the first rung: {SEVEN_BITS.what}"
    assert record.estimates["seven_bits"].startswith(SEVEN_BITS.cost)
    assert "seven_bits" in (tmp_path / "run" / "report.html").read_text()
