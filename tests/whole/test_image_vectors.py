"""A run in which a student learns the vectors of a network that sees, judged by classes that it is never told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distiq.commands.compress import compress
from distiq.commands.search import search
from distiq.errors import UserError
from distiq.models.resnet import ResNet
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.runtimes.export import export


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Images that are brighter left or right; the teacher is a drawn ResNet whose outputs are taken as vectors."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 96), ("test", 40)):
        for number in range(count):
            side = number % 2
            image = draw.integers(0, 100, (16, 16), dtype=np.uint8)
            image[:, 8 * side : 8 * side + 8] += 100
            folder = tmp_path / "images" / split / "ab"[side]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    torch.manual_seed(0)
    export(ResNet(24, 3, (8, 16), 1).eval(), tmp_path / "backbone.onnx", torch.zeros(2, 3, 32, 32))
    training = {"epochs": 2, "batch_size": 16}
    return parse_recipe(
        {
            "name": "vectors", "task": "embedding", "budget": {"drop": 50.0},
            "data": {"source": "folder", "folder": f"{tmp_path}/images", "validation": 16, "calibration": 16},
            "teacher": {"model": f"{tmp_path}/backbone.onnx"},
            "student": {"model": "plain", "options": {"layers": [[16, 2]], "outputs": 12}, "training": training},
            "distil": {"task_weight": 0.0, "kd_weight": 1.0},
        }
    )  # fmt: skip


@pytest.mark.slow
def test_a_student_learns_vectors_of_another_width(recipe: Recipe, tmp_path: Path):
    run = compress(recipe, run=tmp_path / "run")
    deployed = run.trials[-1].deployed
    assert deployed is not None
    for quality in (run.teacher.columns[0].test, deployed.test):
        assert quality.primary.name == "linear_probe"
        assert quality.primary.value > 0.9, "brightness left and right is what a drawn network shows, too"
        assert quality.metrics[0].name == "nearest_neighbours"


def test_without_a_teacher_there_is_nothing_to_learn(recipe: Recipe, tmp_path: Path):
    tree = recipe.model_dump(mode="json") | {"distil": {"teacher": "none"}}
    with pytest.raises(UserError, match="vectors are learned from a teacher's alone"):
        compress(parse_recipe(tree), run=tmp_path / "run")


@pytest.mark.slow
def test_a_search_finds_a_student_whose_vectors_are_as_wide_as_the_recipes(recipe: Recipe, tmp_path: Path):
    pytest.importorskip("optuna", reason="optuna is not installed")
    limited = {"budget": {"size_kb": 900.0, "latency_ms": 90.0}, "search": {"trials": 2, "probes": 0}}
    record = search(parse_recipe(recipe.model_dump(mode="json") | limited), run=tmp_path / "run")
    models = {one.model for one in record.candidates}
    assert models <= {"plain", "resnet", "mobilenet_v2"}
    assert {one.options["outputs"] for one in record.candidates} == {12}
    assert record.chosen in {one.number for one in record.candidates if one.outcome == "trained"}


def test_a_search_without_a_teacher_is_refused_before_it_trains(recipe: Recipe, tmp_path: Path):
    pytest.importorskip("optuna", reason="optuna is not installed")
    tree = recipe.model_dump(mode="json") | {"distil": {"teacher": "none"}}
    with pytest.raises(UserError, match="vectors are learned from a teacher's alone"):
        search(parse_recipe(tree), run=tmp_path / "run")
