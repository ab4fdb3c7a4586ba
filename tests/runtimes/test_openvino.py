"""What OpenVINO's own optimizations must not change."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distiq.models.resnet import ResNet
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import differences, export, load
from distiq.runtimes.openvino import float_operations

pytest.importorskip("openvino", reason="OpenVINO is not installed")


def test_what_is_added_is_rounded_first(tmp_path: Path):
    torch.manual_seed(0)
    model = ResNet(4, 1, (8, 16), 2).eval()
    for name, module in model.named_modules():
        if name.endswith("bn2"):
            nn.init.ones_(module.weight)  # at its start a block adds nothing
    images = torch.randn(200, 1, 12, 12)
    quantized = quantize(model, images)
    path = export(quantized, tmp_path / "model.xml", images[:2])
    with torch.no_grad():
        simulated = quantized(images)
    step = (simulated.max() - simulated.min()) / 255
    # Without the rounding 58 % of these logits lie more than half a step beside, with it 0.3 %.
    assert ((load(path)(images) - simulated).abs() > step / 2).double().mean() < 0.05
    assert float_operations(path) == ()
    assert differences(quantized, path) == ""


class Extremes(nn.Module):
    """A maximum or minimum over positions, which a layer reads and the network gives, too."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.body, self.head, self.reduce = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), getattr(torch.Tensor, reduce)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = torch.tanh(self.body(x))
        return {"logits": self.head(self.reduce(maps, (2, 3))), "rows": self.reduce(maps, 3)}


@pytest.mark.parametrize("reduce", ["amax", "amin"])
def test_maxima_over_axes_that_are_not_kept_are_right(reduce: str, tmp_path: Path):
    """OpenVINO's kernel of such a reduction and a FakeQuantize gives wrong values: 15 dB and less."""
    torch.manual_seed(0)
    model, images = Extremes(reduce).eval(), torch.randn(64, 3, 10, 10)
    quantized = quantize(model, images)
    path = export(quantized, tmp_path / "model.xml", images[:2])
    with torch.no_grad():
        simulated, deployed = quantized(images), load(path)(images)
    assert all(sqnr_db(simulated[name], deployed[name]) > 60 for name in ("logits", "rows"))


@pytest.mark.parametrize("widths", [(32, 32, 3), (30, 20, 16, 3)])
def test_layers_without_bias_are_right_in_small_batches(widths: tuple[int, ...], tmp_path: Path):
    torch.manual_seed(0)
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair, bias=False), nn.ReLU())]
    samples = torch.randn(64, widths[0])
    quantized = quantize(nn.Sequential(*layers[:-1]).eval(), samples)
    path = export(quantized, tmp_path / "model.xml", samples[:2])
    predict = load(path)
    with torch.no_grad():
        for batch in (1, 2, 5, 64):  # OpenVINO alone gives numbers of 1e9 up to a batch of 15
            assert sqnr_db(quantized(samples[:batch]), predict(samples[:batch])) > 60
    assert differences(quantized, path) == ""


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("by", [torch.mul, torch.add])
def test_constants_behind_layers_are_right_in_small_batches(by: Callable[..., Tensor], sign: float, tmp_path: Path):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16)), nn.Linear(16, 4)
            self.constant = nn.Parameter(torch.linspace(-0.5, 2, 16))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(by(sign * torch.relu(self.body(x)), self.constant))

    torch.manual_seed(0)
    model, samples = Scaled().eval(), torch.randn(48, 12)
    quantized = quantize(model, samples)
    predict = load(export(quantized, tmp_path / "model.xml", samples[:2]))
    with torch.no_grad():
        for batch in (1, 5, 48):  # OpenVINO alone gives numbers of 1e6 and more up to a batch of 15
            assert sqnr_db(quantized(samples[:batch]), predict(samples[:batch])) > 60


def test_limits_between_integers_are_integers(tmp_path: Path):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1), nn.Hardtanh(-0.3, 0.9), nn.Conv2d(8, 4, 1)
    model, images = nn.Sequential(*layers).eval(), torch.randn(16, 3, 8, 8)
    quantized = quantize(model, images)
    with torch.no_grad():
        assert sqnr_db(quantized(images), load(export(quantized, tmp_path / "model.xml", images[:2]))(images)) > 60


def test_slopes_by_channel_stand_in_the_file(tmp_path: Path):
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 1)).eval(), torch.randn(16, 3, 8, 8)
    nn.init.uniform_(model[1].weight)
    quantized = quantize(model, images)
    assert differences(quantized, export(quantized, tmp_path / "model.xml", images[:2])) == ""
