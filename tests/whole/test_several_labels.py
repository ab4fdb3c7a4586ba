"""Texts with any number of labels: from columns of 0 and 1 to a bundle that gives each label its probability."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.device import run as runner
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
RECIPE = """
name = "about"
[data]
source = "text"
folder = "."
validation = 40
calibration = 20
[data.text]
labels = ["fun", "long"]
vocabulary = 60
length = 10
[teacher]
model = "text_cnn"
options = {width = 16, filters = 16}
[teacher.training]
epochs = 6
batch_size = 16
optimizer = "adamw"
learning_rate = 0.01
precision = "float32"
[student]
model = "text_bilstm"
options = {width = 8, hidden = 8, layer = 0}
[student.training]
epochs = 6
batch_size = 16
optimizer = "adamw"
learning_rate = 0.03
precision = "float32"
[quantize]
rungs = ["static", "qat"]
[quantize.training]
epochs = 1
batch_size = 16
[budget]
metrics = {micro_f1 = -200.0}
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
"""


def row(number: int) -> str:
    """A film that is fun or not, long or not, with both labels in the number."""
    fun, long = number % 2, number // 2 % 2
    words = ["the", *("film", "movie")[number // 4 % 2 :], "funny" if fun else "sad", "endless" if long else "brief"]
    return f"{' '.join(words)}\t{fun}\t{long}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("about")
    for part, count in (("train", 200), ("test", 40)):
        (folder / f"{part}.tsv").write_text("\n".join(["text\tfun\tlong", *map(row, range(count)), ""]))
    (folder / "about.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return compress(load_recipe(folder / "about.toml"), run=folder / "run")


def test_exact_match_and_f1_stand_in_the_record_and_the_report(run: RunRecord, folder: Path):
    found = run.student.column("int8 deployed").test
    micro = found.metric("micro_f1")
    assert found.value > 0.95 and micro is not None and micro.value > 0.95
    assert all(trial.agreement == 1.0 and trial.runtimes[0].same_integers for trial in run.trials)
    assert [breach.limit for breach in run.verdict.breaches] == ["metrics.micro_f1"]
    report = (folder / "run" / "report.html").read_text()
    assert "Exact match" in report and "Micro F1" in report and "Macro F1" in report


def test_the_bundle_gives_each_label_its_own_probability(run: RunRecord, folder: Path):
    opened = Bundle(folder / "run" / "bundle")
    texts = ("the endless movie is funny", "the brief film is sad")
    both, none = ({answer.label: answer.probability for answer in opened.predict(text)} for text in texts)
    assert both.keys() == none.keys() == {"fun", "long"}
    assert all(both[label] > 0.5 and both[label] > none[label] for label in both)
    logits = opened.run(opened.prepare("the film").inputs)
    torch.testing.assert_close(opened.probabilities(logits), 1 / (1 + (-logits).exp()))
    assert opened.check().passed
    assert runner.main([], opened.folder) == 0
    assert CliRunner().invoke(app, ["predict", str(opened.folder), "a funny film"]).exit_code == 0
