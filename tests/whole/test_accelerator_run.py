"""A run for a microcontroller with an NPU: TFLM's file within its budget, its sources, and Vela's estimate of it."""

import json

import pytest

from distiq.bundle.open import CARD, Bundle
from distiq.commands.compress import compress
from distiq.recipe.read import load_recipe

CHANGES = [
    ('rungs = ["static", "qat"]', 'rungs = ["static"]\nfall_back = false\ntarget = "ethos-u"'),
    ("[measure]", '[export]\ninteger_io = true\n[measure]\nruntimes = ["tflm"]'),
    ("[budget]", "[budget]\nram_kb = 64"),
    ("calibration = 16", "calibration = 100"),
]


@pytest.mark.slow
def test_the_bundle_has_sources_and_the_record_an_estimate(recipe_file, tmp_path):
    pytest.importorskip("tflite_micro", reason="TFLM is not installed")
    pytest.importorskip("ethosu", reason="Vela is not installed")
    record = compress(load_recipe(recipe_file(*CHANGES)), run=tmp_path / "run")
    (entry,) = record.trials[0].runtimes
    assert (entry.runtime, entry.same_integers, entry.float_operations) == ("TFLM", True, ())
    assert entry.agreement > 0.95
    assert record.accelerator is not None
    assert (record.accelerator.on_cpu, record.accelerator.left) == (0, ())
    bundle = Bundle(tmp_path / "run" / "bundle")
    assert record.accelerator.sentence in (bundle.folder / "README.md").read_text()
    listed = json.loads((bundle.folder / CARD).read_text())["sha256"]
    assert {"model.tflm", "model_data.cc", "model_data.h", "model_resolver.h"} <= listed.keys()
    assert bundle.check().passed
    assert record.accelerator.sentence in (tmp_path / "run" / "report.html").read_text()
