"""What fetches and drives a browser, where npm or the browser fails; whole runs: tests/whole/test_web.py."""

from pathlib import Path

import pytest

from distiq.errors import UserError
from distiq.runtimes import web
from distiq.runtimes.web import RUNTIME, Browser, fetch


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that stand in front of all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def write(program: Path, lines: str) -> None:
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)


def test_what_npm_cannot_fetch_is_told(programs: Path, tmp_path: Path):
    write(programs / "npm", "echo 'npm error code ENOTFOUND' >&2; echo 'npm error a log is written' >&2; exit 1")
    with pytest.raises(UserError, match=r"npm cannot fetch onnxruntime-web@1\.30\.0: npm error code ENOTFOUND; go onl"):
        fetch(RUNTIME, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_of_another_checksum_is_refused(tmp_path: Path):
    folder = tmp_path / "onnxruntime-web-1-30-0"
    folder.mkdir()
    for name in RUNTIME.files:
        (folder / name).write_bytes(b"another")
    with pytest.raises(UserError, match=r"ort\.wasm\.min\.mjs: not the file of onnxruntime-web@1\.30\.0"):
        fetch(RUNTIME, tmp_path)


def test_a_browser_that_ends_is_told(programs: Path, monkeypatch: pytest.MonkeyPatch):
    write(programs / "short", "echo Short 1.0; exit 1")
    monkeypatch.setattr(web, "CHROMIUM", ("short",))
    with Browser({}, []) as browser, pytest.raises(UserError, match="Chromium ended by itself"):
        browser.run("model", {})
    assert browser.version == "Short 1.0"
