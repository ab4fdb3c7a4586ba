"""ablate(): the arms share everything but the teacher, are kept, and are judged by their test answers."""

from pathlib import Path

import pytest
import torch

from distiq.commands.ablate import ablate, arms_of
from distiq.errors import UserError
from distiq.recipe.distil import DistilSettings, KnowledgeLoss
from distiq.recipe.part import changed
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.track import TrackSettings
from distiq.records.ablation import AblationRecord

LOSS = KnowledgeLoss(name="dkd", weight=0.1)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    factory = tmp_path / "data.py"
    factory.write_text(
        "import torch\nfrom distiq import from_tensors\n"
        "def make():\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    images = torch.randint(0, 120, (160, 1, 8, 8), dtype=torch.uint8, generator=g)\n"
        "    labels = torch.arange(160) % 3\n"
        "    images += (labels * 40).view(-1, 1, 1, 1).byte()\n"
        "    train, test = (images[:128], labels[:128]), (images[128:], labels[128:])\n"
        "    return from_tensors(train, test, validation=16, calibration=16)\n"
    )
    small = {"model": "resnet", "options": {"widths": [4, 8], "blocks": 1}}
    training = {"epochs": 1, "batch_size": 16, "precision": "float32"}
    return parse_recipe(
        {
            "data": {"source": f"{factory}:make"},
            "teacher": {**small, "training": training},
            "student": {**small, "training": training},
            "distil": {"losses": [{"name": "dkd", "weight": 0.1}]},
        }
    )


def test_arms_differ_in_the_teacher_alone():
    arms = arms_of(DistilSettings(losses=(LOSS,), kd_weight=0.4))
    assert list(arms) == ["no teacher", "outputs alone", "recipe"]
    assert arms["no teacher"].teacher == "none"
    assert arms["outputs alone"] == DistilSettings(kd_weight=0.4)


def test_a_plain_recipe_has_two_arms():
    assert list(arms_of(DistilSettings())) == ["no teacher", "outputs alone"]


def test_outputs_have_a_weight_even_where_the_recipe_gives_none():
    arms = arms_of(DistilSettings(kd_weight=0.0, losses=(LOSS,)))
    assert arms["outputs alone"].kd_weight == DistilSettings().kd_weight


def test_seeds_arms_and_pairs_are_recorded_told_and_kept(recipe: Recipe, tmp_path: Path):
    recipe = changed(recipe, {"track": TrackSettings(tensorboard=True)})
    record = ablate(recipe, seeds=2, run=tmp_path / "run")
    assert {arm.name: len(arm.values) for arm in record.arms} == {"no teacher": 2, "outputs alone": 2, "recipe": 2}
    assert AblationRecord.load(tmp_path / "run" / "records" / "ablation.json") == record
    mean = [sum(arm.values) / 2 for arm in record.arms]
    assert record.pairs[0].difference_points == pytest.approx(100 * (mean[1] - mean[0]), abs=1e-4)
    assert record.pairs[2].difference_points == pytest.approx(100 * (mean[2] - mean[1]), abs=1e-4)
    steps = sorted((tmp_path / "run" / "steps").iterdir())
    assert sum(step.name.startswith("student-") for step in steps) == 12  # six students and their answers
    every_seed_is_told(record, tmp_path / "run" / "tensorboard" / "ablate")
    torch.manual_seed(5)
    again = ablate(recipe, seeds=2, run=tmp_path / "run")
    assert again.model_copy(update={"seconds": record.seconds}) == record
    assert sorted((tmp_path / "run" / "steps").iterdir()) == steps, "nothing was trained again"


def every_seed_is_told(record: AblationRecord, place: Path) -> None:
    """Each arm in each seed is a child run with its curve and its result; the comparison is the command's own."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for arm in record.arms:
        for seed, share in zip(record.seeds, arm.values, strict=True):
            child = EventAccumulator(str(place / f"seed-{seed}-{arm.name.replace(' ', '-')}")).Reload()
            assert [one.value for one in child.Scalars("student/test/accuracy")] == [pytest.approx(share)]
            assert len(child.Tags()["scalars"]) > 1, "its curve"
    (told,) = EventAccumulator(str(place)).Reload().Scalars("outputs alone against no teacher/points")
    assert (told.step, told.value) == (2, pytest.approx(record.pairs[0].difference_points, rel=1e-5))


def test_without_a_teacher_there_is_nothing_to_compare(recipe: Recipe, tmp_path: Path):
    alone = recipe.model_copy(update={"distil": DistilSettings(teacher="none")})
    with pytest.raises(UserError, match="no teacher to compare with"):
        ablate(alone, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
