"""compress(): from networks and tensors to a bundle; what it reuses, what it delivers, what it leaves alone."""

import copy
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from distiq.bundle.open import Bundle
from distiq.commands.compress import compress
from distiq.data.splits import Data, from_tensors
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds
from distiq.files import sha256_of_file
from distiq.progress import Silent
from distiq.quantization.quantize import quantize
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.records.run import RunRecord
from distiq.records.speed import SpeedRecord
from distiq.report.show import show
from distiq.run import ladder, select
from distiq.run.measure import LOGITS
from distiq.runtimes import export
from distiq.runtimes.onnx_runtime import ONNX_RUNTIME
from distiq.runtimes.openvino import OPENVINO


class StreamPrediction(Silent):
    """Remembers the stages and counts the steps."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps = 0

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        self.steps += 1


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    layers = [nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def recipe(**parts: dict) -> Recipe:
    training = {"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "precision": "float32"}
    tree = {
        "name": "tiny",
        "teacher": {"training": training},
        "student": {"training": training},
        "views": {"flip": False, "shift": 0},
        "quantize": {"rungs": ["static"]},
        "measure": {"throughput_batch": 2, "rounds": 1, "seconds": 0.002},
    }
    return parse_recipe(tree | parts)


@pytest.fixture(scope="module")
def data() -> Data:
    labels = torch.arange(200) % 2
    images = torch.rand(200, 1, 12, 12, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
    return from_tensors((images[:140], labels[:140]), (images[140:], labels[140:]), validation=30, calibration=20)


class Begun(NamedTuple):
    """A finished run of two networks that a budget holds for: most tests ask for its teacher and its student again."""

    settings: Recipe
    folder: Path
    networks: tuple[nn.Module, nn.Module]
    before: list[dict[str, torch.Tensor]]
    record: RunRecord


@pytest.fixture(scope="module")
def begun(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    folder, (teacher, student) = tmp_path_factory.mktemp("begun") / "run", (network(6), network(4))
    before = [copy.deepcopy(model.state_dict()) for model in (teacher, student)]
    settings = recipe(budget={"drop": 100.0, "size_kb": 1000.0, "latency_ms": 1000.0})
    record = compress(settings, run=folder, teacher=teacher, student=student, data=data)
    return Begun(settings, folder, (teacher, student), before, record)


@pytest.fixture
def run(begun: Begun, tmp_path: Path) -> Path:
    """A copy of that run, whose steps are reused where a test's recipe asks for the same."""
    return Path(shutil.copytree(begun.folder, tmp_path / "run"))


def files(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (run / "steps").rglob("*")}


def test_a_budget_that_holds(begun: Begun):
    record, run = begun.record, begun.folder
    assert record.verdict.met
    assert (record.verdict.chosen, record.verdict.breaches, record.verdict.next_step) == ("static", (), None)
    drop = record.verdict.drop
    assert drop.value == pytest.approx(
        record.trials[0].deployed.test.primary.drop(record.teacher.column("float32").test.primary)
    )
    assert drop.interval[0] <= drop.value <= drop.interval[1]
    assert [trial.rung for trial in record.trials] == ["static"]
    assert record.teacher.origin == "given"
    assert record.teacher.training is None
    assert [column.name for column in record.student.columns] == ["float32", "int8 simulated", "int8 deployed"]
    assert record.student.column("int8 deployed").cost.size_bytes == (run / "bundle/model.onnx").stat().st_size
    assert record.student.training.epochs[0].losses.keys() == {"task", "kd"}
    assert RunRecord.load(run / "records" / "run.json") == record
    assert (run / "report.html").is_file()

    for model, state in zip(begun.networks, begun.before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items()), "networks are copied"
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_run_that_is_repeated_makes_nothing_again(begun: Begun, data: Data, run: Path):
    record, made, heard = begun.record, files(run), StreamPrediction()
    teacher, student = begun.networks
    again = compress(begun.settings, run=run, teacher=teacher, student=student, data=data, watch=heard)
    assert files(run) == made
    assert heard.steps == 0
    assert heard.stages == ["reading data", "checking the networks", "writing bundle and report"]
    assert (again.trials, again.comparison, again.verdict) == (record.trials, record.comparison, record.verdict)


def test_a_budget_that_cannot_hold_delivers_the_best(finished):
    record = RunRecord.load(finished.folder / "records" / "run.json")
    assert not record.verdict.met
    assert record.verdict.next_step
    assert [breach.limit for breach in record.verdict.breaches] == ["drop"]
    (breach,) = record.verdict.breaches
    assert breach.excess == pytest.approx(breach.measured - breach.allowed)
    assert [trial.rung for trial in record.trials] == ["static", "qat"]
    best = max(record.trials, key=lambda trial: trial.deployed.validation.value)
    assert record.verdict.chosen == best.rung
    (chosen,) = finished.folder.glob(f"steps/trial-{best.rung}-*")
    assert (chosen / "model.onnx").read_bytes() == (finished.folder / "bundle" / "model.onnx").read_bytes()


def test_every_figure_comes_from_the_file_that_it_names(finished):
    record = RunRecord.load(finished.folder / "records" / "run.json")
    assert list(record.comparison.files) == [
        "teacher-float32", "teacher-int8", "student-float32", "student-static", "student-qat",
    ]  # fmt: skip
    for model in (record.teacher, record.student):
        for name in ("float32", "int8 deployed"):
            cost = model.column(name).cost
            assert cost.file in record.comparison.files
            assert [entry.batch for entry in cost.latency] == [1, 2]
        assert model.column("int8 simulated").cost is None
    for trial in record.trials:
        assert trial.float_operations == ()
        assert trial.agreement > 0.95


def test_a_file_that_is_too_large_gets_narrow_weights_and_trains_on_them(data: Data, run: Path, tmp_path: Path):
    torch.manual_seed(1)
    first, last = network(32)[:3], network(32)[3:5]
    student = nn.Sequential(*first, nn.Conv2d(32, 48, 3), nn.ReLU(), *last, nn.Linear(48, 2))
    inputs = data.normalize(data.calibration.inputs)
    plain = export.export(quantize(copy.deepcopy(student).eval(), inputs), tmp_path / "plain.onnx", inputs[:2])
    limit = plain.stat().st_size - 4000
    settings = recipe(
        budget={"drop": -100.0, "size_kb": limit / 1000},
        quantize={"rungs": ["static", "mixed", "qat"], "training": {"epochs": 1, "batch_size": 16}},
    )
    record = compress(settings, run=run, teacher=network(6), student=student, data=data)
    assert [trial.rung for trial in record.trials] == ["static", "mixed", "qat"]
    assert record.trials[0].deployed.cost.size_bytes > limit
    for trial in record.trials[1:]:
        assert trial.deployed.cost.size_bytes <= limit
        assert trial.float_operations == () and trial.agreement > 0.95
        assert "W4/8A8" in trial.scheme
    assert record.sensitivity.rung == "static"


@pytest.mark.slow
@pytest.mark.parametrize(("reduce_range", "bits"), [(False, 8), (True, 7)])
def test_too_many_bit_operations_narrow_the_weights(reduce_range: bool, bits: int, data: Data, run: Path):
    student = network(4)
    allowed = 0.7 * 8 * bits * multiply_adds(student, torch.zeros(2, 1, 12, 12))
    settings = recipe(
        budget={"bit_operations_m": allowed / 1e6},
        quantize={"rungs": ["static", "mixed"], "reduce_range": reduce_range},
    )
    record = compress(settings, run=run, teacher=network(6), student=student, data=data)
    assert [trial.rung for trial in record.trials] == ["static", "mixed"]
    assert record.trials[0].bit_operations == 8 * bits * record.student.macs
    assert record.verdict.met and record.verdict.chosen == "mixed"
    assert record.trials[1].bit_operations <= allowed
    assert set(record.trials[1].layer_bits.values()) <= {2, 3, 4, 6}
    assert record.trials[1].float_operations == () and record.trials[1].agreement > 0.95


def test_a_few_layers_in_float(data: Data, run: Path):
    settings = recipe(quantize={"rungs": ["float_layers"]})
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    (trial,) = record.trials
    assert "0 and 5 in float32" in trial.scheme or "5 and 0 in float32" in trial.scheme
    assert trial.float_operations == () and len(trial.intended_float_operations) == 2


@pytest.mark.slow
@pytest.mark.parametrize("neighbours", [True, False])
def test_scales_are_moved_where_there_are_neighbours(neighbours: bool, data: Data, run: Path):
    student = network(4)
    if neighbours:
        student = nn.Sequential(*student[:3], nn.Conv2d(4, 4, 3), nn.ReLU(), *student[3:])
    settings = recipe(quantize={"rungs": ["equalize"]})
    (trial,) = compress(settings, run=run, teacher=network(6), student=student, data=data).trials
    said = "equalized, biases corrected" if neighbours else "biases corrected"
    assert trial.scheme.endswith(f"mse, {said}")
    assert trial.float_operations == () and trial.agreement > 0.95


def measure(*runtimes: str) -> dict:
    return {"runtimes": list(runtimes), "throughput_batch": 2, "rounds": 1, "seconds": 0.002}


def test_a_runtime_that_is_not_installed_is_refused_before_training(data: Data, tmp_path: Path, monkeypatch):
    absent = replace(OPENVINO, packages=("no_such_runtime",))
    monkeypatch.setattr(export, "RUNTIMES", (ONNX_RUNTIME, absent))
    with pytest.raises(UserError, match=r"OpenVINO is not installed here .*: pip install openvino=="):
        compress(recipe(measure=measure("onnxruntime", "openvino")), run=tmp_path, data=data)
    assert not list(tmp_path.glob("steps/*"))


def test_a_runtime_that_needs_a_compiler_is_refused_before_training(data: Data, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="Inductor compiles with no-such-compiler, which is not installed here"):
        compress(recipe(measure=measure("inductor")), run=tmp_path, data=data)
    assert not list(tmp_path.glob("steps/*"))


@pytest.mark.slow
def test_inductor_delivers_a_bundle_that_checks_itself(data: Data, tmp_path: Path):
    settings = recipe(measure=measure("inductor"), quantize={"rungs": ["static"], "fall_back": False})
    record = compress(settings, run=tmp_path / "run", teacher=network(6), student=network(4), data=data)
    (trial,) = record.trials
    (entry,) = trial.runtimes
    assert (entry.runtime, entry.float_operations, entry.same_integers) == ("Inductor", (), True)
    assert entry.agreement >= 0.95
    bundle = tmp_path / "run" / "bundle"
    assert Bundle(bundle).check().passed
    done = subprocess.run([sys.executable, bundle / "run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pass: 32 vectors, 0 predictions changed" in done.stdout


def test_every_runtime_is_measured_and_the_first_is_delivered(data: Data, run: Path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    settings = recipe(measure=measure("openvino", "onnxruntime"))
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    (trial,) = record.trials
    assert [entry.runtime for entry in trial.runtimes] == ["OpenVINO", "ONNX Runtime"]
    own, other = [load_file(run / "steps" / record.steps[step] / LOGITS)["test"].argmax(1)
                  for step in ("trial-static", "trial-static-onnxruntime")]  # fmt: skip
    alike = sum(map(int.__eq__, own.tolist(), other.tolist())) / len(data.test)
    assert [entry.agreement_with for entry in trial.runtimes] == [{"ONNX Runtime": alike}, {"OpenVINO": alike}]
    for entry in trial.runtimes:
        assert entry.same_integers
        assert entry.float_operations == ()
        assert entry.agreement >= 0.95
        assert sum(entry.steps) == 2 * len(data.test)
        assert entry.size_bytes > 0 and entry.float_size_bytes > 0
        assert entry.gain() == entry.float_latency[0].p50_ms / entry.latency[0].p50_ms
        assert {entry.file, entry.float_file} <= record.comparison.files.keys()
    bundle = run / "bundle"
    assert {"model.xml", "model.bin"} <= {file.name for file in bundle.iterdir()}
    assert trial.deployed.cost.size_bytes == sum((bundle / f"model.{end}").stat().st_size for end in ("xml", "bin"))
    assert Bundle(bundle).check().passed
    assert runner.main([], bundle) == 0
    assert record.delivered == {name: sha256_of_file(bundle / name) for name in ("model.xml", "model.bin")}
    assert "In each runtime" in (run / "report.html").read_text()

    heard = StreamPrediction()
    compress(settings, run=run, teacher=network(6), student=network(4), data=data, watch=heard)
    assert heard.stages[-1] == "writing bundle and report" and len(heard.stages) == 3, "nothing is made again"


def slower(before: object, after: object) -> SpeedRecord:
    return SpeedRecord(ratio=0.5, interval=(0.4, 0.6), verdict="slower")


@pytest.mark.parametrize(
    ("parts", "form"),
    [
        ({}, "float32"),
        pytest.param({"budget": {"size_kb": 0.1}}, "static", marks=pytest.mark.slow),
        pytest.param({"quantize": {"fall_back": False}}, "static", marks=pytest.mark.slow),
    ],
    ids=["falls back", "float32 is too large", "not asked to"],
)
def test_int8_that_measured_slower_is_not_delivered_as_the_fast_one(
    parts: dict, form: str, data: Data, run: Path, monkeypatch
):
    monkeypatch.setattr(select, "paired_speed", slower)  # which of two files of microseconds wins is chance
    parts = {"quantize": {"rungs": ["static"], **parts.pop("quantize", {})}, **parts}
    record = compress(recipe(**parts), run=run, teacher=network(6), student=network(4), data=data)
    assert record.verdict.chosen == form
    assert "turn by turn 2.00 times its time" in record.verdict.sentence
    step = "student-float32" if form == "float32" else "trial-static"
    (made,) = run.glob(f"steps/{step}-*/model.onnx")
    assert (run / "bundle" / "model.onnx").read_bytes() == made.read_bytes()
    assert record.delivered == {"model.onnx": sha256_of_file(made)}
    assert Bundle(run / "bundle").check().passed
    html = (run / "report.html").read_text()
    assert "2.0× slower than float32" in html and f"teacher → {'int8' if form == 'static' else form}" in html
    show(run / "records", Console(file=io.StringIO()))


@pytest.mark.slow
def test_tuned_settings_go_with_the_bundle(data: Data, run: Path, monkeypatch):
    parts = measure("onnxruntime") | {"tune": True, "threads": 2, "rounds": 2}
    record = compress(recipe(measure=parts), run=run, teacher=network(6), student=network(4), data=data)
    assert record.comparison.tuning.keys() == record.comparison.files.keys()
    cost = next(trial for trial in record.trials if trial.rung == record.verdict.chosen).deployed.cost
    setting = record.comparison.tuning[cost.file].setting
    assert {entry.threads for entry in record.comparison.files[cost.file]} == {setting.threads}
    bundle = Bundle(run / "bundle")
    assert bundle.card["setting"] == {"threads": setting.threads, "options": setting.options}
    assert bundle.check().passed and runner.main([], run / "bundle") == 0
    assert "<dt>Settings</dt>" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_faster_runtime_takes_the_place_of_a_slower_one(data: Data, run: Path, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    speeds = [slower(1, 1), SpeedRecord(ratio=1e9, interval=(9e8, 2e9), verdict="faster")]
    monkeypatch.setattr(select, "paired_speed", lambda before, after: speeds.pop(0))
    monkeypatch.setattr(ladder, "_is_fast", lambda trial: trial.runtimes[0].speed.verdict == "faster")
    settings = recipe(measure=measure("onnxruntime", "openvino"))
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    (trial,) = record.trials
    assert [entry.runtime for entry in trial.runtimes] == ["OpenVINO", "ONNX Runtime"]
    assert trial.deployed.cost.file == "student-static-openvino"
    assert trial.deployed.test.primary == trial.runtimes[0].quality
    assert set(record.delivered) == {"model.xml", "model.bin"}
    assert Bundle(run / "bundle").check().passed


def test_without_a_teacher_the_student_learns_from_labels_alone(data: Data, run: Path):
    shutil.rmtree(run / "cache")
    settings = recipe(distil={"teacher": "none"})
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    assert record.student.training.epochs[0].losses.keys() == {"task"}
    assert not (run / "cache").exists()
    assert record.verdict.met, "no budget was set"


def test_layers_as_knowledge(data: Data, run: Path):
    losses = [
        {"name": "hint_mse", "student": "2", "teacher": "2"},
        {"name": "attention_transfer", "student": "0", "teacher": "0"},
    ]
    settings = recipe(distil={"teacher": "cached", "losses": losses, "cache": {"features": True}})
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    assert record.student.training.epochs[0].losses.keys() == {"task", "kd", "hint_mse", "attention_transfer"}
    assert record.student.parameters == sum(parameter.numel() for parameter in network(4).parameters())


def test_another_setting_makes_only_what_depends_on_it(finished, run_copy: Path, data: Data):
    from distiq.recipe.read import load_recipe

    made = files(run_copy)
    changed = load_recipe(finished.recipe, ["quantize.training.epochs=1"])
    compress(changed, run=run_copy)
    now = files(run_copy)
    assert {path: now[path] for path in made} == made, "what was there stays"
    new = {path.name.rpartition("-")[0] for path in now.keys() - made.keys() if path.is_dir()}
    assert new == {"trial-qat", "comparison"}


def test_a_run_that_is_repeated_gives_the_same_record(data: Data, run: Path):
    settings = recipe(student={"training": {"epochs": 1, "batch_size": 16, "precision": "auto"}})
    first, second = (compress(settings, run=run, teacher=network(6), student=network(4), data=data) for _ in range(2))
    assert second == first.model_copy(update={"created": second.created})
    assert {"teacher", "student", "precision-student", "trial-static", "comparison"} <= first.steps.keys()
    assert all((run / "steps" / name).is_dir() for name in first.steps.values())
    assert first.student.training.precision in ("float32", "bfloat16")


def test_an_assistant_stands_between(data: Data, run: Path):
    options = {"widths": [5, 9], "blocks": 1}
    between = {"model": "resnet", "options": options, "training": {"epochs": 1, "batch_size": 16}}
    settings = recipe(assistants=[between])
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    (step,) = (path for path in (run / "steps").iterdir() if path.name.startswith("assistants.0-"))
    caches = {path.name.split("-")[1] for path in (run / "cache").iterdir()}
    assert step.name.rpartition("-")[2] in caches, "the student learned from the assistant"
    assert len(caches) == 2, "and the assistant from the teacher"
    assert record.student.training.epochs[0].losses.keys() == {"task", "kd"}


@pytest.mark.parametrize("rung", ["rounding", pytest.param("reconstruct", marks=pytest.mark.slow)])
def test_rounding_is_a_rung_and_a_start_for_training(rung: str, data: Data, run: Path):
    training = {"epochs": 1, "batch_size": 16}
    settings = recipe(quantize={"rungs": [rung, "qat"], "training": training}, budget={"drop": -100.0})
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    rounded, trained = record.trials
    learned = ", BRECQ with QDrop in 300 steps" if rung == "reconstruct" else ""
    assert rounded.scheme == f"static W8A8, mse, closed-form rounding{learned}"
    assert trained.scheme == f"{rounded.scheme}, trained quantized"
    assert min(trial.agreement for trial in record.trials) > 0.95
    assert list(record.estimates) == [rung, "qat"]
    told = [bool(re.search(r": about \d+ s", record.estimates[trial.rung])) for trial in record.trials]
    assert told == [rung == "reconstruct", True]


@pytest.mark.slow
def test_a_reduced_range_is_certified_on_every_rung_and_recorded(data: Data, run: Path):
    quantize = {"rungs": ["rounding", "qat"], "reduce_range": True, "training": {"epochs": 1}}
    settings = recipe(quantize=quantize, budget={"drop": -100.0})
    record = compress(settings, run=run, teacher=network(6), student=network(4), data=data)
    assert [trial.rung for trial in record.trials] == ["rounding", "qat"]
    for trial in record.trials:
        assert trial.reduced_layers == ("0", "5")
        assert ", reduced range" in trial.scheme and trial.agreement > 0.95
        (folder,) = run.glob(f"steps/trial-{trial.rung}-*")
        assert export.pair_sums(folder / "model.onnx").startswith("certified")
    assert "Sums of two 8-bit products are certified" in (run / "bundle" / "README.md").read_text()
