"""Passes over stored weights: the sum of an embedding's rows becomes one product, with the values of the simulation."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from distiq.models.text import trim_vocabulary
from distiq.models.vectors import StaticVectors
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load


class Summed(nn.Module):
    """Rows of a table, summed along one dimension, or read twice."""

    def __init__(self, dimension: int, twice: bool = False) -> None:
        super().__init__()
        self.table, self.dimension, self.twice = nn.Embedding(600, 8), dimension, twice

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = self.table(tokens)
        total = rows.sum(self.dimension)
        return total + rows.amax(self.dimension) if self.twice else total


class Pooled(nn.Module):
    """What stands like scaled rows and is none: whole numbers, times a column or a row that is no table's scale."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.table, self.dimension = nn.Embedding(600, 8), dimension

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        counts = tokens.unsqueeze(2).expand(-1, -1, tokens.shape[1]).float()
        weights = (tokens + tokens).float().unsqueeze(self.dimension)
        return self.table(tokens).amax(1).sum(1, keepdim=True) + (counts * weights).sum(1)


@pytest.mark.parametrize("dimension", [1, 2])
def test_what_is_no_table_keeps_its_value(dimension: int, tmp_path: Path):
    torch.manual_seed(0)
    network, tokens = Pooled(dimension).eval(), torch.randint(0, 600, (4, 9))
    quantized = quantize(network, tokens, Scheme(mode="dynamic"))
    with torch.no_grad():
        torch.testing.assert_close(load(export(quantized, tmp_path / "p.onnx", tokens))(tokens), quantized(tokens))


def trimmed() -> nn.Module:
    return trim_vocabulary(StaticVectors(torch.randn(600, 8), (0, 1, 2)), 600, [0, 1, 2, *range(3, 600, 2)], 1)


@pytest.mark.parametrize(
    ("make", "operation"),
    [
        (lambda: StaticVectors(torch.randn(600, 8), (0, 1, 2)), "MatMul"),
        (trimmed, "MatMul"),
        (lambda: Summed(1), "MatMul"),
        (lambda: Summed(-2), "MatMul"),
        (lambda: Summed(2), "ReduceSum"),  # over the width: no product
        (lambda: Summed(1, twice=True), "ReduceSum"),  # the scaled rows are wanted, too
    ],
)
def test_scaled_rows_are_summed_by_a_product(make, operation: str, tmp_path: Path):
    torch.manual_seed(0)
    network, tokens = make().eval(), torch.randint(0, 600, (4, 9))
    quantized = quantize(network, tokens, Scheme(mode="dynamic"))
    file = export(quantized, tmp_path / "rows.onnx", tokens)
    with torch.no_grad():
        torch.testing.assert_close(load(file)(tokens), quantized(tokens))
        torch.testing.assert_close(load(file)(tokens[:1, :3]), quantized(tokens[:1, :3]))
    rows = [node for node in onnx.load(file).graph.node if node.op_type in ("MatMul", "ReduceSum")]
    assert rows[0].op_type == operation
