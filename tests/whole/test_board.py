"""A run for a microcontroller: a C file within its budget, and a bundle that replays its vectors."""

import json
import shutil
import subprocess
import sys

import pytest

from distiq.bundle.open import CARD, Bundle
from distiq.commands.compress import compress
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file as shipped
from distiq.runtimes.c99 import lacks_cross_compiler

pytestmark = pytest.mark.skipif(not runner.compiler() or not shutil.which("make"), reason="no C compiler, no make")
MEASURED = [
    ('rungs = ["static", "qat"]', 'rungs = ["static"]\nfall_back = false'),
    ("[measure]", '[measure]\nruntimes = ["c99"]'),
]


@pytest.mark.slow
def test_the_bundle_is_c_that_checks_itself(recipe_file, tmp_path):
    budget = ("[budget]", "[budget]\nram_kb = 64")
    record = compress(load_recipe(recipe_file(*MEASURED, budget)), run=tmp_path / "run")
    (entry,) = record.trials[0].runtimes
    assert (entry.runtime, entry.same_integers, entry.float_operations) == ("C99", True, ())
    assert entry.agreement > 0.98
    cost = record.trials[0].deployed.cost
    assert cost.ram_bytes is not None
    bundle = Bundle(tmp_path / "run" / "bundle")
    assert (
        f"| RAM, arena with inputs and outputs | {cost.ram_bytes:,} bytes |"
        in (bundle.folder / "README.md").read_text()
    )
    assert {"model.c", "model.h", "main.c", "Makefile"} <= json.loads((bundle.folder / CARD).read_text())[
        "sha256"
    ].keys()
    assert bundle.check().passed
    subprocess.run([sys.executable, "run.py"], cwd=bundle.folder, check=True)
    said = subprocess.run(["make", "check"], cwd=bundle.folder, capture_output=True, text=True, check=True)
    assert "16 of 16 test vectors have the same bytes" in said.stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(lacks_cross_compiler()), reason=lacks_cross_compiler())
def test_keyword_board_keeps_its_budgets(tmp_path):
    """The recipe with less data, fewer epochs, no limit on what so little training loses: RAM and flash are judged."""
    less = ["data.train=400", "data.validation=100", "data.calibration=100"]
    short = ["teacher.training.epochs=1", "student.training.epochs=2", "budget.drop=100"]
    quick = ["quantize.rungs=['static']", "views.distinct=1", "measure.rounds=1", "measure.seconds=0.01"]
    record = compress(load_recipe(shipped("keyword_board"), [*less, *short, *quick]), run=tmp_path / "run")
    (trial,) = record.trials
    assert trial.breaches == ()
    assert trial.runtimes[0].same_integers
    assert 0 < trial.deployed.cost.ram_bytes <= 64_000
    assert 0 < trial.deployed.cost.flash_bytes <= 32_000
    assert Bundle(tmp_path / "run" / "bundle").check().passed


RECURRENT = """
from torch import nn

class Recurrent(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.lstm, self.classifier = nn.LSTM(12, 8, batch_first=True), nn.Linear(8, classes)

    def forward(self, images):
        return self.classifier(self.lstm(images[:, 0])[0][:, -1])
"""


def refused_before_training(recipe, run) -> str:
    """What is said of a recipe, in one sentence."""
    with pytest.raises(UserError) as said:
        compress(load_recipe(recipe), run=run)
    assert not list(run.glob("steps/teacher*"))
    assert "\n" not in str(said.value)
    return str(said.value)


def test_a_network_with_an_lstm_is_refused_before_training(recipe_file, tmp_path):
    (tmp_path / "own.py").write_text(RECURRENT)
    student = ('model = "resnet"\noptions = {widths = [4, 8], blocks = 1}', f'model = "{tmp_path}/own.py:Recurrent"')
    said = refused_before_training(recipe_file(*MEASURED, student), tmp_path / "run")
    assert "the network uses aten.lstm (lstm), for which there is no kernel in C; replace it, or take another" in said


def test_a_machine_without_a_compiler_is_refused_before_training(recipe_file, tmp_path, monkeypatch):
    recipe = recipe_file(*MEASURED)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    said = refused_before_training(recipe, tmp_path / "run")
    assert said == "C99: no C compiler is found here: install gcc or clang, or name one in the variable CC"


def test_a_machine_that_cannot_measure_flash_is_refused_before_training(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr("distiq.runtimes.c99.CROSS", "no-such-compiler")
    said = refused_before_training(recipe_file(*MEASURED, ("[budget]", "[budget]\nflash_kb = 32")), tmp_path / "run")
    assert "no-such-compiler, which measures flash, is not found here: install gcc-arm-none-eabi" in said


@pytest.mark.parametrize("limit", ["ram_kb = 0.5", "flash_kb = 0.5"])
def test_a_board_that_is_too_small_is_refused_before_training(limit: str, recipe_file, tmp_path):
    if limit.startswith("flash") and lacks_cross_compiler():
        pytest.skip(lacks_cross_compiler())
    said = refused_before_training(recipe_file(*MEASURED, ("[budget]", f"[budget]\n{limit}")), tmp_path / "run")
    assert f"budget.{limit}: the student's file takes" in said
    assert "or raise the limit" in said
