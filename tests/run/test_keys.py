"""Step keys: what changes a result is in them, what does not is not."""

import importlib.metadata
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import distiq
from distiq.data.samples import in_memory
from distiq.data.splits import Data, from_tensors
from distiq.progress import Silent
from distiq.recipe.distil import CacheSettings, DistilSettings
from distiq.recipe.part import changed
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import TrainingSettings
from distiq.run.keys import step_key, value_key
from distiq.run.networks import build_models, build_network, network_key
from distiq.run.reach import code_key, reach

PACKAGE = Path(distiq.__file__).parent
STEPS = {
    "training": ("run/train.py", "train"),
    "measuring": ("run/measure.py", "measure_network"),
    "a trial": ("run/trial.py", "make_trial"),
    "comparing": ("run/compare.py", "compare"),
}


def reached(step: str) -> set[tuple[str, str]]:
    file, name = STEPS[step]
    places = reach([(PACKAGE / file, name)], (PACKAGE.parent,))
    return {(str(path.relative_to(PACKAGE)), name) for path, name in places}


def test_training_reaches_its_losses_and_its_loop_and_no_runtime():
    places = reached("training")
    losses = {("tasks/classification.py", "kd"), ("training/fit.py", "fit"), ("numerics.py", "")}
    assert losses <= places
    assert ("device/run.py", "as_taken") not in places
    assert not any(file.startswith(("runtimes/", "report/", "bundle/", "quantization/")) for file, _ in places)


@pytest.mark.parametrize("step", ["measuring", "a trial", "comparing"])
def test_what_is_measured_reaches_every_runtime_and_the_runner(step: str):
    places = reached(step)
    files = {file for file, _ in places}
    assert {"runtimes/onnx_runtime.py", "runtimes/litert.py"} <= files and ("device/run.py", "as_taken") in places
    assert not any(file.startswith(("report/", "bundle/", "commands/")) for file in files)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's source, to be changed."""
    copy = tmp_path_factory.mktemp("copy") / "distiq"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.xz", "*.gz", "*.npz", "__pycache__"))
    return copy


@pytest.mark.parametrize(
    ("file", "old", "new", "changed_steps"),
    [
        ("device/run.py", "np.clip(steps, -128, 127)", "np.clip(steps, -127, 127)",
         {"measuring", "a trial", "comparing"}),
        ("device/run.py", '"""', '"""Changed. ', set()),
        ("distillation/logit_losses.py", "* temperature**2", "* temperature**3", {"training", "a trial"}),
        ("training/fit.py", "import math", "import math  # for isfinite", set()),
        ("report/tables.py", "import", "LIMIT = 7\nimport", set()),
    ],
)  # fmt: skip
def test_a_changed_constant_is_in_the_keys_that_it_decides(
    file: str, old: str, new: str, changed_steps: set[str], copied: Path
):
    def keys() -> dict[str, str]:
        return {step: code_key([(copied / path, name)], (copied.parent,)) for step, (path, name) in STEPS.items()}

    before, text = keys(), (copied / file).read_text()
    assert old in text
    (copied / file).write_text(text.replace(old, new, 1))
    after = keys()
    (copied / file).write_text(text)
    assert {step for step in STEPS if before[step] != after[step]} == changed_steps


def make(_place: object, *, training: TrainingSettings) -> None:
    pass


def test_how_often_a_checkpoint_is_written_is_in_no_key():
    plain = TrainingSettings()
    keys = [step_key("student", partial(make, training=settings)) for settings in (
        plain, changed(plain, {"checkpoint_seconds": 1.0}), changed(plain, {"precision": "float32"}),
    )]  # fmt: skip
    assert keys[0] == keys[1] != keys[2], "the precision that was resolved decides"
    roomy = DistilSettings(cache=CacheSettings(limit_mb=1.0))
    assert value_key(roomy) == value_key(DistilSettings())


def test_a_value_without_a_key_is_refused():
    with pytest.raises(TypeError, match="a step cannot be made from object, which has no key"):
        value_key(object())


# Data -----------------------------------------------------------------------------------------------------------------


def test_the_shapes_and_types_of_data_are_in_its_digest():
    labels, images = torch.arange(40) % 2, torch.full((40, 1, 2, 8), 9, dtype=torch.uint8)
    images[::2] = 0
    data = from_tensors((images[:30], labels[:30]), (images[30:], labels[30:]), validation=8, calibration=8)
    test = images[30:]
    forms = [test, test.reshape(10, 1, 4, 4), test.reshape(10, 1, 16, 1), test.view(torch.int8)]
    digests = {replace(data, test=in_memory(form, labels[30:])).digest() for form in forms}
    assert len(digests) == 4


# Networks -------------------------------------------------------------------------------------------------------------

SAMPLES = torch.linspace(-1, 1, 32).reshape(8, 4)


class Scaled(nn.Module):
    """Its factor is neither a weight nor in its text form."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 2), factor
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.factor * torch.tanh(self.layer(inputs)) + 1.0


def test_a_given_network_is_known_by_its_weights_and_its_outputs():
    key = network_key(Scaled(1.0), None, SAMPLES)
    assert network_key(Scaled(1.0), None, SAMPLES) == key
    assert network_key(Scaled(1.001), None, SAMPLES) != key, "its outputs tell"
    heavier = Scaled(1.0)
    with torch.no_grad():
        heavier.layer.weight[0, 0] += 1e-6
    assert network_key(heavier, None, SAMPLES) != key


FACTORY = """
import torch
from torch import nn
from layers.wide import width

def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width()), nn.ReLU(), nn.Linear(width(), classes))

def ask(data):
    import json, pathlib
    factor = json.loads(pathlib.Path(__file__).with_name("factor.json").read_text())
    return lambda inputs: factor * inputs.reshape(len(inputs), -1)[:, :2]
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("")
    (tmp_path / "layers" / "wide.py").write_text("def width():\n    return 6 * one()\n\ndef one():\n    return 1\n")
    (tmp_path / "factor.json").write_text("2.0")
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


def data() -> Data:
    images, labels = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    return from_tensors((images[:30], labels[:30]), (images[30:], labels[30:]), validation=8, calibration=8)


def test_what_a_factory_imports_from_sub_folders_is_in_the_key(factory: Path):
    recipe = Recipe(teacher={"model": f"{factory}:make"}, student={"model": f"{factory}:make"})
    key = build_models(recipe, data(), Silent()).student.key
    wide = factory.parent / "layers" / "wide.py"
    wide.write_text(f"# a comment\n{wide.read_text()}")
    assert build_models(recipe, data(), Silent()).student.key == key
    wide.write_text(wide.read_text().replace("return 1", "return 2 - 1"))
    assert build_models(recipe, data(), Silent()).student.key != key


def test_the_files_behind_a_callable_are_in_the_key(factory: Path):
    recipe = Recipe(teacher={"predict": f"{factory}:ask"}, student={"model": f"{factory}:make"})
    keys = [build_models(recipe, data(), Silent()).teacher.key]
    (factory.parent / "factor.json").write_text("2.1")
    keys.append(build_models(recipe, data(), Silent()).teacher.key)
    factory.write_text(FACTORY.replace("[:, :2]", "[:, 2:4]"))
    keys.append(build_models(recipe, data(), Silent()).teacher.key)
    assert len(set(keys)) == 3


def test_options_decide():
    small, wide = {"widths": [4], "blocks": 1}, {"widths": [5], "blocks": 1}
    recipes = [Recipe(student={"model": "resnet", "options": options}) for options in (small, small, wide)]
    keys = [build_network(recipe, data(), "student").key for recipe in recipes]
    assert keys[0] == keys[1] != keys[2]


def test_the_version_of_the_library_that_a_network_comes_from_is_in_its_key(monkeypatch: pytest.MonkeyPatch):
    activations = pytest.importorskip("transformers.activations", reason="transformers is not installed")
    model = nn.Sequential(nn.Linear(4, 2), activations.NewGELUActivation())
    key, version = network_key(model, None, SAMPLES), importlib.metadata.version
    other = {"transformers": "9.9"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: other.get(name) or version(name))
    assert network_key(model, None, SAMPLES) != key
