"""Structures of public networks in every runtime: the file answers as the simulation does, and names what is float."""

from pathlib import Path

import pytest
import torch

from distiq.numerics import sqnr_db
from distiq.runtimes.export import RUNTIMES, differences, export, load, operations, runtime_named
from tests.contracts.test_runtimes import CONVERTING, case
from tests.quantization.structures import STRUCTURES, trained

LEAST_DB = 60.0
MOVING = {"convert", "transpose", "statictranspose", "xnnconvert"}


@pytest.mark.parametrize("name", [case(one.name) for one in RUNTIMES if one.name != "inductor"])
@pytest.mark.parametrize("structure", [pytest.param(one, marks=pytest.mark.slow) for one in STRUCTURES])
def test_the_file_answers_as_the_simulation(structure: str, name: str, tmp_path: Path):
    agrees(structure, name, tmp_path)


def test_a_quick_share_of_them(tmp_path: Path):
    agrees("recursive", "onnxruntime", tmp_path)


def agrees(structure: str, name: str, folder: Path) -> None:
    runtime = runtime_named(name)
    _, quantized, _, images = trained(structure)
    path = export(quantized, folder / f"model{runtime.suffix}", images[:2])
    with torch.no_grad():
        assert sqnr_db(quantized(images), load(path)(images)) > LEAST_DB
    assert differences(quantized, path) == ""
    left = runtime.float_operations(path)
    named = {part.lower() for one in left for part in (one.partition(" (")[0], one.rpartition("(")[2].rstrip(")"))}
    counted = {kind.lower() for kind, counts in operations(path).items() if "float32" in counts}
    assert counted <= named | CONVERTING | MOVING
