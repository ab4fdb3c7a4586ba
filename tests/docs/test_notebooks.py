"""The notebooks run, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.code_blocks import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_notebooks_are_kept_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["detector", "keyword_board", "own_onnx", "own_photos"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    plugins = ["-p", "no:anyio", "-p", "no:cacheprovider", "--nbmake", "--nbmake-timeout=3600", "--overwrite"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", str(tmp_path), str(copy)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    outputs = [cell.get("outputs", []) for cell in json.loads(copy.read_text(encoding="utf-8"))["cells"]]
    assert all(len(one) <= 1 for one in outputs), "noise of libraries, or a run that is shown in pieces"
    shown = json.dumps(outputs)
    assert path.stem == "own_onnx" or ("Float32, int8 simulated, int8 deployed" in shown and "<svg" in shown)
