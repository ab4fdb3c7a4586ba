"""diagnose(): what it says of a finished run, what it leaves alone, what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.diagnose import OUTLIER, _stretched, cure_by, diagnose, read_case
from distiq.errors import UserError
from distiq.quantization.scheme import Scheme
from distiq.records.diagnosis import DiagnosisRecord
from distiq.records.run import RunRecord
from distiq.report.reading import chosen_trial
from distiq.run.ledger import Ledger
from distiq.run.rungs import rung_named


def test_a_finished_run_is_examined_and_nothing_is_trained(run_copy: Path):
    before = {path.name: path.stat().st_mtime_ns for path in (run_copy / "steps").iterdir()}
    found = diagnose(run_copy)
    assert {path.name: path.stat().st_mtime_ns for path in (run_copy / "steps").iterdir()} == before
    assert DiagnosisRecord.load(run_copy / "records" / "diagnosis.json") == found

    run = RunRecord.load(run_copy / "records" / "run.json")
    checks = {finding.check: finding for finding in found.findings}
    assert list(checks)[:4] == ["float32 student", "float32 file", "preprocessing", "runtime"]
    assert not any(checks[name].suspect for name in ("float32 file", "preprocessing", "runtime"))
    trial, teacher, student = chosen_trial(run), run.teacher.column("float32").test, run.student.column("float32").test
    assert f"float32 loses {100 * (teacher.value - student.value):.2f} points" in checks["float32 student"].text
    if teacher.value - trial.deployed.test.value <= 0.001:
        assert found.cause.startswith("Nothing to explain") and found.cure == ()
    assert found.rung == trial.rung and f'the int8 file of the rung "{trial.rung}"' in found.looked_at
    assert ("weights rounded to the nearest" in found.looked_at) == (trial.rung == "qat")
    assert checks["ranges"].text.count(" dB") == 3
    places = [noise.place for noise in found.sensitivity.tensors if noise.part == "weights"]
    assert places == sorted(set(places), key=places.index) and len(places) == len(run_layers())
    assert run.sensitivity is not None and run.sensitivity.weights == found.sensitivity.weights


def run_layers() -> list[str]:
    from distiq.models.resnet import ResNet

    model = ResNet(2, 1, (4, 8), 1)
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def test_the_command_prints_the_cause_and_renews_the_report(run_copy: Path):
    result = CliRunner().invoke(app, ["diagnose", str(run_copy), "--plain"])
    assert result.exit_code == 0, result.output
    assert "Why did accuracy drop?" in result.output and "weights or activations: weights alone" in result.output
    assert "Where the noise comes from" in (run_copy / "report.html").read_text()


def test_a_stretched_range_is_found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    samples = torch.randn(64, 1, 12, 12)
    calm = _stretched(model, samples, Scheme())
    samples[0, 0, 5, 5] = 1000.0
    stretched = _stretched(model, samples, Scheme())
    assert max(calm.values()) < OUTLIER < stretched["input"]


def test_a_cure_names_rungs_that_were_not_tried(run_copy: Path):
    with Ledger(run_copy) as ledger:
        case = read_case(ledger)
    assert [trial.rung for trial in case.run.trials] == ["static", "qat"]
    assert cure_by(case, rung_named("rounding"), rung_named("static"), rung_named("qat")) == (
        'quantize.rungs=["rounding"]',
    )
    assert cure_by(case, rung_named("static")) == ("quantize.training.epochs=4",)
    untrained = case.run.model_copy(update={"trials": case.run.trials[:1]})
    assert cure_by(replace(case, run=untrained), rung_named("static")) == ('quantize.rungs=["qat"]',)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no finished run"):
        diagnose(tmp_path)


CODE = """
from torch import nn
print("CODE RUNS")
def network(classes):
    return nn.Linear(1, classes)
"""


def test_code_of_a_run_s_recipe_waits_for_trust(run_copy: Path, tmp_path: Path):
    (tmp_path / "code.py").write_text(CODE)
    path = run_copy / "records" / "run.json"
    run = RunRecord.load(path)
    recipe = run.recipe_toml.replace('model = "resnet"', f'model = "{tmp_path / "code.py"}:network"', 1)
    RunRecord.model_validate({**run.model_dump(), "recipe_toml": recipe}).save(path)
    result = CliRunner().invoke(app, ["diagnose", str(run_copy), "--plain"])
    assert result.exit_code == 2
    assert "its recipe runs code: " in result.stderr and "code.py:network; look whether you trust it" in result.stderr
    assert "CODE RUNS" not in result.output
    trusted = CliRunner().invoke(app, ["diagnose", str(run_copy), "--plain", "--trust"])
    assert trusted.exit_code == 0, trusted.output
