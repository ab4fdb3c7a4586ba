"""The package as people install it: a wheel, outside the clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = (
    "data.train=600", "data.validation=64", "data.calibration=32", "student.training.epochs=1",
    "quantize.rungs=[\"static\"]", "measure.rounds=1", "measure.seconds=0.01", "budget={}",
)  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of this tree is installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "distiq", source / "distiq", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", source / "dist", source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("distiq-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True, capture_output=True)
    return target


def distiq(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "distiq", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_holds_what_is_no_python(installed: Path):
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "distiq").rglob("*") if path.is_file()}
    kept = {path for path in kept if "__pycache__" not in path}
    assert {path for path in kept if not (installed / path).is_file()} == set()
    assert "distiq/py.typed" in kept


def test_recipes_are_listed(installed: Path, tmp_path: Path):
    result = distiq(installed, tmp_path, "recipes")
    assert result.returncode == 0, result.stderr
    assert {"fashion_mnist", "adult"} <= {line.split()[0] for line in result.stdout.splitlines()}


@pytest.mark.parametrize(
    ("name", "teacher"),
    [
        ("adult", ["teacher.options={trees=3}"]),  # its teacher is a file beside the recipe
        pytest.param(
            "fashion_mnist", ["teacher.options={widths=[8]}", "teacher.training.epochs=1"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_recipe_runs_by_name(name: str, teacher: list[str], installed: Path, tmp_path: Path):
    changes = [word for change in (*TINY, *teacher) for word in ("--set", change)]
    result = distiq(installed, tmp_path, "run", name, "--plain", *changes)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / f"runs/{name}/bundle/model.onnx").is_file()
    assert (tmp_path / f"runs/{name}/report.html").is_file()
