"""Slices take the place of chunks and splits: the same values, and the batch's own cut stays."""

import pytest
import torch
from torch import Tensor, fx, nn

from distiq.models.slices import CUTTING, cut_by_slices


class Cut(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.how(x)
        return first.mean() + sum((2 + number) * part.amax() for number, part in enumerate(rest))


def exported(how) -> fx.GraphModule:
    dynamic = ({0: torch.export.Dim("batch", min=2, max=8)},)
    graph = torch.export.export(Cut(how), (torch.randn(4, 6, 5),), dynamic_shapes=dynamic).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return graph


@pytest.mark.parametrize("how", [lambda x: x.chunk(4, 1), lambda x: x.split(4, 2), lambda x: x.split([1, 2, 3], 1)])
def test_they_are_the_same_parts(how):
    graph, x = exported(how), torch.randn(3, 6, 5)
    parts = len(how(x))
    slices = cut_by_slices(graph.graph)
    graph.recompile()
    assert len(slices) == parts
    assert not any(node.target in CUTTING for node in graph.graph.nodes)
    assert torch.equal(graph(x), Cut(how)(x))


def test_parts_that_are_to_be_left_stay():
    graph = exported(lambda x: x.chunk(2, 1))
    (cut,) = [node for node in graph.graph.nodes if node.target in CUTTING]
    assert cut_by_slices(graph.graph, list(cut.users)[:1]) == {}
    assert cut in graph.graph.nodes
