"""How many processes a run has: as many as a launcher says, and what is left over of one makes nobody wait."""

import contextlib
import os
import subprocess
import sys

import pytest
from torch import nn

from distiq.training import processes
from distiq.training.distributed import shared_statistics

LAUNCHED = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def environment(monkeypatch):
    def put(**values: str) -> None:
        for name in (*LAUNCHED, *processes.SIZES):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_a_launcher_says_all(environment):
    environment(**LAUNCHED)
    assert processes.count() == 2 and not processes.is_main()


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_launch_said_in_part_is_none(environment, missing):
    environment(**{name: value for name, value in LAUNCHED.items() if name != missing})
    assert processes.count() == 1 and processes.is_main()


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "many"}, {}])
def test_a_size_alone_is_left_over(environment, left):
    environment(**left)
    assert processes.count() == 1
    processes.start()
    assert "WORLD_SIZE" not in os.environ
    assert processes.on_main(lambda: 3) == 3
    processes.wait()


def test_accelerate_does_not_wait_either():
    code = (
        "from distiq.training import processes; processes.start(); from accelerate import Accelerator;"
        " print(Accelerator().num_processes)"
    )
    left = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"}
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED} | left
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "1", done.stderr


def test_batch_norms_are_themselves_again_behind_a_training_that_breaks_off(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with contextlib.suppress(KeyboardInterrupt), shared_statistics(model):
        assert type(model[1]) is not nn.BatchNorm2d
        raise KeyboardInterrupt
    assert type(model[1]) is nn.BatchNorm2d
