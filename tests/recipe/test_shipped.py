"""The shipped recipes: found by name, read, and their data looked for where the user is."""

from pathlib import Path

import pytest

from distiq.errors import UserError
from distiq.recipe.read import load_recipe, read_recipe
from distiq.recipe.recipe import to_toml
from distiq.recipe.shipped import recipe_file, shipped_recipes, summary

OF_USERS = {
    "ag_news": "texts",
    "sst2": "texts",
    "stsb": "texts",
    "own_photos": "mine",
    "camvid": "mine",
    "camvid_pretrained": "mine",
}  # recipes whose data do not come with distiq


def test_every_recipe_has_its_name_and_says_what_it_is():
    recipes = shipped_recipes()
    assert {"fashion_mnist", "spoken_digits", "adult"} <= set(recipes)
    for name, file in recipes.items():
        assert f'\nname = "{name}"\n' in file.read_text(encoding="utf-8")
        assert 40 < len(summary(file)) < 110
        assert f"#     distiq run {name}" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_is_read_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("texts", "mine"):
        (tmp_path / folder).mkdir()
    (tmp_path / "efficientnet_lite0.pth").touch()
    monkeypatch.chdir(tmp_path)
    given = [f"data.folder={OF_USERS[name]}"] if name in OF_USERS else []
    recipe = load_recipe(name, given)
    assert recipe.name == name
    assert read_recipe(to_toml(recipe).encode(), name) == recipe, "as a run writes it down"
    if name in OF_USERS:
        assert recipe.data.folder == str(tmp_path / OF_USERS[name]), "the user's own, not the package's"


def test_without_data_a_recipe_says_what_it_needs():
    with pytest.raises(UserError, match=r'source = "text" needs the folder of data\.text\.train'):
        load_recipe("sst2")


def test_without_weights_a_recipe_names_the_file_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"teacher\.weights: no such file: .*efficientnet_lite0\.pth"):
        load_recipe("own_photos")


def test_code_of_a_recipe_is_the_packages():
    file, _, function = load_recipe("adult").teacher.predict.rpartition(":")
    assert (Path(file).is_file(), function) == (True, "gradient_boosting")


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "adult").write_text('name = "mine"')
    monkeypatch.chdir(tmp_path)
    assert load_recipe("adult").name == "mine"


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r'fashion_mnst: no such recipe; did you mean "fashion_mnist"\?'):
        recipe_file("fashion_mnst")
    with pytest.raises(UserError, match=r"`distiq recipes` lists"):
        load_recipe("recipes/absent.toml")
