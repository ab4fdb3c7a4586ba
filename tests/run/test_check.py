import pytest

from distiq.data.load import load
from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file
from distiq.run.check import check_networks, check_training
from distiq.run.networks import build_models


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
