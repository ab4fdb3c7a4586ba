"""Fifty runs' worth of SIGKILL at random moments: the run that is left ends as one that nobody disturbed."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from distiq.files import sha256_of_file
from tests.whole.test_kill import lasting_files, losses

pytestmark = pytest.mark.slow

KILLS, SEED = 50, 20


def record_without_times(run: Path) -> dict:
    """The run's record, but for what a clock decides."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(entry) for key, entry in value.items() if key not in TIMES}
        return [timeless(entry) for entry in value] if isinstance(value, list) else value

    return timeless(json.loads((run / "records" / "run.json").read_bytes()))


TIMES = {
    "seconds", "images_per_s", "created", "latency", "float_latency", "speed", "comparison", "estimates", "command",
    "peak_memory_bytes", "steps", "verdict", "sentence", "recipe_toml", "breaches", "test_breaches",
}  # fmt: skip


def test_fifty_kills_at_random_moments_lose_nothing(finished, started, tmp_path: Path):
    run, draw = tmp_path / "run", random.Random(SEED)
    killed = complete = 0
    while killed < KILLS:
        process = started(finished.recipe, run)
        end = time.monotonic() + draw.uniform(0.0, 0.4) * finished.seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
        else:
            _, stderr = process.communicate()
            assert process.returncode == finished.returncode, stderr
            complete += 1
            check(run, finished.folder)
            undo(run, draw)
    process = started(finished.recipe, run)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == finished.returncode, stderr
    check(run, finished.folder)


def check(run: Path, other: Path) -> None:
    """The same weights, files, losses and record; nothing half-written is left."""
    assert lasting_files(run) == lasting_files(other)
    assert losses(run) == losses(other)
    assert record_without_times(run) == record_without_times(other)
    assert (run / "bundle" / "model.onnx").read_bytes() == (other / "bundle" / "model.onnx").read_bytes()
    card = json.loads((run / "bundle" / "card.json").read_bytes())
    assert {name: sha256_of_file(run / "bundle" / name) for name in card["sha256"]} == card["sha256"]
    assert [path for path in run.rglob("*.partial")] == []


def undo(run: Path, draw: random.Random) -> None:
    """Takes some steps away, so that a finished run has something to do again."""
    for step in run.glob("steps/*-*"):
        if draw.random() < 0.6:
            subprocess.run(["rm", "-r", str(step)], check=True)
