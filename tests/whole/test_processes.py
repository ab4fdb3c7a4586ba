"""A run of several processes: the steps and figures of one process, one voice, and no end that hangs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from distiq.run.ledger import Ledger
from tests.whole.test_kill import steps_done

pytestmark = pytest.mark.slow


def launch(recipe: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    """`distiq run` in two processes, as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}", "-m", "distiq", "run",
        str(recipe), "--run", str(run), "--plain", *more,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def steps(run: Path) -> set[str]:
    """All but the comparison, whose key holds the hashes of the files, down to the rounding of their weights."""
    return {folder.name for folder in run.glob("steps/*-*") if not folder.name.startswith("comparison")}


def check_alike(run: Path, other: Path) -> None:
    """The same steps, and their tensors and losses but for rounding, which quantization may carry over a step."""
    assert steps(run) == steps(other)
    for name in sorted(steps(other)):
        allowed = 0.05 if name.startswith("trial-qat") else 1e-4
        for path in (other / "steps" / name).glob("*.safetensors"):
            ours, theirs = (load_file(folder / "steps" / name / path.name) for folder in (run, other))
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                span = float(value.double().abs().max()) or 1.0
                torch.testing.assert_close(ours[key], value, rtol=0, atol=allowed * span, msg=f"{name} {key}")
        records = [json.loads((folder / "steps" / name / "record.json").read_text()) for folder in (run, other)]
        epochs = [(record.get("training") or {"epochs": []})["epochs"] for record in records]
        for ours, theirs in zip(*epochs, strict=True):
            assert ours["losses"] == pytest.approx(theirs["losses"], rel=allowed)
            assert ours["validation"] == theirs["validation"]


def test_two_processes_make_the_run_of_one(finished, tmp_path: Path):
    process = launch(finished.recipe, tmp_path / "run")
    stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 1  # the launcher's word for any failure, a missed budget among them
    assert "exitcode  : 3" in stderr
    assert stdout.count("training the student") == stdout.count("The budget is missed") == 1
    check_alike(tmp_path / "run", finished.folder)
    runs = [json.loads((run / "records" / "run.json").read_text()) for run in (tmp_path / "run", finished.folder)]
    assert runs[0]["steps"].keys() == runs[1]["steps"].keys()
    assert [run["verdict"]["chosen"] for run in runs] == ["static", "static"]
    assert (tmp_path / "run" / "bundle" / "model.onnx").is_file()


def test_a_process_that_is_killed_ends_all_and_one_alone_goes_on(finished, started, tmp_path: Path):
    run = tmp_path / "run"
    process = launch(finished.recipe, run)
    end = time.monotonic() + 600
    while steps_done(run, "student") < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    (other,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    other.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert not (run / "records" / "run.json").exists()
    alone = started(finished.recipe, run)
    _, stderr = alone.communicate(timeout=600)
    assert alone.returncode == 3, stderr
    check_alike(run, finished.folder)


FAILING = """
import os
from torch import nn

def network(classes):
    if os.environ["RANK"] == "{rank}":
        raise ArithmeticError(" ".join(["here", "it", "ends"]))
    return nn.Sequential(nn.Flatten(), nn.Linear(144, classes))
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_crashes_ends_the_other_without_a_word(recipe_file, tmp_path: Path, rank: int):
    (tmp_path / "failing.py").write_text(FAILING.format(rank=rank))
    model = f"teacher.model={tmp_path / 'failing.py'}:network"
    process = launch(recipe_file(), tmp_path / "run", "--set", model, "--set", "teacher.options={}")
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 1
    assert stderr.count("ArithmeticError: here it ends") == 1
    assert stderr.count("Traceback") == 2, stderr  # the launcher has one of its own


def test_a_refusal_is_said_once(recipe_file, tmp_path: Path):
    with Ledger(tmp_path / "run"):
        process = launch(recipe_file(), tmp_path / "run")
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == 1
    assert stderr.count("another distiq run is writing here") == 1
    assert stderr.count("Traceback") == 1, stderr
