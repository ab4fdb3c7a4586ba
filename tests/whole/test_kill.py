"""A run that is killed at any moment continues, and ends with the same weights and files, bit for bit."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distiq.files import sha256_of_file


def steps_done(run: Path, stage: str) -> int:
    """How far the checkpoint of a training under way has come, in steps of its current epoch; -1 without one.

    Opened once and read from its header alone: the file may be replaced between two looks.
    """
    for path in run.glob(f"steps/{stage}-*.partial/checkpoint.safetensors"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return json.loads(header["__metadata__"]["meta"])["step"]
    return -1


def in_an_epoch_of(stage: str) -> Callable[[Path], bool]:
    return lambda run: steps_done(run, stage) >= 3


def while_measuring(step: str) -> Callable[[Path], bool]:
    return lambda run: any(run.glob(f"steps/{step}-*.partial/model.onnx"))


def kill_when(reached: Callable[[Path], bool], run: Path, process: subprocess.Popen[str]) -> None:
    """SIGKILL at the moment that is named by what lies on the disk."""
    end = time.monotonic() + 400
    while not reached(run):
        assert process.poll() is None, f"the run ended before it was killed: {process.communicate()}"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def lasting_files(run: Path) -> dict[str, str]:
    """SHA-256 of everything in the steps that does not hold a time: weights, exported files, answers."""
    files = [file for pattern in ("*.safetensors", "*.onnx") for file in run.glob(f"steps/*/{pattern}")]
    return {str(file.relative_to(run)): sha256_of_file(file) for file in files}


def losses(run: Path) -> dict[str, list]:
    """What the epochs of every training recorded."""
    found = {}
    for path in run.glob("steps/*/record.json"):
        training = json.loads(path.read_text()).get("training")
        if training:
            epochs = [(epoch["losses"], epoch["validation"]) for epoch in training["epochs"]]
            found[path.parent.name] = [epochs, training["kept"], training["steps"]]
    return found


MOMENTS = {
    "teacher, in an epoch": in_an_epoch_of("teacher"),
    "measuring the teacher": while_measuring("teacher-float32"),
    "student, first step": lambda run: steps_done(run, "student") >= 1,
    "student, later": lambda run: steps_done(run, "student") >= 10,
    "measuring the student": while_measuring("student-float32"),
    "measuring a trial": while_measuring("trial-static"),
    "quantization-aware training": in_an_epoch_of("trial-qat"),
    "measuring the trained trial": while_measuring("trial-qat"),
    "before the end": lambda run: any(run.glob("steps/trial-qat-*/record.json")),
}


def ends_as_uninterrupted(run: Path, finished, process: subprocess.Popen[str]) -> None:
    """The last process comes to its end, and all that lasts is that of the run which was never killed."""
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == finished.returncode == 3, stderr
    assert list(run.glob("steps/*.partial")) == []
    expected = lasting_files(finished.folder)
    assert {"teacher", "student", "trial"} <= {name.split("/")[1].split("-")[0] for name in expected}
    assert lasting_files(run) == expected
    assert losses(run) == losses(finished.folder)
    assert (run / "bundle" / "model.onnx").read_bytes() == (finished.folder / "bundle" / "model.onnx").read_bytes()


def test_a_killed_run_loses_no_finished_step_and_ends_as_the_uninterrupted_one(finished, started, tmp_path: Path):
    """In the last training, with which the network of the step before, its file and its teacher must be found again."""
    later = shutil.ignore_patterns("trial-qat-*", "comparison-*", "records", "bundle", "report.html")
    run = Path(shutil.copytree(finished.folder, tmp_path / "run", ignore=later))
    before = {path: path.stat().st_mtime_ns for path in run.glob("steps/*/*")}
    kill_when(in_an_epoch_of("trial-qat"), run, started(finished.recipe, run))
    assert not (run / "records" / "run.json").exists()
    ends_as_uninterrupted(run, finished, started(finished.recipe, run))
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_run_that_is_killed_at_many_moments_ends_as_the_uninterrupted_one(finished, started, tmp_path: Path):
    for moment in MOMENTS.values():
        kill_when(moment, tmp_path / "run", started(finished.recipe, tmp_path / "run"))
        assert not (tmp_path / "run" / "records" / "run.json").exists()
    ends_as_uninterrupted(tmp_path / "run", finished, started(finished.recipe, tmp_path / "run"))
