"""16-bit activations where 8 bits lose the values: which layers get them, and a run that climbs to them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distiq.commands.compress import compress
from distiq.data.splits import from_tensors
from distiq.errors import UserError
from distiq.quantization.graph import export_graph
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import sensitivity
from distiq.recipe.read import parse_recipe
from distiq.run.rungs import rungs_of
from distiq.run.widen import wide_modules
from distiq.runtimes.export import require, runtime_named


def features(count: int, seed: int) -> Tensor:
    """A value that matters beside one of a hundred times its range that hardly does."""
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([100.0, 1.0])


@torch.no_grad()
def regression() -> nn.Sequential:
    """y = |b| - 0.5 + a / 10,000, of inputs (a, b); behind its first layer all values are of one range."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU6(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    network[0].weight.copy_(torch.tensor([[0.01, 0.0], [0.0, 1.0]]))
    network[0].bias.fill_(3.0)
    network[2].weight[:4] = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])
    network[2].bias.copy_(-3 * network[2].weight.sum(1))
    network[4].weight[0, :4] = torch.tensor([1.0, 1.0, 1e-2, -1e-2])
    network[4].bias.fill_(-0.5)
    return network.eval()


def test_the_layer_that_reads_a_tensor_of_unlike_ranges_is_widened():
    network = regression()
    evidence = sensitivity(quantize(network, features(500, 1), Scheme()), features(128, 2))
    assert wide_modules(evidence, export_graph(network, features(2, 2))) == ("0",)


def test_a_module_that_gives_a_noisy_tensor_is_widened_with_those_that_read_it():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 2))
    images = torch.rand(64, 1, 2, 2)
    evidence = sensitivity(quantize(network.eval(), images, Scheme()), images)
    noisy = tuple(
        noise.model_copy(update={"sqnr_db": 10.0 if noise.place == "1" else 60.0}) for noise in evidence.tensors
    )
    planted = evidence.model_copy(update={"tensors": noisy})
    assert wide_modules(planted, export_graph(network, images[:2])) == ("0", "1", "2", "3")


@pytest.mark.parametrize("runtime", ["litert", "tflm", "c99"])
def test_it_is_climbed_where_every_runtime_computes_it(runtime: str):
    settings = parse_recipe({}).quantize
    assert "wide_layers" in [rung.name for rung in rungs_of(settings, False, (runtime,))]
    assert "wide_layers" not in [rung.name for rung in rungs_of(settings, False, (runtime, "onnxruntime"))]
    assert "wide_layers" not in [rung.name for rung in rungs_of(settings, True, (runtime,))]


@pytest.mark.parametrize(
    ("settings", "integer_io", "runtime", "message"),
    [
        ({}, False, "executorch", "activations of 16 bits"),
        ({}, True, "litert", "export.integer_io = true takes and gives 8 bits"),
        ({"activation_bits": 16}, False, "litert", "widens every layer already"),
    ],
)
def test_it_is_refused_where_it_cannot_be(settings: dict, integer_io: bool, runtime: str, message: str):
    recipe = parse_recipe({"quantize": {"rungs": ["static", "wide_layers"], **settings}})
    with pytest.raises(UserError, match=message):
        rungs_of(recipe.quantize, integer_io, (runtime,))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["litert", "c99"])
def test_a_regression_that_int8_loses_is_delivered_within_its_budget(runtime: str, tmp_path: Path):
    try:
        require(runtime_named(runtime), to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    network, inputs = regression(), features(900, 3)
    with torch.no_grad():
        targets = network(inputs).flatten()
    data = from_tensors(
        (inputs[:600], targets[:600]),
        (inputs[600:], targets[600:]),
        ["value"],
        150,
        150,
        modality="table",
        normalized=True,
    )
    recipe = parse_recipe(
        {
            "student": {"training": {"epochs": 1, "learning_rate": 1e-6, "precision": "float32"}},
            "quantize": {"rungs": ["static", "wide_layers"], "fall_back": False},
            "measure": {"runtimes": [runtime], "throughput_batch": 2, "rounds": 1, "seconds": 0.002},
            "budget": {"drop": 0.05},
        }
    )
    record = compress(recipe, run=tmp_path / "run", teacher=network, student=network, data=data)
    first, second = record.trials
    assert first.breaches and not second.breaches
    assert record.verdict.chosen == "wide_layers" and "0 with 16-bit activations" in second.scheme
