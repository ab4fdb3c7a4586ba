"""compare(): runs are paired on the same test samples, and only there."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.compare import differing

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
    one, other = 'name = "a"\nseed = 1\n[student]\noptions = {w = 1}\n', 'name = "b"\nseed = 1\n[budget]\ndrop = 1.0\n'
    assert differing([one, other]) == {"student.options": ('{"w": 1}', ""), "budget.drop": ("", "1.0")}
