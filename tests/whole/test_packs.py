"""A run whose images are read from a pack is the run whose images lie in memory."""

import pytest
import torch

from distiq.commands.clean import clean
from distiq.commands.compress import compress
from distiq.files import load_tensors, sha256_of_file
from distiq.recipe.read import load_recipe

ONE_RUNG = ('rungs = ["static", "qat"]', 'rungs = ["static"]')


@pytest.mark.slow
def test_packed_images_give_the_same_bits(recipe_file, tmp_path):
    runs = []
    for memory in ("", "memory_mb = 0"):
        recipe = load_recipe(recipe_file(ONE_RUNG, ("[data]", f"[data]\n{memory}")))
        folder = tmp_path / f"run{len(runs)}"
        runs.append((folder, compress(recipe, run=folder)))
    (one, in_memory), (other, packed) = runs
    assert in_memory.data.packs == () and len(packed.data.packs) == 2
    assert in_memory.data.digest == packed.data.digest
    assert in_memory.steps == packed.steps, "keys are of the samples, not of where they lie"
    for folder, name in ((folder, name) for folder in (one, other) for name in ("model.onnx", "vectors.safetensors")):
        assert sha256_of_file(folder / "bundle" / name) == sha256_of_file(one / "bundle" / name)
    step = packed.steps["student-float32"]
    first, second = (load_tensors(folder / "steps" / step / "logits.safetensors")[0] for folder in (one, other))
    assert all(torch.equal(first[split], second[split]) for split in first)
    (other / "cache" / "pack-0123456789abcdef").mkdir()
    assert [entry.path.name for entry in clean(other)] == ["pack-0123456789abcdef"]
    assert {entry.name for entry in (other / "cache").glob("pack-*")} == set(packed.data.packs)
