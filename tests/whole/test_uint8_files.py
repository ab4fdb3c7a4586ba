"""A run whose files take pixels: measured so, delivered so."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from distiq.bundle.open import PREPROCESSING, VECTORS, Bundle
from distiq.commands.compress import compress
from distiq.errors import UserError
from distiq.recipe.read import load_recipe

ONE_RUNG = ('rungs = ["static", "qat"]', 'rungs = ["static"]')


def test_the_bundle_takes_pixels_and_answers_like_the_graph(recipe_file, photos, tmp_path):
    recipe = load_recipe(recipe_file(ONE_RUNG, more="[export]\nuint8_input = true"))
    record = compress(recipe, run=tmp_path / "run")
    assert record.trials[0].agreement > 0.95  # of 60 test images
    bundle, vectors = Bundle(tmp_path / "run" / "bundle"), load_file(tmp_path / "run" / "bundle" / VECTORS)
    assert vectors["inputs"].dtype == torch.uint8
    assert bundle.check().passed
    assert json.loads((bundle.folder / PREPROCESSING).read_text())["type"] == "uint8"
    assert torch.equal(bundle.normalize(vectors["pixels"]), vectors["pixels"])
    first = vectors["pixels"][:1]
    (photo,) = [path for path in (photos / "test").rglob("*.png") if torch.equal(bundle.prepare(path).inputs, first)]
    assert bundle.predict(photo)[0] == bundle.classify(first)[0][0]
    done = subprocess.run([sys.executable, "run.py"], cwd=bundle.folder, capture_output=True, text=True, check=True)
    assert "pass: 32 vectors" in done.stdout


def test_data_without_pixels_is_refused_before_training(tmp_path):
    text = (
        '[data]\nsource = "adult"\n[student]\nmodel = "mlp"\n[teacher]\nmodel = "mlp"\n[export]\nuint8_input = true\n'
    )
    (tmp_path / "adult.toml").write_text(text)
    with pytest.raises(UserError, match=r"export\.uint8_input is for images of uint8"):
        compress(load_recipe(tmp_path / "adult.toml"), run=tmp_path / "run")
