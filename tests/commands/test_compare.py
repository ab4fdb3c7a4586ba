"""compare(): runs are paired on the same test samples, and only there."""

import io
import json
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.compare import differing
from distiq.recipe.recipe import Recipe
from distiq.records.comparison import ComparedRun, RunsRecord
from distiq.records.quality import Metric
from distiq.report.runs import plotted, run_rows
from distiq.report.show import show_runs

from ..report.conftest import run_record

RECIPE = """
name = "{name}"
seed = 3

[data]
train = 400
validation = 100
calibration = 100

[student]
model = "plain"
options = {{layers = [[{width}, 2]]}}
"""


def write(folder: Path, name: str, width: int, digest: str, right: int) -> Path:
    """A run whose delivered file predicts the first `right` test samples rightly, and none of the others."""
    from distiq.data.images import packaged_fashion_mnist

    labels = packaged_fashion_mnist()[1].labels
    run = run_record(rungs=("static",))
    steps = {"trial-static": f"trial-static-{'0' * 16}"}
    data = run.data.model_copy(update={"digest": digest})
    update = {"name": name, "recipe_toml": RECIPE.format(name=name, width=width), "steps": steps, "data": data}
    run.model_copy(update=update).save(folder / name / "records" / "run.json")
    logits = torch.nn.functional.one_hot(labels, 10).float()
    logits[right:] = -logits[right:]
    (folder / name / "steps" / steps["trial-static"]).mkdir(parents=True)
    save_file({"test": logits}, folder / name / "steps" / steps["trial-static"] / "logits.safetensors")
    return folder / name


def test_runs_of_one_test_set_are_paired(tmp_path: Path):
    first, second = write(tmp_path, "one", 8, "aa", 6000), write(tmp_path, "two", 16, "aa", 6100)
    other = write(tmp_path, "three", 16, "bb", 5000)
    out = tmp_path / "compared.html"
    result = CliRunner().invoke(app, ["compare", str(first), str(second), str(other), "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "+1.00 points" in page  # 100 of 10,000 samples more
    assert "other data" in page
    assert "student.options" in result.output
    assert "[[16, 2]]" in result.output


def test_one_run_is_no_comparison(tmp_path: Path):
    result = CliRunner().invoke(app, ["compare", str(write(tmp_path, "one", 8, "aa", 6000))])
    assert result.exit_code == 2
    assert "name two or more" in result.output


def test_keys_that_differ_are_named_with_their_values():
    one = 'name = "a"\nseed = 1\n[student]\noptions = {w = 1}\n'
    other = 'name = "b"\nseed = 1\n[budget]\ndrop = 7.5\n[track]\ntensorboard = true\n'
    default = json.dumps(Recipe().budget.drop)
    assert differing([one, other]) == {"student.options": ('{"w": 1}', "{}"), "budget.drop": (default, "7.5")}


def test_what_this_version_does_not_know_is_compared_as_it_stands():
    assert differing(["unheard_of = 1", "unheard_of = 2"]) == {"unheard_of": ("1", "2")}


def compared(title: str, latency_ms: float | None, machine: str = "here") -> ComparedRun:
    metric = Metric(name=title, title=title, value=0.9)
    return ComparedRun(
        folder=f"runs/{title}", name=title, created="", machine=machine, model="plain", delivered="static",
        runtime="ONNX Runtime", teacher=metric, test=metric, samples=100, size_bytes=1000, latency_ms=latency_ms,
        met=True, digest="aa",
    )  # fmt: skip


def test_an_axis_has_one_metric():
    record = RunsRecord(
        runs=(compared("accuracy", 1.0), compared("mAP", 2.0), compared("accuracy", None)), differing={}
    )
    assert [number for number, _ in plotted(record)] == [1]
    assert [row.cells[1].note for row in run_rows(record)] == ["accuracy", "mAP", "accuracy"]


def test_machines_are_named_where_they_differ():
    console = Console(width=120, file=io.StringIO(), highlight=False)
    show_runs(RunsRecord(runs=(compared("a", 1.0), compared("b", 1.0, "a board")), differing={}), console)
    lines = console.file.getvalue().splitlines()
    assert sum("here" in line for line in lines) == sum("a board" in line for line in lines) == 1
