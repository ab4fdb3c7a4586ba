from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.data.load import load
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.read import load_recipe, parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.shipped import recipe_file
from distiq.run.check import check_networks, check_training
from distiq.run.networks import build_models
from tests.data.drawn_scenes import draw_boxes


def test_a_rate_for_loaded_weights_needs_loaded_weights():
    recipe = load_recipe(recipe_file("bccd"), ["data.image_size=[48,64]", "student.training.pretrained_rate=0.3"])
    data = load(recipe.data, seed=0)
    models = build_models(recipe, data, Silent())
    with pytest.raises(UserError, match=r"student.training: pretrained_rate = 0.3 is for weights .* student.weights"):
        check_networks(data, models, (recipe.distil,), Silent())


@pytest.mark.parametrize("key", ["views", "teacher.views"])
def test_views_that_the_data_cannot_have_are_named_by_their_key(key: str):
    recipe = load_recipe(recipe_file("bccd"), ["data.image_size=[48,64]", "teacher.weights=''", f"{key}.mixup=0.5"])
    with pytest.raises(UserError, match=rf"^{key}\.mixup, {key}\.cutmix and {key}\.erase change what masks and boxes"):
        check_training(recipe, load(recipe.data, seed=0))


class Positions(nn.Module):
    """Gives so many boxes of two classes, or turned, one a row."""

    def __init__(self, count: int, turned: bool = False) -> None:
        super().__init__()
        self.layer, self.count, self.turned = nn.Linear(3, 6), count, turned

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.layer(images.mean((2, 3))).unsqueeze(1).expand(-1, self.count, -1)
        return rows if self.turned else rows.transpose(1, 2)


@pytest.fixture
def boxes(tmp_path: Path) -> tuple[Recipe, Data]:
    folder = {"source": "boxes", "folder": str(draw_boxes(tmp_path / "b", 12, 4)), "image_size": [48, 64]}
    recipe = parse_recipe({"data": folder | {"validation": 3, "calibration": 3}, "teacher": {"model": "detector"}})
    return recipe, load(recipe.data, 0)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (Positions(7), "student: the network gives 7 boxes for images of 48 x 64"),
        (Positions(6 * 8), "both need the same classes and strides"),
        (
            Positions(60, turned=True),
            r"has 2 classes; its output must be \(1, 6, ...\) logits; move its last dimension",
        ),
    ],
)
def test_what_a_student_could_not_learn_is_refused_before_anything_is_trained(boxes, student: nn.Module, said: str):
    """The teacher has the positions of strides 8 and 16, 48 + 12."""
    recipe, data = boxes
    with pytest.raises(UserError, match=said):
        check_networks(data, build_models(recipe, data, Silent(), student=student), (recipe.distil,), Silent())
