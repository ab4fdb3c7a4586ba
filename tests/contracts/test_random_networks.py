"""Two hundred random networks: the graph is the network, the files answer as the simulation, all float is named."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distiq.numerics import sqnr_db
from distiq.quantization.graph import export_graph
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import differences, export, load, operations, runtime_named
from tests.contracts.random_networks import random_network
from tests.contracts.test_runtimes import CONVERTING, case
from tests.contracts.test_structures import LEAST_DB, MOVING

NUMBERS = 200
EVERY = 10  # of the other runtimes, one network in ten


def differs(exact: Tensor, simulated: Tensor, deployed: Tensor) -> str:
    """How far outputs (N, ...) are from the simulation's; empty where they agree.

    A value that lies between two integers may take another in a file: one sample then moves by what quantization itself
    moved it. Noise of one sample in N is 10 log10(N) dB below that of all; an operation that computes something else is
    seen in the median sample.
    """
    found, most = sqnr_db(simulated, deployed), sqnr_db(exact, simulated) + 10 * math.log10(len(exact))
    median = float(torch.tensor([sqnr_db(*pair) for pair in zip(simulated, deployed, strict=True)]).median())
    if found > LEAST_DB or (found > most and median > LEAST_DB):
        return ""
    return f"{found:.1f} dB, {median:.1f} dB in the median sample"


def agrees(number: int, name: str, folder: Path) -> None:
    runtime = runtime_named(name)
    model, calibration, inputs = random_network(number)
    with torch.no_grad():
        assert sqnr_db(model(inputs), export_graph(model, inputs[:2])(inputs)) > 80
    quantized = quantize(model, calibration)
    path = export(quantized, folder / f"model{runtime.suffix}", inputs[:2])
    with torch.no_grad():
        assert differs(model(inputs), quantized(inputs), load(path)(inputs)) == ""
    assert differences(quantized, path) == ""
    left = runtime.float_operations(path)
    named = {part.lower() for one in left for part in (one.partition(" (")[0], one.rpartition("(")[2].rstrip(")"))}
    counted = {kind.lower() for kind, counts in operations(path).items() if "float32" in counts}
    assert counted <= named | CONVERTING | MOVING


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUMBERS))
def test_a_random_network_is_the_same_in_onnx_runtime(number: int, tmp_path: Path):
    agrees(number, "onnxruntime", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [case(name) for name in ("openvino", "litert", "executorch")])
@pytest.mark.parametrize("number", range(0, NUMBERS, EVERY))
def test_a_random_network_is_the_same_elsewhere(number: int, name: str, tmp_path: Path):
    agrees(number, name, tmp_path)


def test_a_number_makes_one_network():
    first, second = random_network(3), random_network(3)
    with torch.no_grad():
        assert torch.equal(first[0](first[2]), second[0](second[2]))
