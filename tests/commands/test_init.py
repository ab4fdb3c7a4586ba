"""init(): each recipe that it writes is read back, fits the data, and says what it found."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from distiq.commands.init import FIRST_LINE, SCHEMA_FILE, init
from distiq.data.load import load
from distiq.errors import UserError
from distiq.models.build import build
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe


def keys(path: Path) -> int:
    """Lines of a recipe that are no comment, no table's head and not empty."""
    return sum(line[:1] not in ("#", "[", "") for line in path.read_text().splitlines())


def test_without_data_the_packaged_images(tmp_path: Path):
    path = tmp_path / "my.toml"
    assert init(path).startswith("The packaged Fashion-MNIST images")
    assert path.read_text().startswith(FIRST_LINE)
    assert load_recipe(path).data.source == "fashion_mnist"
    assert 10 <= keys(path) <= 25


def test_every_key_is_the_default_recipe(tmp_path: Path):
    path = tmp_path / "my file.toml"
    init(path, every_key=True)
    assert load_recipe(path) == Recipe(name="my-file")


def test_the_schema_knows_every_table_and_refuses_others(tmp_path: Path):
    init(tmp_path / "my.toml")
    schema = json.loads((tmp_path / SCHEMA_FILE).read_text())
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["TrainingSettings"]["properties"]["epochs"]["minimum"] == 1


def write_images(folder: Path) -> Path:
    for part, count in (("train", 60), ("test", 5)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (50, 40), (number, 0, 0)).save(folder / part / name / f"{number}.jpg")
    return folder


def write_clips(folder: Path) -> Path:
    for part, count in (("train", 30), ("test", 3)):
        for name in ("no", "yes"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                wavfile.write(folder / part / name / f"{number}.wav", 8000, np.full(4000, number, np.int16))
    return folder


def write_rows(folder: Path) -> Path:
    folder.mkdir()
    rows = [f"{number},{'red' if number % 3 else 'blue'},{number % 2}" for number in range(80)]
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_text("\n".join(["size,colour,class", *rows]))
    return folder


def write_texts(folder: Path) -> Path:
    folder.mkdir()
    rows = [f"this film was seen by {number} people\t{number % 2}" for number in range(80)]
    for part in ("train", "test"):
        (folder / f"{part}.tsv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize(
    ("write", "source", "said", "shape"),
    [
        (write_images, "folder", "Colour images of 2 classes (cat, dog): 120 to train on", (1, 3, 32, 32)),
        (write_clips, "audio", "Clips of 2 classes (no, yes): 60 to train on, 6 for the test", (1, 4000)),
        (write_rows, "table", 'Rows of 2 classes (0, 1) in "class": 80 to train on, 1 columns of numbers, 1 of', None),
        (write_texts, "text", 'Texts in "text" of 2 classes (0, 1) in "label": 80 to train on', (1, 16)),
    ],
)  # fmt: skip
def test_a_recipe_fits_the_data(write, source: str, said: str, shape, tmp_path: Path):
    write(tmp_path / "mine")
    path = tmp_path / "my.toml"
    assert init(path, tmp_path / "mine").startswith(said)
    assert tomllib.loads(path.read_text())["data"]["folder"] == "mine", "the two can be moved together"
    assert keys(path) <= 25
    recipe = load_recipe(path)
    assert recipe.data.source == source
    data = load(recipe.data, recipe.seed)
    assert shape is None or data.example.shape == shape
    assert len(data.calibration) == len(data.validation) > 0


def test_the_networks_of_a_recipe_fit_the_images(tmp_path: Path):
    path = tmp_path / "my.toml"
    init(path, write_images(tmp_path / "photos"))
    recipe = load_recipe(path)
    example = load(recipe.data, 0).example.float()
    for role, choice in recipe.networks().items():
        assert build(choice, 2, example, role)(example.expand(2, -1, -1, -1)).shape == (2, 2)


def test_an_existing_file_is_overwritten_by_force_alone(tmp_path: Path):
    path = tmp_path / "my.toml"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"exists already; choose another name or add --force"):
        init(path)
    assert [path.read_text(), *tmp_path.iterdir()] == ["mine", path]
    init(path, force=True)
    assert load_recipe(path).name == "my"
