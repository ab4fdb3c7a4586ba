"""Networks of a recipe: an ONNX file as teacher and student."""

from pathlib import Path

import torch
from torch import nn

from distiq.data.splits import Data, from_tensors
from distiq.progress import Silent
from distiq.recipe.recipe import Recipe
from distiq.run.ledger import Ledger
from distiq.run.train import Networks
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
        networks = Networks(recipe, ledger, data(), Silent())
        networks.refuse_early()
        step = networks.teacher()
        assert (step.record.origin, step.record.training) == (f"loaded from {path}", None)
        images = torch.randn(3, 1, 4, 4)
        torch.testing.assert_close(networks.load("teacher", step)(images), load(path)(images))
        before = networks.inputs("student")
        assert networks.inputs("teacher") == before
        file_of(path, 1)
        assert networks.inputs("student") != before, "the file's weights decide"


def test_a_student_is_cut_from_the_teacher_as_it_was_trained(tmp_path: Path):
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "precision": "float32"}
    tokens, labels = torch.randint(1, 12, (40, 6)), torch.arange(40) % 2
    texts = from_tensors((tokens[:30], labels[:30]), (tokens[30:], labels[30:]), None, 8, 8, kind="text")
    recipe = Recipe(
        name="cut",
        teacher={"model": "embedding_bag", "options": {"width": 6}, "training": training},
        student={
            "model": "embedding_bag",
            "weights": "teacher",
            "options": {"embedding_width": 5},
            "training": training,
        },
    )
    with Ledger(tmp_path / "run") as ledger:
        networks = Networks(recipe, ledger, texts, Silent())
        built = networks.refuse_early()
        step = networks.teacher()
        teacher, start = networks.load("teacher", step), networks.build("student", None, step)
        assert torch.equal(start.classifier.weight, teacher.classifier.weight)
        assert not torch.equal(start.classifier.weight, built["student"].classifier.weight)
        source = networks.last_teacher(step)
        taught = networks.student(source, recipe.distil, 0)
        alone = networks.student(source, recipe.distil.without_teacher(), 0)
        assert taught.record.origin == "trained here from the teacher's weights"
        assert alone.record.origin == "trained here from the teacher's weights before its training"
        assert {p.shape for p in networks.load("student", alone).parameters()} == {p.shape for p in start.parameters()}


def test_a_cut_student_without_a_teacher_has_nothing_of_what_the_teacher_learnt(tmp_path: Path):
    still = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-30, "precision": "float32"}  # leaves weights as they are
    tokens, labels = torch.randint(1, 12, (40, 6)), torch.arange(40) % 2
    texts = from_tensors((tokens[:30], labels[:30]), (tokens[30:], labels[30:]), None, 8, 8, kind="text")
    learning = still | {"learning_rate": 0.1}
    recipe = Recipe(
        name="cut",
        teacher={"model": "embedding_bag", "options": {"width": 6}, "training": learning},
        student={"model": "embedding_bag", "weights": "teacher", "training": still},
    )
    with Ledger(tmp_path / "run") as ledger:
        networks = Networks(recipe, ledger, texts, Silent())
        step = networks.teacher()
        source, trained = networks.last_teacher(step), networks.load("teacher", step)
        for settings, start in ((recipe.distil, trained), (recipe.distil.without_teacher(), networks.build("teacher"))):
            student = networks.load("student", networks.student(source, settings, 0))
            torch.testing.assert_close(student.classifier.weight, start.classifier.weight)
