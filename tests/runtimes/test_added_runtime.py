"""A runtime that distiq does not have is added: one file (linear_layers.py) and one line (the fixture's)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.bundle.open import Bundle
from distiq.commands.bench import bench
from distiq.commands.compress import compress
from distiq.data.splits import from_tensors
from distiq.errors import UserError
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import parse_recipe
from distiq.runtimes import export as runtimes
from distiq.runtimes.export import differences, export, load, operations, runtime_of
from tests.runtimes.linear_layers import LINEAR_LAYERS


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtimes, "RUNTIMES", (*runtimes.RUNTIMES, LINEAR_LAYERS))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def test_its_files_are_the_network_and_hold_the_graph_s_integers(network: nn.Module, tmp_path: Path):
    inputs = torch.randn(50, 6)
    quantized = quantize(network, inputs, Scheme(mode="weight_only"))
    files = [export(form, tmp_path / f"{number}.npz", inputs) for number, form in enumerate((network, quantized))]
    with torch.no_grad():
        for form, file in zip((network, quantized), files, strict=True):
            torch.testing.assert_close(load(file)(inputs), form(inputs))
    assert differences(quantized, files[1]) == ""
    assert operations(files[1]) == {"linear": {"float32": 2}, "relu": {"float32": 1}}
    assert runtime_of(files[1]).float_operations(files[1]) == ("0 (linear)", "2 (linear)")
    assert [one.runtime for one in bench(files, rounds=1, seconds=0.002).files] == ["Linear Layers"] * 2


def test_it_refuses_as_the_others_do(network: nn.Module, tmp_path: Path):
    with pytest.raises(UserError, match='of linear_layers with quantized activations; nearest: mode = "weight_only", '):
        export(quantize(network, torch.randn(50, 6)), tmp_path / "model.npz", torch.randn(2, 6))
    with pytest.raises(UserError, match=r"files of Linear Layers take and give float32; those of integers: \.tflite"):
        export(network, tmp_path / "model.npz", torch.randn(2, 6), integer_io=True)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "model.npz")


def test_a_run_delivers_its_file(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 1, 2, 3, generator=generator)
    labels = (inputs[:, 0, 0, 0] > 0).long() + (inputs[:, 0, 0, 1] > 0).long()
    data = from_tensors((inputs[:180], labels[:180]), (inputs[180:], labels[180:]), validation=40, calibration=20)
    make = {"teacher": 24, "student": 12}
    networks = {
        role: nn.Sequential(nn.Flatten(), nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
        for role, width in make.items()
    }
    recipe = parse_recipe({
        "measure": {"runtimes": ["linear_layers"], "throughput_batch": 2, "rounds": 1, "seconds": 0.002},
        "quantize": {"mode": "weight_only", "rungs": ["weight_only"]},
        "teacher": {"training": {"epochs": 1}}, "student": {"training": {"epochs": 1}},
    })  # fmt: skip
    record = compress(recipe, run=tmp_path / "run", data=data, **networks)
    assert [entry.runtime for entry in record.trials[0].runtimes] == ["Linear Layers"]
    assert record.trials[0].runtimes[0].same_integers
    assert Bundle(tmp_path / "run" / "bundle").model.name == "model.npz"
    assert Bundle(tmp_path / "run" / "bundle").check().passed
