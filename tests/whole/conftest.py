"""A folder of tiny photos, a recipe for it, and one finished run that the tests of this folder share."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

RECIPE = """
name = "tiny"

[data]
source = "folder"
folder = "photos"
validation = 24
calibration = 16
image_size = 12
channels = 1

[views]
distinct = 2
shift = 1

[teacher]
model = "resnet"
options = {widths = [6, 12], blocks = 1}
[teacher.training]
epochs = 2
batch_size = 4
learning_rate = 0.02
precision = "float32"
checkpoint_seconds = 0.0

[student]
model = "resnet"
options = {widths = [4, 8], blocks = 1}
[student.training]
epochs = 2
batch_size = 4
learning_rate = 0.02
ema_decay = 0.9
precision = "float32"
checkpoint_seconds = 0.0

[quantize]
rungs = ["static", "qat"]
[quantize.training]
epochs = 2
batch_size = 4
learning_rate = 0.01
optimizer = "adamw"
checkpoint_seconds = 0.0

[budget]
drop = -200.0

[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
"""


def make_photos(folder: Path) -> Path:
    """Grey 12x12 images; those of "bright" are brighter. Returns the folder."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 70), ("test", 30)):
        for name, lightest in (("bright", 255), ("dark", 150)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, lightest, (12, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that run these tests: the first that asks makes what lies there, under its lock."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def photos(shared: Path) -> Path:
    with FileLock(shared / "photos.lock"):
        return shared / "photos" if (shared / "photos").exists() else make_photos(shared / "photos")


@pytest.fixture
def recipe_file(photos: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the recipe into `tmp_path` with some of its text replaced and lines added at its end."""

    def write(*changes: tuple[str, str], more: str = "") -> Path:
        text = RECIPE.replace('"photos"', f'"{photos}"')
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tiny.toml"
        path.write_text(f"{text}\n{more}\n")
        return path

    return write


def start(recipe: Path, run: Path) -> subprocess.Popen[str]:
    """`distiq run` in its own process, which the test may kill."""
    command = [sys.executable, "-m", "distiq", "run", str(recipe), "--run", str(run), "--plain"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.fixture(scope="session")
def started() -> Callable[[Path, Path], subprocess.Popen[str]]:
    return start


class Finished(NamedTuple):
    """A run that came to its end."""

    recipe: Path
    folder: Path
    returncode: int
    stdout: str
    stderr: str
    seconds: float


@pytest.fixture(scope="session")
def finished(photos: Path, shared: Path) -> Finished:
    """The recipe's run, from the command line; its budget cannot be met. Tests read it and change copies of it."""
    recipe, run, said = shared / "tiny.toml", shared / "run", shared / "said.json"
    with FileLock(shared / "run.lock"):
        if not said.exists():
            recipe.write_text(RECIPE.replace('"photos"', f'"{photos}"'))
            began = time.monotonic()
            process = start(recipe, run)
            stdout, stderr = process.communicate(timeout=600)
            said.write_text(json.dumps([process.returncode, stdout, stderr, time.monotonic() - began]))
    return Finished(recipe, run, *json.loads(said.read_text()))


@pytest.fixture
def run_copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be changed."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


ABSENT = ("torch", "distiq", "safetensors", "scipy", "pydantic", "onnx", "transformers")
BARE = """
import runpy, sys
absent = sys.argv.pop(1).split(",")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ImportError(f"{name} is not on the device")
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "run.py"
runpy.run_path("run.py", run_name="__main__")
"""


def run_bare(bundle: Path, *arguments: object, absent: Sequence[str] = ABSENT) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BARE, ",".join(absent), *map(str, arguments)]
    return subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="session")
def on_device() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python run.py ARGUMENTS` in a bundle's folder; what is `absent`, distiq and torch among it, is not found."""
    return run_bare
