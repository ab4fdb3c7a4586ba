import importlib.metadata
import platform

import pytest

from distiq import environment
from distiq.device import run as runner
from distiq.records.record import Environment


def test_describe_names_this_machine():
    found = environment.describe()
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert found.cpu
    assert found.system.startswith(platform.system())
    assert set(found.instruction_sets) <= set(runner.INSTRUCTION_SETS)
    assert found.versions["python"] == platform.python_version()
    assert found.versions["torch"] == importlib.metadata.version("torch")


def test_describe_survives_json(tmp_path):
    environment.describe().save(tmp_path / "environment.json")
    assert Environment.load(tmp_path / "environment.json") == environment.describe()


def test_without_cpuinfo_the_platform_answers(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(runner.Path, "read_text", missing)
    found = runner.machine()
    assert found["cpu"] == (platform.processor() or platform.machine())
    assert found["instruction_sets"] == []


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_keep_freed_memory_does_not_fail(monkeypatch, system):
    monkeypatch.setattr(environment.sys, "platform", system)
    assert environment.keep_freed_memory() is None
