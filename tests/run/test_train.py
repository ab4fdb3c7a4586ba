"""Networks of a recipe: an ONNX file as teacher and student."""

from pathlib import Path

import torch
from torch import nn

from distiq.data.splits import Data, from_tensors
from distiq.progress import Silent
from distiq.recipe.recipe import Recipe
from distiq.run.ledger import Ledger
from distiq.run.networks import build_models
from distiq.run.train import train_student, train_teacher
from distiq.runtimes.export import export, load


def data() -> Data:
    images, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    return from_tensors((images[:30], labels[:30]), (images[30:], labels[30:]), ["dark", "bright"], 8, 8)


def file_of(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    return export(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), path, torch.randn(2, 1, 4, 4))


def test_an_onnx_teacher_is_taken_as_it_is(tmp_path: Path):
    path = file_of(tmp_path / "net.onnx", 0)
    recipe = Recipe(name="own", teacher={"model": str(path)}, student={"model": str(path)})
    with Ledger(tmp_path / "run") as ledger:
        models = build_models(recipe, data(), Silent())
        teacher = train_teacher(ledger, recipe, data(), models.teacher)
        assert (teacher.step.record.origin, teacher.step.record.training) == (f"loaded from {path}", None)
        images = torch.randn(3, 1, 4, 4)
        torch.testing.assert_close(teacher.module(images), load(path)(images))
        assert models.teacher.key == models.student.key
        file_of(path, 1)
        assert build_models(recipe, data(), Silent()).student.key != models.student.key, "the file's weights decide"


def test_a_teacher_that_was_trained_elsewhere_answers_as_there(tmp_path: Path):
    samples, path = data(), file_of(tmp_path / "net.onnx", 0)
    own = {"mean": (0.5,), "std": (0.25,), "labels": ("bright", "dark")}
    recipe = Recipe(name="own", teacher={"model": str(path), "preprocessing": own}, student={"model": "resnet"})
    teacher = build_models(recipe, samples, Silent()).teacher
    answers = teacher.module(samples.normalize(samples.test.inputs))
    torch.testing.assert_close(answers, load(path)((samples.test.inputs - 0.5) / 0.25).flip(1), atol=1e-5, rtol=1e-5)
    plain = Recipe(name="own", teacher={"model": str(path)}, student={"model": "resnet"})
    assert build_models(plain, samples, Silent()).teacher.key != teacher.key


def test_a_teacher_is_trained_on_its_own_views(tmp_path: Path):
    def weights(folder: str, views: dict, own: dict) -> dict[str, torch.Tensor]:
        training = {"epochs": 1, "batch_size": 8, "precision": "float32"}
        teacher = {"model": "plain", "options": {"layers": [[4, 2]]}, "training": training, "views": own}
        recipe = Recipe(name="own", views=views, teacher=teacher)
        with Ledger(tmp_path / folder) as ledger:
            models = build_models(recipe, samples, Silent())
            return train_teacher(ledger, recipe, samples, models.teacher).module.state_dict()

    samples = data()
    both, own, neither = (
        weights(*case) for case in (("a", {"mixup": 0.9}, {}), ("b", {}, {"mixup": 0.9}), ("c", {}, {}))
    )
    assert all(torch.equal(both[name], own[name]) for name in both)
    assert any(not torch.equal(own[name], neither[name]) for name in both)


def texts() -> Data:
    tokens, labels = torch.randint(1, 12, (40, 6)), torch.arange(40) % 2
    return from_tensors((tokens[:30], labels[:30]), (tokens[30:], labels[30:]), None, 8, 8, modality="text")


def cut_recipe(training: dict, options: dict, teachers_training: dict | None = None) -> Recipe:
    teacher = {"model": "embedding_bag", "options": {"width": 6}, "training": teachers_training or training}
    student = {"model": "embedding_bag", "weights": "teacher", "options": options, "training": training}
    return Recipe(name="cut", teacher=teacher, student=student)


def test_a_student_is_cut_from_the_teacher_as_it_was_trained(tmp_path: Path):
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "precision": "float32"}
    recipe, samples = cut_recipe(training, {"embedding_width": 5}), texts()
    with Ledger(tmp_path / "run") as ledger:
        models = build_models(recipe, samples, Silent())
        teacher = train_teacher(ledger, recipe, samples, models.teacher)
        start = models.student.fresh(0, teacher.module)
        assert torch.equal(start.classifier.weight, teacher.module.classifier.weight)
        assert not torch.equal(start.classifier.weight, models.student.module.classifier.weight)
        alone_settings = recipe.distil.without_teacher()
        taught = train_student(ledger, recipe, samples, models.student, teacher, teacher)
        alone = train_student(ledger, recipe, samples, models.student, teacher, teacher, alone_settings)
        assert taught.step.record.origin == "trained here from the teacher's weights"
        assert alone.step.record.origin == "trained here from the teacher's weights before its training"
        assert {p.shape for p in alone.module.parameters()} == {p.shape for p in start.parameters()}


def test_a_cut_student_without_a_teacher_has_nothing_of_what_the_teacher_learnt(tmp_path: Path):
    still = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-30, "precision": "float32"}  # leaves weights as they are
    recipe, samples = cut_recipe(still, {}, still | {"learning_rate": 0.1}), texts()
    with Ledger(tmp_path / "run") as ledger:
        models = build_models(recipe, samples, Silent())
        teacher = train_teacher(ledger, recipe, samples, models.teacher)
        starts = (recipe.distil, teacher.module), (recipe.distil.without_teacher(), models.teacher.module)
        for settings, start in starts:
            student = train_student(ledger, recipe, samples, models.student, teacher, teacher, settings)
            torch.testing.assert_close(student.module.classifier.weight, start.classifier.weight)
