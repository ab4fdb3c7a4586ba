"""A page for browsers: made and measured in headless Chromium, for images, sound, texts and rows; what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from distiq.commands.compress import compress
from distiq.data.splits import Data, from_tensors
from distiq.data.tokenizer import train_tokenizer
from distiq.errors import UserError
from distiq.files import sha256_of_file
from distiq.recipe.read import load_recipe, parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.run import web
from distiq.run.check import check_recipe
from distiq.runtimes.web import lacks_browser
from distiq.tasks.choose import task_of


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
    page = tmp_path / "bundle" / "web"
    sums = dict(line.split("  ")[::-1] for line in (page / "SHA256SUMS").read_text().splitlines())
    assert set(sums) | {"SHA256SUMS"} == {file.name for file in page.iterdir()}
    assert all(sha256_of_file(page / name) == value for name, value in sums.items())
    assert json.loads((page / "page.json").read_text())["measured"][0]["cells"][0] == "float32"


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


TRAINING = 'epochs = 2\nbatch_size = 16\noptimizer = "adamw"\nlearning_rate = 0.01\nprecision = "float32"'
COMMON = """
[views]
distinct = 1
[quantize]
mode = "{mode}"
rungs = ["{mode}"]
fall_back = false
[measure]
runtimes = ["onnxruntime"]
rounds = 2
seconds = 0.02
[export]
web = true
"""
NAMES = f"""
name = "names"
[data]
source = "entities"
folder = "."
validation = 20
calibration = 20
[data.text]
vocabulary = 60
length = 16
[teacher]
model = "text_cnn"
options = {{width = 16}}
[teacher.training]
{TRAINING}
[student]
model = "text_cnn"
options = {{width = 8}}
[student.training]
{TRAINING}
"""
STRINGS = f"""
name = "strings"
[data]
source = "digit_strings"
validation = 20
calibration = 16
[data.audio]
rate = 8000
seconds = 2.0
held_out = ["theo"]
[data.transcripts]
symbols = "words"
digits = 2
strings = 200
test_strings = 16
[teacher]
model = "ctc_cnn"
options = {{rate = 8000, bands = 16, width = 16, blocks = 1}}
[teacher.training]
{TRAINING}
[student]
model = "ctc_cnn"
options = {{rate = 8000, bands = 16, width = 12, blocks = 1}}
[student.training]
{TRAINING}
"""
VECTORS = f"""
name = "vectors"
[data]
source = "pairs"
folder = "."
validation = "test.csv"
calibration = 20
[data.text]
tokenizer = "./bert"
length = 12
[teacher]
model = "transformers:bert"
weights = "./bert"
[student]
model = "static"
options = {{width = 16}}
[student.training]
{TRAINING}
[distil]
task_weight = 0.0
kd_weight = 1.0
"""


def write_names(folder: Path) -> None:
    draw = np.random.default_rng(0)
    lines = ("Ann\tB-person\n", "New\tB-place\nYork\tI-place\n", "saw\tO\n", "the\tO\n", ".\tO\n")
    for part, count in (("train", 120), ("test", 24)):
        texts = ("".join(lines[number] for number in draw.integers(0, len(lines), 5)) for _ in range(count))
        (folder / f"{part}.conll").write_text("\n".join(texts))


def write_vectors(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    draw, words = np.random.default_rng(0), ("cat", "dog", "house", "tree", "runs", "the", "red")
    texts = [" ".join(draw.choice(words, draw.integers(2, 6))) for _ in range(160)]
    for part, rows in (("train", range(0, 100, 2)), ("test", range(100, 160, 2))):
        lines = [f"{texts[row]},{texts[row + 1]},{row % 5}" for row in rows]
        (folder / f"{part}.csv").write_text("\n".join(["text,other,score", *lines]))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / "bert")
    tokenizer = train_tokenizer(texts, 60)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.save_pretrained(folder / "bert")


TASKS = {
    "spans": (NAMES, "static", write_names, "{0} of {0} samples are prepared the same; {0} of {0} are read the same"),
    "transcript": (STRINGS, "static", lambda folder: None, "{0} of {0} samples are prepared the same; {0} of {0} are"),
    "vector": (VECTORS, "dynamic", write_vectors, "{0} of {0} samples are prepared the same;"),
}


@pytest.mark.slow
@pytest.mark.parametrize("decoding", TASKS)
def test_pages_of_spans_texts_and_vectors_read_as_the_runner_does(decoding: str, tmp_path: Path):
    if why := lacks_browser():
        pytest.skip(why)
    settings, mode, write, replayed = TASKS[decoding]
    write(tmp_path)
    (tmp_path / "recipe.toml").write_text(settings + COMMON.format(mode=mode))
    record = compress(load_recipe(tmp_path / "recipe.toml"), run=tmp_path / "run")
    assert all(one.agreement == 1.0 for one in record.web.files)
    page = tmp_path / "run" / "bundle" / "web"
    about, vectors = json.loads((page / "page.json").read_text()), load_file(page / "vectors.safetensors")
    assert about["preprocessing"]["decoding"] == decoding
    count = sum(name.startswith("prepared.") for name in vectors)
    assert count == len(about["said"]) or decoding == "vector"
    assert count > 1 and replayed.format(count) in record.web.replay and record.web.replay.startswith("pass")


def test_what_only_a_tasks_own_code_reads_is_refused(data: Data, monkeypatch: pytest.MonkeyPatch):
    own = replace(task_of(data), name="mine", decoding="none")
    monkeypatch.setattr(web, "task_of", lambda _: own)
    with pytest.raises(UserError, match=r"export\.web = true, but only the code of mine knows what its outputs mean"):
        web.check_web(recipe(), data)
