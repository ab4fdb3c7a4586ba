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


def test_a_board_that_is_too_small_is_refused_before_training(recipe_file, tmp_path):
    budget = ("[budget]", "[budget]\nram_kb = 0.5")
    with pytest.raises(UserError, match=r"budget\.ram_kb = 0\.5: the student's file takes .* kB of RAM; raise"):
        compress(load_recipe(recipe_file(*MEASURED, budget)), run=tmp_path / "run")
    assert not list((tmp_path / "run").glob("steps/teacher*"))
