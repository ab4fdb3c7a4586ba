"""A page for browsers: made and measured in headless Chromium, for images, sound, texts and rows; what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.commands.compress import compress
from distiq.data.splits import Data, from_tensors
from distiq.errors import UserError
from distiq.files import sha256_of_file
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.run.check import check_recipe
from distiq.runtimes.web import lacks_browser


@pytest.fixture(scope="module")
def data() -> Data:
    labels = torch.arange(120) % 2
    images = torch.rand(120, 3, 12, 10, generator=torch.Generator().manual_seed(0)) / 2 + labels.view(-1, 1, 1, 1) / 2
    pixels = (255 * images).to(torch.uint8)
    return from_tensors((pixels[:80], labels[:80]), (pixels[80:], labels[80:]), validation=16, calibration=16)


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    layers = [nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)]
    return nn.Sequential(*layers)


def recipe(**parts: dict) -> Recipe:
    training = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01, "precision": "float32"}
    tree = {
        "name": "tiny",
        "teacher": {"training": training},
        "student": {"training": training},
        "views": {"flip": False, "shift": 0},
        "quantize": {"rungs": ["static"]},
        "measure": {"throughput_batch": 2, "rounds": 2, "seconds": 0.02},
        "export": {"web": True},
    }
    return parse_recipe(tree | parts)


@pytest.mark.slow
def test_a_page_is_measured_opened_and_delivered(data: Data, tmp_path: Path):
    if why := lacks_browser():
        pytest.skip(why)
    record = compress(recipe(), run=tmp_path, teacher=network(6), student=network(4), data=data)
    assert [one.form for one in record.web.files] == ["float32", "float16", "int8"]
    assert (record.web.samples, record.web.of_samples) == (40, 40)
    assert all(one.agreement == 1.0 and one.latency.p50_ms > 0 for one in record.web.files)
    assert record.web.replay.startswith("pass: 32 of 32 test vectors predict the same")
    assert "3 of 3 samples are prepared the same" in record.web.replay
    web = tmp_path / "bundle" / "web"
    sums = dict(line.split("  ")[::-1] for line in (web / "SHA256SUMS").read_text().splitlines())
    assert set(sums) | {"SHA256SUMS"} == {file.name for file in web.iterdir()}
    assert all(sha256_of_file(web / name) == value for name, value in sums.items())
    assert json.loads((web / "page.json").read_text())["measured"][0]["cells"][0] == "float32"


@pytest.mark.parametrize(
    ("program", "message"), [("npm", "npm is not installed here"), ("chromium", "Chromium is not installed here")]
)
def test_what_is_not_installed_is_said_before_training(
    program: str, message: str, data: Data, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program or program in name else f"/bin/{name}")
    if program == "chromium":
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in ("npm", "node") else None)
    with pytest.raises(UserError, match=f"export.web = true, but {message}"):
        check_recipe(recipe(), data)


def test_a_run_without_onnx_files_is_refused(data: Data):
    with pytest.raises(UserError, match=r'export.web = true delivers an .onnx file; add "onnxruntime"'):
        check_recipe(recipe(measure={"runtimes": ["openvino"]}), data)
