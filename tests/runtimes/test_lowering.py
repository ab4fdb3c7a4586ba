"""What converters are given is the reference graph: no value changes, and its grids are told from others."""

import numpy as np
import torch
from torch import Tensor

from distiq.runtimes.lowering import (
    Grids,
    Weight,
    grids_of,
    is_quantized,
    with_float_outputs,
    with_weight_pairs,
)


def test_no_form_changes_a_value(exported, images: Tensor):
    reference = exported.quantized.reference()
    with torch.no_grad():
        expected = reference(images[:20])
        assert torch.equal(with_weight_pairs(reference)(images[:20]), expected)
        assert torch.equal(with_weight_pairs(with_float_outputs(reference))(images[:20]), expected)
        assert torch.equal(reference(images[:20]), expected), "the reference is not changed"


def test_only_the_last_layer_holds_float_weights(exported):
    reference = exported.quantized.reference()
    before, after = grids_of(reference), grids_of(with_float_outputs(reference))
    assert len(before.weights) - len(after.weights) == 1
    assert after.activations == before.activations
    assert is_quantized(reference) and not is_quantized(exported.model)


def test_each_kind_of_difference_is_named():
    weight = Weight(np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 0.25], np.float32))
    graph = Grids((weight,), (), frozenset({(0.1, 3)}))
    assert graph.differs_from(graph) == ""
    assert Grids((), (np.array([[0.5, -1], [0.75, 1]], np.float32),), graph.activations).differs_from(graph) == ""
    other = weight._replace(integers=-weight.integers)
    assert "1 integer weights are not the graph's" in graph._replace(weights=(other,)).differs_from(graph)
    assert "are not in the file" in graph._replace(weights=()).differs_from(graph)
    for grid in ((0.1, 4), (0.11, 3)):
        assert "no such grids" in graph._replace(activations=frozenset({grid})).differs_from(graph)
    near = graph._replace(activations=frozenset({(0.1000004, 3)}), tolerance=1e-6)
    assert near.differs_from(graph) == ""
