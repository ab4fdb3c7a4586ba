"""What is wrong is refused before anything is trained, with a message that says where and what to do."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.errors import UserError
from distiq.progress import Silent
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

FACTORIES = """
import dataclasses
import torch
from torch import nn
from distiq import from_tensors

def tensors(labels=2):
    return torch.rand(80, 1, 12, 12), torch.arange(80) % labels

def nan_pixels():
    images, labels = tensors()
    images[7, 0, 3, 3] = float("nan")
    return from_tensors((images, labels), tensors(), validation=8, calibration=8)

def nan_pixels_by_hand():
    data = from_tensors(tensors(), tensors(), validation=8, calibration=8)
    data.calibration.inputs[2] = float("nan")
    return data

def labels_out_of_range():
    return from_tensors(tensors(3), tensors(), ["a", "b"], validation=8, calibration=8)

def one_class():
    return from_tensors(tensors(1), tensors(1), ["a", "b"], validation=8, calibration=8)

def no_calibration():
    return from_tensors(tensors(), tensors(), validation=8, calibration=0)

def no_validation():
    data = from_tensors(tensors(), tensors(), validation=8, calibration=8)
    return dataclasses.replace(data, validation=data.validation.take(slice(0)))

def five_classes(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 5))

class Branching(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(144, classes)

    def forward(self, images):
        flat = images.flatten(1)
        if flat.mean() > 0:
            flat = -flat
        return self.linear(flat)

def branching(classes):
    return Branching(classes)

class Odd(Branching):
    def forward(self, images):
        return self.linear(torch.special.bessel_j0(images.flatten(1)))

def refused_by_onnx(classes):
    return Odd(classes)

def fails(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(99, classes))
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FACTORIES)
    return path


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    """Runs a recipe and asserts that it is refused with one message, and that nothing was trained."""

    def run(recipe: Path, *said: str) -> None:
        folder = tmp_path / "run"
        result = CliRunner().invoke(app, ["run", str(recipe), "--run", str(folder)])
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        for part in said:
            assert part in result.stderr, result.stderr
        assert not list(folder.glob("steps/*")), "no step was begun"
        assert not (folder / "bundle").exists()

    return run


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[measure]", "[distil]\ntempreture = 2.0\n[measure]", 'tempreture: unknown key; did you mean "temperature"?'),
        ("distinct = 2", "distinct = 2\nshfit = 1", 'views.shfit: unknown key; did you mean "shift"?'),
        ("epochs = 2", 'epochs = "two"', "training.epochs: input should be a valid integer, but found"),
        ("channels = 1", "channels = 2", "data.channels: input should be 1 or 3"),
        ("calibration = 16", "calibration = 0", "data.calibration: input should be greater than or equal to 1"),
        ("calibration = 16", "calibration = 1000", "lower data.validation and data.calibration"),
        ('source = "folder"', 'source = "folders"', 'data.source: "folders" is unknown; take "fashion_mnist"'),
        ('rungs = ["static", "qat"]', "rungs = []", "quantize.rungs"),
        ("widths = [4, 8]", "width = [4, 8]", 'resnet has no option "width"; it has widths, blocks'),
    ],
)  # fmt: skip
def test_recipe(old: str, new: str, said: str, recipe_file, refused):
    refused(recipe_file((old, new)), said)


def test_missing_data(recipe_file, refused, photos: Path):
    refused(recipe_file((str(photos), str(photos / "nowhere"))), "data.folder: no such folder", "nowhere")


def no_test_part(folder: Path) -> None:
    shutil.rmtree(folder / "test")


def empty_class(folder: Path) -> None:
    (folder / "train" / "grey").mkdir()
    (folder / "test" / "grey").mkdir()


def single_class(folder: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(folder / part / "dark")


def other_classes(folder: Path) -> None:
    (folder / "test" / "dark").rename(folder / "test" / "night")


def broken_image(folder: Path) -> None:
    (folder / "train" / "dark" / "005.png").write_bytes(b"no image")


def cut_image(folder: Path) -> None:
    path = folder / "test" / "bright" / "003.png"
    path.write_bytes(path.read_bytes()[:80])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_test_part, ["test: no such folder; data.folder must hold train/<class>/ and test/<class>/"]),
        (empty_class, ["grey: no images in this class"]),
        (single_class, ["1 class folder(s) found; at least two are needed"]),
        (other_classes, ["train/ has the classes", "night", "make them the same"]),
        (broken_image, ["005.png: this image does not decode", "repair or remove it"]),
        (cut_image, ["003.png: this image does not decode"]),
    ],
)
def test_folder(spoil: Callable[[Path], None], said: list[str], recipe_file, refused, photos: Path, tmp_path: Path):
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    spoil(copy)
    refused(recipe_file((str(photos), str(copy))), *said)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nan_pixels", ["image 7 holds NaN or infinite values", "remove them"]),
        ("nan_pixels_by_hand", ["calibration split: image 2 holds NaN or infinite values"]),
        ("labels_out_of_range", ["labels run from 0 to 2, but there are 2 classes (0 to 1)", "name all classes"]),
        ("one_class", ["every sample has the label 0; at least two classes are needed"]),
        ("no_calibration", ["the calibration split is empty"]),
        ("no_validation", ["the validation split is empty"]),
        ("nothing", ['has no function "nothing"; it has: ', "nan_pixels"]),
        ("five_classes", ["cannot be called with []"]),
    ],
)
def test_data_of_a_function(function: str, said: list[str], recipe_file, refused, factories: Path):
    refused(recipe_file(('source = "folder"', f'source = "{factories}:{function}"')), *said)


UNFIT = [
    (
        "five_classes",
        ["returns (1, 5) for one input, but the data has 2 classes", "must both have the data's classes"],
    ),
    ("fails", ["the network fails on an input of shape (1, 12, 12)"]),
]


@pytest.mark.parametrize(
    ("role", "function", "said"),
    [
        *((role, *case) for case in UNFIT for role in ("teacher", "student")),
        (
            "student",
            "branching",
            ["cannot be traced by torch.export", "if flat.mean() > 0:", "mine.py", "rewrite that operation"],
        ),
        ("student", "refused_by_onnx", ["the network cannot be exported to ONNX", "bessel_j0"]),
    ],
)
def test_network(role: str, function: str, said: list[str], recipe_file, refused, factories: Path):
    old = {"teacher": "widths = [6, 12], blocks = 1", "student": "widths = [4, 8], blocks = 1"}[role]
    model = f'model = "resnet"\noptions = {{{old}}}'
    refused(recipe_file((model, f'model = "{factories}:{function}"')), *said)


class Interrupting(Silent):
    """Stops the run, as Ctrl-C does, in the given stage."""

    def __init__(self, stage: str) -> None:
        self.wanted, self.now = stage, ""

    def stage(self, title: str) -> None:
        self.now = title

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        if self.now.startswith(self.wanted) and "epoch" in values and done >= 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_corrupted_checkpoint_is_refused_by_name(content: bytes | None, recipe_file, tmp_path: Path):
    recipe, run = load_recipe(recipe_file()), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        compress(recipe, run=run, watch=Interrupting("training the teacher"))
    (checkpoint,) = run.glob("steps/teacher-*.partial/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: damaged checkpoint .*delete it to train from"):
        compress(recipe, run=run)
    assert not list(run.glob("steps/*/record.json"))


def test_damaged_weights_of_a_finished_step_are_made_again(finished, run_copy: Path):
    (weights,) = run_copy.glob("steps/trial-qat-*/weights.safetensors")
    expected = weights.read_bytes()
    weights.write_bytes(expected[:-50])
    compress(load_recipe(finished.recipe), run=run_copy)
    assert weights.read_bytes() == expected
    assert (
        "weights.safetensors is missing or damaged; set aside and made again"
        in (run_copy / "steps/repaired.txt").read_text()
    )


def test_classes_that_are_not_written_in_utf8(recipe_file, refused, photos: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "photos")
    for part in ("train", "test"):
        (tmp_path / "photos" / part / "dark").rename(tmp_path / "photos" / part / os.fsdecode(b"caf\xe9"))
    refused(recipe_file((str(photos), str(tmp_path / "photos"))), 'the class "caf\\udce9" is not written in UTF-8')


@pytest.mark.slow
def test_a_teacher_that_no_file_can_hold_teaches_all_the_same(recipe_file, factories: Path, tmp_path: Path):
    """Its float32 file and its int8 form are references: without them the run goes on, and says so."""
    old = 'model = "resnet"\noptions = {widths = [6, 12], blocks = 1}'
    recipe = recipe_file((old, f'model = "{factories}:branching"'))
    result = CliRunner().invoke(app, ["run", str(recipe), "--run", str(tmp_path / "run"), "--plain"])
    assert result.exit_code == 3, result.output
    assert "the teacher has no file, its logits are PyTorch's: " in result.output
    record = RunRecord.load(tmp_path / "run" / "records" / "run.json")
    assert [column.name for column in record.teacher.columns] == ["float32"]
    assert record.teacher.column("float32").cost is None
    assert (tmp_path / "run" / "report.html").is_file()
