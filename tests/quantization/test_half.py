"""Half precision: weights of float16 in every runtime that has them, and the layers that its range does not hold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load, size_bytes

HALF = Scheme(mode="float16")


class Network(nn.Module):
    """Three layers, whose activations and weights can be scaled without a change of the outputs' scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.second, self.last = nn.Conv2d(64, 64, 3), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


@pytest.fixture
def network() -> Network:
    return Network().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def rounded(value: Tensor) -> Tensor:
    return value.detach().half().float()


@torch.no_grad()
def test_weights_are_rounded_to_the_nearest_float16(network: Network, images: Tensor):
    quantized = quantize(network, images, HALF)
    weights = [one for name, one in quantized.named_parameters() if name.endswith("weight") and one.ndim == 4]
    assert torch.equal(weights[1], rounded(network.second.weight))
    assert all(torch.equal(one, rounded(one)) for one in weights)
    assert quantized.scheme.float_modules == () and str(quantized.scheme).startswith("float16 weights, computed in")
    assert sqnr_db(network(images), quantized(images)) > 60  # 11 bits: about 6 dB each


@torch.no_grad()
def scale_weights(network: Network) -> None:
    network.second.weight[0, 0, 0, 0] = 70_000.0  # beyond 65,504


@torch.no_grad()
def scale_activations(network: Network) -> None:
    network.second.weight *= 2.0**18  # at most 2^18 * 0.05: within the range, what it gives is not
    network.second.bias.zero_()
    network.last.weight *= 2.0**-7


@torch.no_grad()
def shrink_weights(network: Network) -> None:
    network.second.weight *= 2.0**-20  # 4e-8: zeros of float16


@pytest.mark.parametrize(
    ("change", "kept"),
    [(scale_weights, ("second",)), (scale_activations, ("second", "last")), (shrink_weights, ("second",))],
)
def test_layers_beyond_the_range_stay_in_float32_by_name(network: Network, images: Tensor, change, kept: tuple[str]):
    change(network)
    quantized = quantize(network, images, HALF)
    assert quantized.scheme.float_modules == kept
    assert torch.equal(quantized.prepared.get_parameter("second.weight"), network.second.weight)
    assert " and ".join(kept) + " in float32" in str(quantized.scheme)


def test_vectors_stay_in_float32(images: Tensor):
    """Biases and norms: few bytes, and errors that no product averages out."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(300, 400), nn.LayerNorm(400), nn.Linear(400, 400)).eval()
    for vector in (network[1].bias, network[2].weight, network[2].bias):
        nn.init.uniform_(vector, 1, 2)
    quantized = quantize(network, images, HALF)
    own = dict(quantized.prepared.named_parameters())
    for name in ("1.bias", "2.weight", "2.bias", "3.bias"):
        assert torch.equal(own[name], network.get_parameter(name))
    assert torch.equal(own["1.weight"], rounded(network[1].weight))


def test_modules_stay_in_float32_that_are_asked_for(network: Network, images: Tensor):
    quantized = quantize(network, images, Scheme(mode="float16", float_modules=("second",)))
    assert torch.equal(quantized.prepared.get_parameter("second.weight"), network.second.weight)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
@torch.no_grad()
def test_files_are_half_as_large_and_give_the_same(network: Network, images: Tensor, suffix: str, tmp_path: Path):
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino", ".tflite": "litert_torch"}[suffix])
    quantized = quantize(network, images, HALF)
    path = export(quantized, tmp_path / f"half{suffix}", images)
    assert size_bytes(path) < 0.6 * 4 * sum(one.numel() for one in network.parameters())
    assert sqnr_db(quantized(images), load(path)(images)) > 90  # float32 in another order


@pytest.mark.parametrize("suffix", [".pte", ".pt2", ".c"])
def test_runtimes_without_float16_are_refused(network: Network, images: Tensor, suffix: str, tmp_path: Path):
    with pytest.raises(UserError, match=r'no files of .* with float16 weights; nearest: .*"onnxruntime" or "openvino"'):
        export(quantize(network, images, HALF), tmp_path / f"model{suffix}", images)


@pytest.mark.parametrize("options", [{"weight_bits": 4}, {"activation_bits": 16}, {"reduce_range": True}])
def test_settings_of_integers_are_refused(options: dict[str, int]):
    with pytest.raises(UserError, match=f'{next(iter(options))} is of integers, and mode = "float16" has none'):
        Scheme(mode="float16", **options)
