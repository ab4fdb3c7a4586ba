"""Whole runs that end in half precision: asked for by name, or what is left where int8 breaks the budget."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.bundle.open import Bundle
from distiq.commands.compress import compress
from distiq.data.splits import Data, from_tensors
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.records.run import RunRecord


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    layers = [nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


@pytest.fixture(scope="module")
def data() -> Data:
    labels = torch.arange(120) % 2
    images = torch.rand(120, 1, 12, 12, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
    return from_tensors((images[:80], labels[:80]), (images[80:], labels[80:]), validation=16, calibration=16)


def recipe(**parts: dict) -> Recipe:
    training = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01, "precision": "float32"}
    tree = {
        "name": "tiny",
        "teacher": {"training": training},
        "student": {"training": training},
        "views": {"flip": False, "shift": 0},
        "measure": {"throughput_batch": 2, "rounds": 1, "seconds": 0.002},
    }
    return parse_recipe(tree | parts)


def run(settings: Recipe, data: Data, folder: Path) -> RunRecord:
    return compress(settings, run=folder, teacher=network(6), student=network(32), data=data)


@pytest.mark.slow
def test_a_recipe_asks_for_it_by_name(data: Data, tmp_path: Path):
    record = run(recipe(quantize={"mode": "float16"}), data, tmp_path)
    (trial,) = record.trials
    assert (trial.rung, trial.form, record.verdict.chosen) == ("float16", "float16", "float16")
    assert trial.scheme == "float16 weights, computed in float32: no speed is claimed"
    assert trial.agreement == 1.0 and trial.deployed.test.change_against_float.value == 0.0
    assert trial.runtimes[0].size_bytes < 0.6 * trial.runtimes[0].float_size_bytes
    assert Bundle(tmp_path / "bundle").check().passed
    assert "float16 deployed" in (tmp_path / "report.html").read_text(encoding="utf-8")
