"""Every code block of README and docs: commands are known, recipes are read, Python runs; slowly, commands run, too."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from distiq.commands.compress import compress
from distiq.recipe.read import load_recipe
from tests.docs.code_blocks import PAGES, ROOT, SHOWN_ONLY, Sandbox, blocks, check_command, commands

WITH_CODE = [page for page in PAGES if blocks(page)]
OF_PYTHON = ("README.md", "python.md", "quantization.md")
OF_PYTHON_SLOW = ("python.md",)
OF_COMMANDS = (
    "quickstart.md",
    "images.md",
    "audio.md",
    "tables.md",
    "text.md",
    "networks.md",
    "runtimes.md",
    "devices.md",
)


def by_name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", WITH_CODE, ids=by_name)
def test_every_command_is_known(page: Path):
    for block in blocks(page):
        assert block.language in {"bash", "python", "toml", *SHOWN_ONLY}, "name the language of each block"
        for words in commands(block) if block.language == "bash" else ():
            check_command(words)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in OF_PYTHON_SLOW))
        for page in WITH_CODE
        if page.name in OF_PYTHON
    ],
)
def test_python_runs_top_to_bottom(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    sandbox = Sandbox(folder)
    for block in blocks(page):
        if block.language == "python":
            sandbox.run(block)
    if "run" in sandbox.names:
        assert sandbox.names["run"].verdict.sentence in capsys.readouterr().out


@pytest.mark.parametrize("page", WITH_CODE, ids=by_name)
def test_recipes_are_read(page: Path, folder: Path):
    sandbox = Sandbox(folder)
    for block in blocks(page):
        if block.language == "toml":
            sandbox.run(block)


def test_the_readmes_commands_run(folder: Path):
    run_page(ROOT / "README.md", folder)
    assert (folder / "runs/my/bundle/model.onnx").is_file()
    assert (folder / "model.int8.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WITH_CODE if page.name in OF_COMMANDS], ids=by_name)
def test_the_commands_of_a_page_run(page: Path, folder: Path):
    if page.name == "devices.md":
        compress(load_recipe(folder / "tiny.toml"), run=folder / "runs/fashion_mnist")
        Sandbox(folder).command(["distiq", "bench", "runs/fashion_mnist/bundle", "--json", ">", "pi.json"])
        shutil.copy("pi.json", "phone.json")
    run_page(page, folder)


def run_page(page: Path, folder: Path) -> None:
    sandbox = Sandbox(folder)
    for block in blocks(page):
        if block.language in ("bash", "toml") or block.title:
            sandbox.run(block)


def test_the_preparation_in_cpp_is_that_of_the_runner(tmp_path: Path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    block = next(block for block in blocks(ROOT / "docs/devices.md") if block.language == "cpp")
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)  # (H, W, C)
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.3, 0.25], np.float32)
    program = f"""
#include <cstdio>
constexpr int C = 3, H = 2, W = 3;
const float MEAN[] = {{0.4f, 0.5f, 0.6f}}, STD[] = {{0.2f, 0.3f, 0.25f}}, DIVIDE_BY = 255.0f;
{block.text}
int main() {{
    for (float x : prepared({{{", ".join(map(str, pixels.ravel()))}}})) std::printf("%.9g ", x);
    const float logits[] = {{1.0f, 2.0f, 3.0f}};
    for (float p : softmax(logits, 3)) std::printf("%.9g ", p);
}}"""
    (tmp_path / "main.cpp").write_text(program)
    subprocess.run(["g++", "-std=c++17", "-o", tmp_path / "main", tmp_path / "main.cpp"], check=True)
    printed = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    values = np.array(printed.split(), np.float32)
    expected = (pixels.transpose(2, 0, 1).astype(np.float32) / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(values[:18], expected.ravel(), rtol=1e-6)
    np.testing.assert_allclose(values[18:], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-6)


def test_the_javascript_is_javascript(tmp_path: Path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    block = next(block for block in blocks(ROOT / "docs/devices.md") if block.language == "js")
    (tmp_path / "classify.mjs").write_text(block.text)
    subprocess.run(["node", "--check", tmp_path / "classify.mjs"], check=True)


def test_the_schema_beside_a_recipe_is_json(folder: Path):
    Sandbox(folder).command(["distiq", "init", "my.toml", "--data", "photos"])
    assert json.loads((folder / "distiq.schema.json").read_text())["title"] == "Recipe"
