"""Float and quantized network side by side: the values of both, whatever the chunks, and the memory that is said."""

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.progress import Silent
from distiq.quantization import streaming
from distiq.quantization.operations import WEIGHTED
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.quantization.streaming import FloatRun, Pair, SideBySide
from tests.quantization.conftest import make


def is_layer(node: fx.Node) -> bool:
    return node.target in WEIGHTED


class Recording(FloatRun):
    """The values of some nodes in the float network, or in the quantized one."""

    def __init__(self, prepared: fx.GraphModule, nodes: list[fx.Node], quantized: bool) -> None:
        super().__init__(prepared)
        self.nodes, self.quantized, self.values = nodes, quantized, {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.fetch_attr(target)(*args) if self.quantized else super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            self.values[n] = value
        return value


@pytest.fixture
def quantized(network: nn.Module, images: Tensor) -> QuantizedModel:
    return quantize(network, images)


@pytest.mark.parametrize("chunk_bytes", [1, 2**14, 2**30])
@torch.no_grad()
def test_inputs_of_every_layer_are_those_of_both_networks(
    chunk_bytes: int, quantized: QuantizedModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", chunk_bytes)
    samples = images[:20]
    networks = SideBySide(quantized.prepared, samples, is_layer)
    inputs = [layer.args[0] for layer in networks.layers]
    wanted = [Recording(quantized.prepared, inputs, which) for which in (False, True)]
    for run in wanted:
        run.run(samples)
    for layer, part in zip(networks.layers, networks.parts, strict=False):
        seen: list[Pair] = []
        networks.advance(part, layer.args[0], seen.append)
        original, found = (torch.cat(values) for values in zip(*seen, strict=True))
        torch.testing.assert_close(found, wanted[1].values[layer.args[0]], rtol=0, atol=1e-4)
        torch.testing.assert_close(original, wanted[0].values[layer.args[0]], rtol=0, atol=0.02)


def held(networks: SideBySide) -> int:
    """Bytes of what is kept beside the samples."""
    kept = [one for node, entries in networks.kept.items() if node.op != "placeholder" for one in entries]
    tensors = [part for one in kept if one is not None for part in one if isinstance(part, Tensor)]
    return sum(part.nbytes for part in tensors)


def peak(quantized: QuantizedModel, samples: Tensor) -> int:
    networks = SideBySide(quantized.prepared, samples, is_layer)
    most = 0

    def look(pair: Pair) -> None:
        nonlocal most
        most = max(most, held(networks))

    for layer, part in zip(networks.layers, networks.parts, strict=False):
        networks.advance(part, layer.args[0], look)
        most = max(most, held(networks))
    return most


@torch.no_grad()
def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch):
    quantized = quantize(make("mobilenet"), torch.randn(40, 1, 12, 12))
    monkeypatch.setattr(streaming, "KEPT_BYTES", 2**19)
    few, many = (peak(quantized, torch.randn(count, 1, 12, 12)) for count in (100, 400))
    assert few == many
    assert 2**18 < many <= 2**19  # used, and no more


def test_fewer_samples_than_usual_are_said_and_recorded(monkeypatch: pytest.MonkeyPatch):
    class Notes(Silent):
        said: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            self.said.append(text)

    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    samples, scheme = torch.randn(40, 1, 12, 12), Scheme(rounding="gptq")
    assert quantize(network, samples, scheme, watch=Notes()).rounding_samples is None
    assert Notes.said == []
    monkeypatch.setattr(streaming, "KEPT_BYTES", 2**13)
    quantized = quantize(network, samples, scheme, watch=Notes())
    networks = SideBySide(quantized.prepared, samples, is_layer)
    assert networks.count < 40 and quantized.rounding_samples == networks.count
    assert Notes.said[0].startswith(f"weights and biases are rounded by {networks.count} of 40 calibration samples")


@torch.no_grad()
def test_three_bytes_a_value():
    """16 channels of 12 x 12 behind the first fake-quantizers of a network without skips, for each sample."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3)).eval()
    samples = torch.randn(10, 1, 12, 12)
    quantized = quantize(network, samples)
    networks = SideBySide(quantized.prepared, samples, is_layer)
    sizes = []
    for layer, part in zip(networks.layers, networks.parts, strict=False):
        networks.advance(part, layer.args[0], lambda _: None)
        sizes.append(held(networks))
    assert sizes == [3 * 10 * 144, 3 * 10 * 16 * 144]


class Lengths(nn.Module):
    """A value whose first axis counts no samples is kept across layers: (2, B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        halves = torch.stack(self.first(x).chunk(2, 1))
        return self.last(F.relu(halves[0] * halves[1]))


def test_values_that_count_no_samples_are_not_split(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    network, x = Lengths().eval(), torch.randn(40, 8)
    found = []
    for chunk_bytes in (64 * 4 * 16, 4 * 16 * 4):
        monkeypatch.setattr(streaming, "CHUNK_BYTES", chunk_bytes)
        found.append(quantize(network, x)(x))
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)
