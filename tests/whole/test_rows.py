"""From rows in files and a callable teacher to a bundle that answers rows."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.recipe.read import load_recipe
from distiq.records.quality import Quality
from distiq.records.run import RunRecord

OnDevice = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = """
name = "rows"
[data]
source = "table"
folder = "."
validation = 40
calibration = 20
[data.table]
label = "bought"
numeric = ["size"]
categorical = ["kind"]
bins = 4
[teacher]
predict = "rule.py:make"
[student]
model = "mlp"
options = {hidden = [8]}
[student.training]
epochs = 4
batch_size = 16
learning_rate = 0.05
precision = "float32"
[quantize]
rungs = ["static"]
[budget]
metrics = {auc = 40.0}
size_kb = 20
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
"""
RULE = """
import numpy as np

def make(data):
    def predict(rows):  # the larger, the likelier
        share = 0.05 + 0.9 * rows[:, :4].mean(1)
        return np.stack([1 - share, share], 1)
    return predict
"""


def bought(number: int) -> str:
    return "yes" if number % 40 >= 20 else "no"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for part, count in (("train", 240), ("test", 80)):
        rows = [f"{number % 40},{'ab'[number % 2]},{bought(number)}" for number in range(count)]
        (folder / f"{part}.csv").write_text("\n".join(["size,kind,bought", *rows, ""]))
    (folder / "rule.py").write_text(RULE)
    (folder / "rows.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    return compress(load_recipe(folder / "rows.toml"), run=folder / "run")


def auc(quality: Quality) -> float:
    metric = quality.metric("auc")
    assert metric is not None
    return metric.value


def test_the_student_learns_what_the_callable_knows(run: RunRecord):
    teacher, student = run.teacher.column("float32").test, run.student.column("int8 deployed").test
    assert auc(teacher) == 1.0  # the rule is monotone in what decides the label
    assert auc(student) > 0.9
    assert run.trials[-1].agreement == 1.0
    assert run.verdict.met


def test_what_a_callable_lacks_is_left_out(run: RunRecord, folder: Path):
    assert (run.teacher.parameters, run.teacher.macs, run.teacher.column("float32").cost) == (None, None, None)
    assert [column.name for column in run.teacher.columns] == ["float32"]
    assert "teacher-float32" not in run.comparison.files
    page = (folder / "run" / "report.html").read_text()
    assert "the teacher&#39;s file was not measured" in page
    assert "AUC drop against the teacher at most 40 points" in page


def test_an_auc_limit_that_breaks_says_so(folder: Path, run: RunRecord):
    missed = compress(load_recipe(folder / "rows.toml", ["budget.metrics.auc=-5"]), run=folder / "run")
    assert [breach.limit for breach in missed.verdict.breaches] == ["metrics.auc"]
    drop = 100 * (auc(missed.teacher.column("float32").test) - auc(missed.student.column("int8 deployed").test))
    assert missed.verdict.breaches[0].measured == pytest.approx(drop)
    assert "AUC drop by" in missed.verdict.sentence


def test_the_runner_checks_and_answers_prepared_rows(
    run: RunRecord, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bundle = Bundle(folder / "run" / "bundle")
    inputs = bundle.vectors()["inputs"][:2]
    np.save(tmp_path / "rows.npy", inputs.numpy())
    assert runner.main([], bundle.folder) == 0
    assert capsys.readouterr().out.startswith("pass: 32 vectors, 0 predictions changed")
    assert runner.main([str(tmp_path / "rows.npy"), "--top", "1"], bundle.folder) == 0
    named = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert named == [answers[0].label for answers in bundle.classify(inputs, 1)]


def test_the_runner_reads_rows_where_distiq_is_not(run: RunRecord, folder: Path, tmp_path: Path, on_device: OnDevice):
    (tmp_path / "rows.csv").write_text("kind,size\na,39\nc,0\nb,\n")
    bundle = folder / "run" / "bundle"
    done = on_device(bundle, tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    answered = CliRunner().invoke(app, ["predict", str(bundle), str(tmp_path / "rows.csv")])
    there, here = ([line.rpartition(": ")[2] for line in out.splitlines()] for out in (done.stdout, answered.stdout))
    assert len(there) == 3 and there == here
    assert done.stderr == answered.stderr and '1 missing in "size"' in done.stderr
    assert on_device(bundle).returncode == 0
    refused = on_device(bundle, tmp_path / "none.csv")
    assert refused.returncode == 2 and "none.csv: cannot be read" in refused.stderr


def test_the_bundle_answers_rows_and_says_what_it_does_not_know(run: RunRecord, folder: Path, tmp_path: Path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"size": 39, "kind": "a"}, {"size": 0, "kind": "c"}, {"size": None, "kind": "b"}]))
    prepared = Bundle(folder / "run" / "bundle").prepare(rows)
    assert [note.partition(": ")[2] for note in prepared.notes] == [
        '1 missing in "size"; taken as its median, 19.5',
        '1 in "kind" not seen in training ("c"); taken as none of its categories',
    ]
    answered = CliRunner().invoke(app, ["predict", str(folder / "run" / "bundle"), str(rows)])
    assert answered.exit_code == 0, answered.output
    first, second = [line for line in answered.output.splitlines() if ", row " in line][:2]
    assert f"{rows}, row 1: yes" in first
    assert f"{rows}, row 2: no" in second


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"size": 1}]', r'no column "kind"'),
        ("[]", "holds no row"),
        ('{"size": "big", "kind": "a"}', "is no number"),
    ],
)
def test_the_bundle_refuses_other_rows(run: RunRecord, folder: Path, tmp_path: Path, content: str, message: str):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        Bundle(folder / "run" / "bundle").predict(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.weights=x.safetensors", "leave one of the two out"),
        ("teacher.finetune=true", "finetune = true trains on from weights; name them"),
        ("teacher.predict=rule.py", 'names no function; write "file.py:function"'),
        ("teacher.predict=none.py:make", "teacher.predict: no such file"),
        ('distil.losses=[{name = "rkd", student = "a", teacher = "a"}]', "reads the teacher's layers"),
        ("data.folder=", "needs the folder of data.table"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(folder: Path, override: str, message: str):
    overrides = [override, "distil.teacher=live"]
    with pytest.raises(UserError, match=message):
        load_recipe(folder / "rows.toml", overrides)
