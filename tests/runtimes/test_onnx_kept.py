"""Layers that stay in float32 between integers stay so in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from distiq.commands.calibrate_graph import calibrate
from distiq.data.calls import Calls, Column
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load, operations
from distiq.runtimes.onnx_qdq import open_graph
from distiq.runtimes.onnx_read import float_operations

LAYERS = [
    pytest.param(nn.Conv2d, (3, 1, 1), "Conv", id="convolution"),
    pytest.param(nn.ConvTranspose2d, (4, 2, 1), "ConvTranspose", id="transposed", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("layer", "sizes", "kind"), LAYERS)
def test_a_module_in_float32_between_integers_is_what_the_simulation_computes(
    layer: type[nn.Module], sizes: tuple[int, int, int], kind: str, tmp_path: Path
):
    """Left to itself ONNX Runtime quantizes the module's weights: 55 dB, and no float operation to name."""
    torch.manual_seed(0)
    images = torch.randn(16, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), layer(8, 8, *sizes), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    quantized = quantize(model, images, Scheme(float_modules=("2",)))
    path = export(quantized, tmp_path / "net.onnx", images[:2])
    with torch.no_grad():
        pairs = zip(quantized(images), load(path)(images), strict=True)
        assert np.median([sqnr_db(*pair) for pair in pairs]) > 80  # a value between two integers moves one sample alone
    assert [name.rpartition("(")[2] for name in float_operations(path)] == [f"{kind})"]
    assert "Max" not in operations(path)


def test_a_layer_taken_back_to_float32_computes_in_it(tmp_path: Path):
    weights = np.random.default_rng(0).standard_normal((3, 4, 4, 3, 3)).astype(np.float32)
    held = [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)]
    nodes = [helper.make_node("Conv", [f"v{n}", f"w{n}"], [f"v{n + 1}"], f"c{n}", pads=[1] * 4) for n in range(3)]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4, 8, 8])] for name in ("v0", "v3")]
    graph = helper.make_graph(nodes, "graph", *ends, held)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(whole, tmp_path / "net.onnx")
    model = open_graph(tmp_path / "net.onnx", ["v0"], tmp_path)
    x = np.random.default_rng(1).standard_normal((8, 4, 8, 8)).astype(np.float32)
    found = calibrate(model, Calls({"v0": Column(x, 0, False)}, tuple(range(8)), 1), Scheme(), "net")
    (tmp_path / "int8.onnx").write_bytes(found.written(found.without(["c1"])).SerializeToString())
    assert operations(tmp_path / "int8.onnx")["QLinearConv"] == {"int8": 2}
    assert float_operations(tmp_path / "int8.onnx") == ("c1 (Conv)",)
