from pathlib import Path

import pytest

from distiq.commands.init import init
from distiq.data.load import load
from distiq.recipe.read import load_recipe
from tests.data.drawn_scenes import draw_boxes, draw_masks


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_a_recipe_for_images_with_masks_or_boxes(tmp_path: Path, kind: str):
    folder = (draw_masks if kind == "masks" else draw_boxes)(tmp_path / kind, 20, 4)
    about = init(tmp_path / "my.toml", folder)
    assert (
        about.startswith(f"Images with {kind}") and "20 to train on, 4 for the test; most have 64 x 48 pixels" in about
    )
    recipe = load_recipe(tmp_path / "my.toml")
    data = load(recipe.data, 0)
    assert data.sample_shape == (3, 48, 64) and len(data.validation) == 2
    assert recipe.student.model == ("segmenter" if kind == "masks" else "detector")
