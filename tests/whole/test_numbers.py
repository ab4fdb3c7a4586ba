"""Texts with a number each: from a column of scores to a bundle that answers in their unit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.ablate import ablate
from distiq.commands.compress import compress
from distiq.commands.diagnose import diagnose
from distiq.data.load import load
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.recipe.read import load_recipe
from distiq.records.run import RunRecord

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
RECIPE = """
name = "stars"
[data]
source = "text"
folder = "."
validation = 40
calibration = 20
[data.text]
target = "stars"
vocabulary = 60
length = 12
[teacher]
model = "text_cnn"
options = {width = 16, filters = 16, dropout = 0.0}
[teacher.training]
epochs = 8
batch_size = 16
optimizer = "adamw"
learning_rate = 0.01
precision = "float32"
[student]
model = "embedding_bag"
options = {width = 8, hidden = 8, dropout = 0.0}
[student.training]
epochs = 12
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
drop = -200.0
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
"""


def row(number: int) -> str:
    """A film with 30 to 80 stars: a better word gives 10 more, and so does each "very"."""
    level, very = number % 3, number // 3 % 4
    words = ["the", ("film", "movie")[number // 12 % 2], "is", *["very"] * very, ("dull", "good", "lovely")[level]]
    return f"{' '.join(words)}\t{30 + 10 * level + 10 * very}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stars")
    for part, count in (("train", 240), ("test", 48)):
        (folder / f"{part}.tsv").write_text("\n".join(["text\tstars", *map(row, range(count)), ""]))
    (folder / "stars.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return compress(load_recipe(folder / "stars.toml"), run=folder / "run")


def test_every_column_is_measured_in_the_unit_of_the_data(run: RunRecord, folder: Path):
    recipe = load_recipe(folder / "stars.toml")
    wanted = torch.tensor([float(row(number).split("\t")[1]) for number in range(48)], dtype=torch.float64)
    target = load(recipe.data, recipe.seed).target
    answers = load_file(folder / "run" / "steps" / run.steps["student-float32"] / "logits.safetensors")["test"][:, 0]
    error = (target.mean + target.std * answers - wanted).square().mean().sqrt()
    found = run.student.column("float32").test
    assert found.samples == 48 and run.task.name == "regression"
    rmse = found.metric("rmse")
    assert rmse is not None and rmse.value == pytest.approx(float(error), rel=1e-4)
    assert rmse.interval is not None and rmse.interval[0] < rmse.value < rmse.interval[1]
    assert found.value == pytest.approx(float(torch.corrcoef(torch.stack([answers, wanted]))[0, 1]), abs=1e-6)
    for column in (run.teacher.column("float32"), *run.student.columns):
        values = {metric.name: metric.value for metric in (column.test.primary, *column.test.metrics)}
        assert values["correlation"] > 0.95 and values["rank_correlation"] > 0.95 and values["rmse"] < 6


def test_the_file_answers_as_its_simulation_and_little_else_than_float32(run: RunRecord):
    assert [trial.rung for trial in run.trials] == ["static", "qat"]
    assert [breach.limit for breach in run.verdict.breaches] == ["drop"]
    for trial in run.trials:
        simulated, deployed = trial.simulated.test, trial.deployed.test
        assert trial.agreement == 1.0 and trial.runtimes[0].same_integers
        assert trial.runtimes[0].quality == deployed.primary
        assert deployed.value == pytest.approx(simulated.value, abs=1e-4)
        assert deployed.change_against_float is not None and 0 < deployed.change_against_float.value < 6
    untrained = run.trials[0].deployed.test
    assert untrained.change_against_float is not None and untrained.change_against_float.value < 1


def test_what_was_learned_is_in_the_record(run: RunRecord):
    assert run.student.training is not None
    last = run.student.training.epochs[-1]
    assert set(last.losses) == {"task", "kd"} and last.losses["kd"] < 0.1
    assert last.validation is not None and last.validation.value == pytest.approx(
        run.student.column("float32").validation.value, abs=1e-5
    )
    assert run.advice is not None and not any("meaning" in warning for warning in run.advice.warnings)
    assert "correlation, " in run.advice.facts[0] and "entropy" not in " ".join(run.advice.facts)


def test_the_report_speaks_of_correlation(run: RunRecord, folder: Path):
    report = (folder / "run" / "report.html").read_text()
    for said in (
        "Correlation, teacher",
        "Rank correlation",
        "RMSE",
        "Moved from float32",
        "Fisher",
        "% correlation on the test set",
    ):
        assert said in report, said
    for strange in ("Accuracy", "accuracy", "Calibration error", "Flips"):
        assert strange not in report, strange
    shown = CliRunner().invoke(app, ["show", str(folder / "run")])
    assert shown.exit_code == 0 and "RMSE" in shown.output and "Classes" not in shown.output


def test_the_bundle_answers_in_the_unit_of_the_data(run: RunRecord, folder: Path, capsys):
    opened = Bundle(folder / "run" / "bundle")
    low, high = (opened.numbers(opened.prepare(text).inputs).item() for text in ("the film is dull",
                 "the movie is very very very lovely"))  # fmt: skip
    assert low == pytest.approx(30, abs=8) and high == pytest.approx(80, abs=8)
    assert opened.check().passed
    told = CliRunner().invoke(app, ["predict", str(opened.folder), "the film is dull"])
    assert told.output.strip() == f"the film is dull: stars {low:.4g}"
    with pytest.raises(UserError, match="this model predicts a number, not classes; ask `numbers`"):
        opened.predict("the film is dull")
    card = (opened.folder / "README.md").read_text()
    assert "Predicts a number: stars." in card and "| RMSE, 48 test texts |" in card
    assert runner.main([], opened.folder) == 0
    import numpy as np

    np.save(folder / "one.npy", opened.prepare("the film is dull").inputs[0].numpy())
    assert runner.main([str(folder / "one.npy")], opened.folder) == 0
    assert f"stars {low:.4g}" in capsys.readouterr().out


def test_a_bundle_that_moves_a_number_is_found(run: RunRecord, folder: Path):
    opened = Bundle(folder / "run" / "bundle")
    answers = opened.run
    opened.run = lambda inputs: answers(inputs) + 0.1 * (inputs[:, :1] == inputs[0, 0])
    found = opened.check()
    assert not found.passed and found.changed == found.vectors
    about = json.loads((opened.folder / "preprocessing.json").read_text())
    vectors = {name: value.numpy() for name, value in opened.vectors().items()}
    moved = vectors["outputs"] + 0.1
    assert not runner.check(lambda _inputs: moved, vectors, about).passed


def test_a_diagnosis_reads_correlations(run: RunRecord, folder: Path):
    found = diagnose(folder / "run")
    assert found.sensitivity.weights.divergence_nat > 0
    assert any("float32 loses" in finding.text for finding in found.findings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("budget.metrics.auc=1.0", "budget.metrics: auc is not measured .* are correlation, rank_correlation, rmse"),
        ("budget.metrics.rsme=1.0", 'rsme is not measured .*; did you mean "rmse"\\?'),
        ('evaluation.keyword="stars"', "evaluation.keyword is for one class a sample, but the task is regression"),
        ("views.mixup=0.5", "views.mixup and views.cutmix blend images"),
        ("student.training.label_smoothing=0.1", "student.training: label_smoothing = 0.1 moves probability"),
        ("teacher.training.label_smoothing=0.1", "teacher.training: label_smoothing = 0.1 moves probability"),
        ('distil.losses=[{name="dkd"}]', "distil.losses: dkd compares each class with the others"),
        ('distil.losses=[{name="dist"}]', "distil.losses: dist compares each class with the others"),
        ('distil.cache.storage="top_k"', 'storage = "top_k" keeps logits up to a shift, which .* do not bear'),
    ],
)
def test_what_classes_alone_have_is_refused(folder: Path, change: str, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        compress(load_recipe(folder / "stars.toml", [change]), run=tmp_path / "run")


def test_an_ablation_counts_right_answers(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="distiq ablate compares what is counted of each sample"):
        ablate(load_recipe(folder / "stars.toml"), run=tmp_path / "run")
