"""Operations whose int8 kernels in LiteRT differ from the graph are computed in float32, and named."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.signature import tensors_of
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, runtime_of
from distiq.runtimes.litert_islands import inline_composites

pytest.importorskip("litert_torch", reason="LiteRT is not installed")


FEW = (F.elu, nn.LeakyReLU(0.1), F.normalize)
ALL = (
    *FEW, nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Softmax(1), F.mish, F.selu,
    nn.AdaptiveAvgPool2d(3), nn.LocalResponseNorm(3), torch.sqrt, F.softplus,
)  # fmt: skip


class BetweenConvolutions(nn.Module):
    """Functions whose parts, or whole, LiteRT computes otherwise on integers; one value with two readers."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions
        self.layers = nn.ModuleList(nn.Conv2d(8 if number else 3, 8, 3, padding=1) for number in range(len(functions)))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer, function in zip(self.layers, self.functions, strict=True):
            x = function(layer(x).abs() if function is torch.sqrt else layer(x))
        x = self.shared(x)
        logits = self.head(F.relu(self.layers[1](x)).mean((2, 3)))
        return logits, logits.amax(1) > 0

    def shared(self, x: Tensor) -> Tensor:
        x = F.tanh(x)
        return torch.maximum(x, self.layers[2](x))


@pytest.mark.parametrize("functions", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_they_give_what_the_graph_gives(functions, tmp_path: Path):
    torch.manual_seed(0)
    model, images = BetweenConvolutions(functions).eval(), torch.randn(32, 3, 8, 8)
    quantized = quantize(model, images, Scheme())
    path = export(quantized, tmp_path / "model.tflite", images[:2])
    with torch.no_grad():
        for expected, given in zip(*(tensors_of(one(images)) for one in (quantized, load(path))), strict=True):
            assert sqnr_db(expected.float(), given.float()) > 60
    assert differences(quantized, path) == ""
    kinds = {name.partition("(")[2].rstrip(")") for name in runtime_of(path).float_operations(path)}
    assert {"exp", "leaky_relu", "sqrt", "div"} <= kinds
    assert functions is FEW or {"average_pool_2d", "resize_bilinear", "stablehlo_reduce_window"} <= kinds
    assert "stablehlo_composite" not in kinds, "what a composite holds is named"


@pytest.mark.parametrize(("by", "in_float32"), [(torch.add, False), (torch.mul, True)])
@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (8, 8), (8, 1, 1), ()])
def test_constants_are_those_of_the_graph(by: Callable[..., Tensor], in_float32: bool, shape: tuple, tmp_path: Path):
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.Conv2d(8, 4, 1)
            self.constant = nn.Parameter(torch.randn(shape))

        def forward(self, x: Tensor) -> Tensor:
            constant = self.constant if shape else torch.arange(8) * 0.11  # or computed of integers
            return self.head(by(self.body(x), constant))

    torch.manual_seed(0)
    model, images = Shifted().eval(), torch.randn(32, 3, 8, 8)
    quantized = quantize(model, images, Scheme())
    path = export(quantized, tmp_path / "model.tflite", images[:2])
    with torch.no_grad():
        assert sqnr_db(quantized(images), load(path)(images)) > 60
    assert differences(quantized, path) == ""
    named = any("mul" in one for one in runtime_of(path).float_operations(path))
    assert named == (in_float32 and shape != (8, 1, 1))  # a factor of each channel is one of the layer in front


def test_what_a_composite_gives_unchanged_is_read_from_its_source():
    from ai_edge_litert import schema_py_generated as schema

    def operation(code: int, source: int, result: int) -> schema.OperatorT:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, [source], [result]
        return made

    def subgraph(tensors: int, result: int, *operations: schema.OperatorT) -> schema.SubGraphT:
        made = schema.SubGraphT()
        made.tensors, made.operators = [schema.TensorT() for _ in range(tensors)], list(operations)
        made.inputs, made.outputs = [0], [result]
        return made

    codes = [schema.OperatorCodeT(), schema.OperatorCodeT()]
    codes[0].builtinCode, codes[1].builtinCode = (
        schema.BuiltinOperator.STABLEHLO_COMPOSITE, schema.BuiltinOperator.RELU,
    )  # fmt: skip
    composites = [operation(0, 0, 1), operation(0, 1, 2)]
    for number, composite in enumerate(composites):
        composite.builtinOptions2 = schema.StableHLOCompositeOptionsT()
        composite.builtinOptions2.decompositionSubgraphIndex = 1 + number
    model = schema.ModelT()
    model.operatorCodes = codes
    model.subgraphs = [
        subgraph(4, 3, *composites, operation(1, 2, 3)),
        subgraph(1, 0),  # gives what it reads
        subgraph(2, 1, operation(1, 0, 1)),
    ]
    inline_composites(model)
    assert [(list(one.inputs), list(one.outputs)) for one in model.subgraphs[0].operators] == [([0], [2]), ([2], [3])]
    assert len(model.subgraphs) == 1
