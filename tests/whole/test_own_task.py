"""A task that distiq does not have: ordinal labels, from a file that a recipe names to a measured int8 bundle."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.ablate import ablate
from distiq.commands.compress import compress
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord
from distiq.report.show import show

TASK = """
import torch
import torch.nn.functional as F
from distiq.records.quality import Metric
from distiq.tasks.task import Scores, Task, same_predictions


def ordinal(labels):
    levels = len(labels.classes)
    return Task(
        name="ordinal", predicts=f"a level of 0 to {levels - 1}", outputs=levels - 1, loss=loss,
        distillation=distillation, decode=decode, score=score, agreement=same_predictions(decode),
        correct=lambda predictions, targets: predictions == targets,
        refuses=lambda recipe: "it knows no mixed labels; set views.mixup to 0" if recipe.views.mixup else "",
    )


def reached(targets, thresholds):
    \"\"\"1 at each level that is reached: 2 of 4 levels is (1, 1, 0).\"\"\"
    return (targets.unsqueeze(1) > thresholds).float()


def loss(outputs, targets):
    wanted = reached(targets, torch.arange(outputs.shape[1], device=outputs.device))
    return F.binary_cross_entropy_with_logits(outputs.float(), wanted, reduction="none").sum(1)


def distillation(student, teacher, *, temperature=4.0):
    return (student.sigmoid() - teacher.sigmoid()).square().sum(1).mean()


def decode(outputs):
    return (outputs > 0).sum(1)


def score(outputs, targets):
    error = (decode(outputs) - targets).abs().float()
    within = float((error <= 1).float().mean())
    return Scores(
        Metric(name="mae", title="mean error", value=float(error.mean()), unit="levels", higher_is_better=False),
        (Metric(name="within_one", title="within one level", value=within),),
    )
"""
RECIPE = """
name = "levels"
task = "ordinal.py:ordinal"
[data]
source = "table"
folder = "."
validation = 60
calibration = 30
[data.table]
numeric = ["a", "b"]
label = "level"
bins = 8
[teacher]
model = "mlp"
options = {hidden = [16]}
[teacher.training]
epochs = 30
batch_size = 32
optimizer = "adamw"
learning_rate = 0.02
precision = "float32"
[student]
model = "mlp"
options = {hidden = [8]}
[student.training]
epochs = 30
batch_size = 32
optimizer = "adamw"
learning_rate = 0.02
precision = "float32"
[quantize]
rungs = ["static", "qat"]
[quantize.training]
epochs = 1
batch_size = 32
[budget]
drop = -9.0
metrics = {within_one = 5.0}
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose level, 0 to 3, grows with the sum of two numbers."""
    folder = tmp_path_factory.mktemp("levels")
    generator = np.random.default_rng(0)
    for part, count in (("train", 500), ("test", 120)):
        rows = generator.uniform(0, 2, (count, 2))
        lines = [f"{a:.4f},{b:.4f},{min(3, int(a + b))}" for a, b in rows]
        (folder / f"{part}.csv").write_text("\n".join(["a,b,level", *lines, ""]))
    (folder / "ordinal.py").write_text(TASK)
    (folder / "levels.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return compress(load_recipe(folder / "levels.toml"), run=folder / "run")


def test_every_column_has_the_task_s_metrics(run: RunRecord, folder: Path):
    assert (run.task.name, run.task.outputs, run.data.classes) == ("ordinal", 3, ("0", "1", "2", "3"))
    for column in (run.teacher.column("float32"), *run.student.columns):
        assert column.test.primary.name == "mae" and column.test.value < 0.3, column.name
        within = column.test.metric("within_one")
        assert within is not None and within.value > 0.97
        assert column.test.per_class == ()
    logits = load_file(folder / "run" / "steps" / run.steps["student-float32"] / "logits.safetensors")["test"]
    levels = [int(line.split(",")[2]) for line in (folder / "test.csv").read_text().splitlines()[1:]]
    expected = ((logits > 0).sum(1) - torch.tensor(levels)).abs().float().mean()
    assert run.student.column("float32").test.value == pytest.approx(float(expected))


def test_its_own_losses_train_the_student(run: RunRecord):
    assert run.student.training is not None
    first, last = run.student.training.epochs[0], run.student.training.epochs[-1]
    assert set(last.losses) == {"task", "kd"} and last.losses["task"] < first.losses["task"]
    assert last.validation is not None and last.validation.name == "mae"


def test_the_budget_is_in_the_unit_of_the_task(run: RunRecord):
    assert [trial.rung for trial in run.trials] == ["static", "qat"]
    (breach,) = run.verdict.breaches
    assert (breach.limit, breach.title, breach.unit) == ("drop", "mean error rise", "levels")
    assert "levels mean error on the test set" in run.verdict.sentence
    assert "mean error rise by" in run.verdict.sentence


def test_report_and_terminal_speak_of_the_task(run: RunRecord, folder: Path):
    page = (folder / "run" / "report.html").read_text()
    assert "Mean error, teacher" in page and "Within one level" in page and "mean error limit" in page
    assert "ccuracy" not in page
    stream = io.StringIO()
    show(folder / "run" / "records", Console(file=stream, width=80))
    assert "levels" in stream.getvalue() and "Classes" not in stream.getvalue()


def test_the_bundle_gives_outputs_that_its_code_decodes(run: RunRecord, folder: Path):
    opened = Bundle(folder / "run" / "bundle")
    assert json.loads((opened.folder / "preprocessing.json").read_text())["task"] == "ordinal"
    assert opened.check().passed and runner.main([], opened.folder) == 0
    with pytest.raises(UserError, match=r"decoded by the code of its task .ordinal. alone"):
        opened.classify(opened.vectors()["inputs"][:1])
    (folder / "one.csv").write_text("a,b\n1.9,1.9\n")
    said = CliRunner().invoke(app, ["predict", str(opened.folder), str(folder / "one.csv")])
    values = [float(value) for value in said.output.split(": ")[1].split()]
    assert said.exit_code == 0 and len(values) == 3 and all(value > 0 for value in values)
    assert "Predicts a level of 0 to 3" in (opened.folder / "README.md").read_text()


def test_the_teacher_s_help_is_counted_in_right_predictions(folder: Path):
    record = ablate(load_recipe(folder / "levels.toml"), seeds=1, run=folder / "run")
    assert record.teacher.primary.name == "mae" and {arm.name for arm in record.arms} == {"no teacher", "outputs alone"}


def test_code_of_the_task_decides_a_step(run: RunRecord, folder: Path):
    same = (folder / "ordinal.py").read_text()
    (folder / "ordinal.py").write_text(f"# a comment\n{same}")
    again = compress(load_recipe(folder / "levels.toml"), run=folder / "run")
    assert again.steps["student"] == run.steps["student"]
    (folder / "ordinal.py").write_text(same.replace(".sum(1).mean()", ".mean()"))
    other = compress(load_recipe(folder / "levels.toml", ['quantize.rungs=["static"]']), run=folder / "run")
    (folder / "ordinal.py").write_text(same)
    assert other.steps["student"] != run.steps["student"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('task="ordnal.py:ordinal"', "task: no such file"),
        ('task="ordinal.py:cardinal"', 'has no function "cardinal"; it has: .*ordinal'),
        ('task="ordinal.py:decode"', "cannot be called with"),
        ('task="regresion"', 'did you mean "regression"'),
        ('task="regression"', "is for samples with a number each, but those of this data have a class"),
        ("budget.metrics.within_two=1", 'within_two is not measured .*; did you mean "within_one"'),
        ('distil.losses=[{name="dkd"}]', "dkd compares each class with the others, which ordinal does not have"),
        ("student.training.label_smoothing=0.1", "which ordinal does not have; set it to 0"),
        ('evaluation.keyword="1"', "evaluation.keyword is for one class a sample, but the task is ordinal"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(folder: Path, change: str, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        compress(load_recipe(folder / "levels.toml", [change]), run=tmp_path / "run")
