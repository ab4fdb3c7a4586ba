"""Operations whose int8 kernels in LiteRT differ from the graph are computed in float32, and named."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, runtime_of

pytest.importorskip("litert_torch", reason="LiteRT is not installed")


class BetweenConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1) for width in (3, 8, 8, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer, function in zip(self.layers, (self.smaller, F.elu, self.larger, self.shares), strict=True):
            x = function(layer(x))
        return self.head(F.relu(self.layers[1](x)).mean((2, 3)))

    def smaller(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    def larger(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def shares(self, x: Tensor) -> Tensor:
        return x.softmax(1)


def test_they_give_what_the_graph_gives(tmp_path: Path):
    torch.manual_seed(0)
    model, images = BetweenConvolutions().eval(), torch.randn(32, 3, 8, 8)
    quantized = quantize(model, images, Scheme())
    path = export(quantized, tmp_path / "model.tflite", images[:2])
    with torch.no_grad():
        assert sqnr_db(quantized(images), load(path)(images)) > 60
    assert differences(quantized, path) == ""
    kinds = {name.partition("(")[2].rstrip(")") for name in runtime_of(path).float_operations(path)}
    assert {"average_pool_2d", "resize_bilinear", "exp", "div"} <= kinds
    assert not any(kind.startswith("stablehlo") for kind in kinds), "what a composite holds is named"
