"""A run whose LiteRT file takes and gives int8: measured so, delivered so, and its runner needs no word about it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from distiq.bundle.open import CARD, VECTORS, Bundle
from distiq.commands.compress import compress
from distiq.errors import UserError
from distiq.recipe.read import load_recipe

MEASURED = '[export]\ninteger_io = true\n[measure]\nruntimes = ["litert", "onnxruntime"]'
ONE_RUNG = [('rungs = ["static", "qat"]', 'rungs = ["static"]'), ("[measure]", MEASURED)]


@pytest.mark.slow
def test_the_bundle_takes_and_gives_int8(recipe_file, tmp_path):
    pytest.importorskip("litert_torch", reason="LiteRT is not installed")
    record = compress(load_recipe(recipe_file(*ONE_RUNG)), run=tmp_path / "run")
    trial = record.trials[0]
    assert "int8 logits" in trial.scheme
    assert [entry.float_operations for entry in trial.runtimes] == [(), ()]
    assert all(entry.same_integers and entry.agreement > 0.95 for entry in trial.runtimes)  # of 60 test images
    bundle = Bundle(tmp_path / "run" / "bundle")
    ends = json.loads((bundle.folder / CARD).read_text())["integer_io"]
    assert {name: end["type"] for name, end in ends.items()} == {"input": "int8", "output": "int8"}
    outputs = load_file(bundle.folder / VECTORS)["outputs"].numpy()
    steps = outputs / np.float32(ends["output"]["scale"])
    assert np.allclose(steps, np.rint(steps), atol=1e-3), "logits are whole multiples of the card's scale"
    assert f"input with scale {ends['input']['scale']:.9g}, zero point" in (bundle.folder / "README.md").read_text()
    assert bundle.check().passed
    done = subprocess.run([sys.executable, "run.py"], cwd=bundle.folder, capture_output=True, text=True, check=True)
    assert "pass: 32 vectors, 0 predictions changed, largest difference 0 " in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("[measure]", MEASURED), ('rungs = ["static", "qat"]', 'mode = "weight_only"')],
            "needs 8-bit inputs and logits",
        ),
    ],
)
def test_a_run_without_files_of_integers_is_refused(changes, message, recipe_file):
    with pytest.raises(UserError, match=message):
        load_recipe(recipe_file(*changes))


def test_a_network_that_ends_in_float_is_refused_before_training(recipe_file, tmp_path):
    pytest.importorskip("litert_torch", reason="LiteRT is not installed")
    changes = [*ONE_RUNG, ('[student]\nmodel = "resnet"\noptions = {widths = [4, 8], blocks = 1}',
                           f'[student]\nmodel = "{tmp_path}/student.py:make"')]  # fmt: skip
    (tmp_path / "student.py").write_text(
        "from torch import nn\n\ndef make(**_):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.LayerNorm(4), nn.Linear(4, 2))\n"
    )
    with pytest.raises(UserError, match=r"integer_io: layer_norm .*, linear_1 .* compute in float32"):
        compress(load_recipe(recipe_file(*changes)), run=tmp_path / "run")
    assert not (tmp_path / "run" / "steps").exists()
