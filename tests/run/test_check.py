import pytest

from distiq.data.load import load
from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file
from distiq.run.check import check_networks
from distiq.run.networks import build_models


def test_a_rate_for_loaded_weights_needs_loaded_weights():
    recipe = load_recipe(recipe_file("bccd"), ["data.image_size=[48,64]", "student.training.pretrained_rate=0.3"])
    data = load(recipe.data, seed=0)
    models = build_models(recipe, data, Silent())
    with pytest.raises(UserError, match=r"student.training: pretrained_rate = 0.3 is for weights .* student.weights"):
        check_networks(data, models, (recipe.distil,), Silent())
