"""Structures of public networks in every runtime: the file answers as the simulation does, and names what is float."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.numerics import sqnr_db
from distiq.runtimes.export import RUNTIMES, differences, export, load, operations, runtime_named
from tests.contracts.test_runtimes import CONVERTING, case
from tests.quantization.structures import STRUCTURES, trained

LEAST_DB, LEAST_OF_ALL_DB = 60.0, 50.0
LEAST_TFLM_DB = 40.0
"""TFLM's kernels round twice, by integers, so some values in a hundred take a neighbouring one, in every sample;
tests/runtimes/test_tflm.py holds them to LiteRT's reference kernels, to the bit."""
REFUSED = {"c99": ("aten.conv_transpose2d", "aten.layer_norm"), "tflm": ("'GELU'",)}
"""What these runtimes have no kernel for; every other runtime writes every structure."""
AMPLIFIED = {("normed features", "openvino")}
"""A layer norm of means divides by small deviations: single steps before it become large, in every sample."""
MOVING = {
    "broadcast_to", "convert", "flatten", "squeeze", "staticreshape", "statictranspose", "transpose",
    "unsqueeze", "xnnconvert",
}  # fmt: skip
"""Beside conversions what only moves or repeats values: none of it computes."""


@pytest.mark.parametrize("name", [case(one.name) for one in RUNTIMES if one.name != "inductor"])
@pytest.mark.parametrize("structure", [pytest.param(one, marks=pytest.mark.slow) for one in STRUCTURES])
def test_the_file_answers_as_the_simulation(structure: str, name: str, tmp_path: Path):
    agrees(structure, name, tmp_path)


def test_a_quick_share_of_them(tmp_path: Path):
    agrees("recursive", "onnxruntime", tmp_path)


def differs(simulated: Tensor, deployed: Tensor, in_every_sample: bool = False) -> str:
    """How far outputs (N, ...) are from the simulation's; empty where they agree.

    The simulation adds in float32, integer kernels exactly: one value in 20,000 lies so near between two integers that
    they take another. Such steps are in some samples; an operation that computes something else is seen in all.
    """
    found = sqnr_db(simulated, deployed)
    median = float(torch.tensor([sqnr_db(*pair) for pair in zip(simulated, deployed, strict=True)]).median())
    if found > LEAST_DB or (found > LEAST_OF_ALL_DB and (median > LEAST_DB or in_every_sample)):
        return ""
    return f"{found:.1f} dB, {median:.1f} dB in the median sample"


def agrees(structure: str, name: str, folder: Path) -> None:
    runtime = runtime_named(name)
    _, quantized, _, images = trained(structure)
    try:
        path = export(quantized, folder / f"model{runtime.suffix}", images[:2])
    except UserError as error:
        if not any(kind in str(error) for kind in REFUSED.get(name, ())):
            raise
        return
    with torch.no_grad():
        simulated, deployed = quantized(images), load(path)(images)
    if name == "tflm":
        assert sqnr_db(simulated, deployed) > LEAST_TFLM_DB
    else:
        assert differs(simulated, deployed, (structure, name) in AMPLIFIED) == ""
    assert differences(quantized, path) == ""
    left = runtime.float_operations(path)
    named = {part.lower() for one in left for part in (one.partition(" (")[0], one.rpartition("(")[2].rstrip(")"))}
    counted = {kind.lower() for kind, counts in operations(path).items() if "float32" in counts}
    assert counted <= named | CONVERTING | MOVING
