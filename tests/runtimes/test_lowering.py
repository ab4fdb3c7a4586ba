"""Converters get the reference graph: no value changes, and other quantization parameters are told from its own."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes import lowering
from distiq.runtimes.export import export, load, runtime_named
from distiq.runtimes.lowering import (
    RANGE_COLUMNS,
    is_quantized,
    qparams_of,
    with_float_joints,
    with_float_outputs,
    with_float_rows_as_maps,
    with_hard_tanh,
    with_plain_attention,
    with_weight_pairs,
    without_idle_clips,
)
from distiq.runtimes.runtime import QuantizationParameters, Weight


def test_no_form_changes_a_value(exported, images: Tensor):
    reference = exported.quantized.reference()
    with torch.no_grad():
        expected = reference(images[:20])
        assert torch.equal(with_weight_pairs(reference)(images[:20]), expected)
        assert torch.equal(with_weight_pairs(with_float_outputs(reference))(images[:20]), expected)
        assert torch.equal(reference(images[:20]), expected), "the reference is not changed"


def test_a_small_last_layer_holds_float_weights(exported):
    reference = exported.quantized.reference()
    before, after = qparams_of(reference), qparams_of(with_float_outputs(reference))
    assert len(before.weights) - len(after.weights) == 1
    assert after.activations == before.activations


def test_a_float_result_is_of_the_graph_s_own_integers(exported, images: Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lowering, "FEWEST_WIDENED", 1)
    reference = exported.quantized.reference()
    before, after = qparams_of(reference), qparams_of(with_float_outputs(reference))
    assert after.activations == before.activations
    assert is_quantized(reference) and not is_quantized(exported.model)
    (last,) = [(one, two) for one, two in zip(before.weights, after.weights, strict=True) if one[0].ndim == 2]
    assert (last[0].integers == last[1].integers[:, :-RANGE_COLUMNS]).all()
    assert not last[1].integers[:, -RANGE_COLUMNS:].any()
    assert (last[0].scales == last[1].scales).all()
    chosen = with_float_outputs(reference, choosing=True)
    kinds = Counter(str(node.target) for node in chosen.graph.nodes)
    assert kinds["quantized_decomposed.choose_qparams.tensor"] == 1
    with torch.no_grad():
        torch.testing.assert_close(chosen(images[:20]), reference(images[:20]), rtol=1e-5, atol=1e-5)
    scaled = images[:20] * torch.linspace(0.1, 3, 20)[:, None, None, None]  # rows of other ranges, the same parameters
    with torch.no_grad():
        torch.testing.assert_close(chosen(scaled), reference(scaled), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choosing", [False, True])
def test_a_layer_whose_result_is_moved_before_it_is_quantized_reads_no_columns(choosing: bool):
    """The queries of an attention: reshaped and transposed before they are quantized, they multiply integers alone."""

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.left, self.right = nn.LayerNorm(128), nn.Linear(128, 128), nn.Linear(128, 128)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            left, right = (layer(x).view(-1, 4, 2, 64).transpose(1, 2) for layer in (self.left, self.right))
            return left @ right.transpose(-1, -2)

    torch.manual_seed(0)
    inputs = torch.randn(40, 4, 128)
    reference = quantize(Products().eval(), inputs, Scheme(attention=True)).reference()
    lowered = with_float_outputs(reference, choosing)
    layers = [node for node in lowered.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert [len(layer.users) for layer in layers] == [1, 1]
    assert all("quantize_per_tensor" in str(next(iter(layer.users)).target) for layer in layers)
    assert not any("choose_qparams" in str(node.target) or "cat" in str(node.target) for node in lowered.graph.nodes)
    with torch.no_grad():
        assert torch.equal(lowered(inputs), reference(inputs))


@pytest.mark.parametrize("mask", [None, "shown", "added"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_plain_attention_is_attention(mask: str | None, scale: float | None):
    queries, keys, values = torch.randn(3, 2, 4, 5, 8).unbind()
    shown = torch.rand(2, 1, 5, 5) > 0.3
    shown |= torch.eye(5, dtype=torch.bool)
    given = {None: None, "shown": shown, "added": torch.zeros(2, 1, 5, 5).masked_fill(~shown, -1e4)}[mask]

    class Attention(nn.Module):
        def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
            attend = nn.functional.scaled_dot_product_attention
            return attend(queries, keys, values, attn_mask=given, scale=scale)

    graph = torch.export.export(Attention(), (queries, keys)).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    plain = with_plain_attention(graph)
    assert not any("attention" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain(queries, keys), graph(queries, keys))


def test_each_kind_of_difference_is_named():
    weight = Weight(np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 0.25], np.float32))
    graph = QuantizationParameters((weight,), (), frozenset({(0.1, 3)}))
    assert graph.differs_from(graph) == ""
    assert (
        QuantizationParameters((), (np.array([[0.5, -1], [0.75, 1]], np.float32),), graph.activations).differs_from(
            graph
        )
        == ""
    )
    read = np.array([[[0.75, 1], [0.75, 1]]], np.float32)  # the second row, for two tokens
    assert QuantizationParameters((), (read,), graph.activations).differs_from(graph) == ""
    padded = graph._replace(weights=(weight._replace(integers=np.array([[0, 0], [3, 4]], np.int8)),))
    assert "are not in the file" in QuantizationParameters(
        (), (np.zeros((1, 2), np.float32),), graph.activations
    ).differs_from(padded)
    other = weight._replace(integers=-weight.integers)
    assert "1 integer weights are not the graph's" in graph._replace(weights=(other,)).differs_from(graph)
    assert "are not in the file" in graph._replace(weights=()).differs_from(graph)
    for parameters in ((0.1, 4), (0.11, 3)):
        assert "quantizes no activation so" in graph._replace(activations=frozenset({parameters})).differs_from(graph)
    near = graph._replace(activations=frozenset({(0.1000004, 3)}), tolerance=1e-6)
    assert near.differs_from(graph) == ""


def test_constant_activations_are_no_strange_weights():
    class Positions(nn.Module):
        """Products of what the input gives with rows that stand for positions."""

        def __init__(self) -> None:
            super().__init__()
            self.rows, self.layer = nn.Parameter(torch.randn(6, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) @ self.layer(self.rows.unsqueeze(0)).transpose(1, 2)

    torch.manual_seed(0)
    graph = qparams_of(quantize(Positions().eval(), torch.randn(32, 5, 4)).reference())
    (rows,) = graph.constants
    assert rows.integers.shape == (1, 6, 4) and rows.scales.ndim == 0
    assert graph._replace(weights=(*graph.weights, rows)).differs_from(graph) == ""
    other = rows._replace(integers=-rows.integers)
    assert "1 integer weights are not" in graph._replace(weights=(*graph.weights, other)).differs_from(graph)


class ClassToken(nn.Module):
    """A token far beyond the range of the patches that it stands beside, as in a trained transformer for images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.linspace(-40, 40, 8).view(1, 1, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], 1))
        return self.head(x[:, 0] + x.mean(1))


@torch.no_grad()
def test_quantized_values_and_others_meet_in_float32(images: Tensor):
    torch.manual_seed(0)
    reference = quantize(ClassToken().eval(), images[:64]).reference()
    graph = with_float_joints(reference)
    (joint,) = [node for node in graph.graph.nodes if node.target is torch.ops.aten.cat.default]
    assert [one.target for one in joint.args[0]] == [torch.ops.aten.expand.default, torch.ops.aten.add.Tensor]
    torch.testing.assert_close(graph(images), reference(images), rtol=0, atol=1e-6)


def test_an_output_that_is_also_quantized_is_given_as_it_is():
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.head(x)
            return logits, logits.amax(1) > 0

    reference = quantize(Sure().eval(), torch.randn(32, 4)).reference()
    quantized = [
        node for node in reference.graph.output_node().all_input_nodes if node.target is torch.ops.aten.linear.default
    ]
    assert len(quantized) == 1
    given = with_float_joints(reference).graph.output_node().all_input_nodes[0]
    assert given.target is torch.ops.aten.add.Tensor, "LiteRT would give the integers that the comparison reads"


@pytest.mark.parametrize(("high", "kept"), [(1.0, 0), (0.9, 1)])
def test_a_clamp_that_quantization_repeats_is_dropped(high: float, kept: int):
    """Integers -128 to 127 of scale 1 / 255 and zero point -128 stand for 0 to 1: a clamp to that range is idle."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    clamped = graph.call_function(torch.ops.aten.clamp.default, (x, 0.0, high))
    parameters, library = (1 / 255, -128, -128, 127, torch.int8), torch.ops.quantized_decomposed
    integers = graph.call_function(library.quantize_per_tensor.default, (clamped, *parameters))
    graph.output(graph.call_function(library.dequantize_per_tensor.default, (integers, *parameters)))
    module = fx.GraphModule({}, graph)
    changed, values = without_idle_clips(module), torch.linspace(-1, 2, 301)
    assert sum(node.target is torch.ops.aten.clamp.default for node in changed.graph.nodes) == kept
    assert torch.equal(changed(values), module(values))


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "same"])
def rows(request: pytest.FixtureRequest) -> tuple[QuantizedModel, Tensor]:
    torch.manual_seed(0)
    last = nn.Conv1d(8, 6, 4, padding="same" if request.param else 1, groups=2)
    model = nn.Sequential(nn.Conv1d(4, 8, 3, 1, 2, 2), nn.Hardsigmoid(), last).eval()
    inputs = torch.randn(16, 4, 24)
    return quantize(model, inputs), inputs


def test_rows_as_maps_of_one_column_give_the_same_values(rows: tuple[QuantizedModel, Tensor]):
    reference, inputs = rows[0].reference(), rows[1]
    changed = with_float_rows_as_maps(with_float_outputs(with_hard_tanh(reference)))
    aten, targets = torch.ops.aten, [node.target for node in changed.graph.nodes]
    assert targets.count(aten.conv1d.default) == targets.count(aten.hardtanh.default) == 1
    assert targets.count(aten.conv2d.default) + targets.count(aten.conv2d.padding) == 1
    assert aten.clamp.default not in targets and aten.conv1d.padding not in targets
    with torch.no_grad():
        torch.testing.assert_close(changed(inputs), reference(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_rows_behind_a_clamp_are_integers_in_xnnpack(rows: tuple[QuantizedModel, Tensor], tmp_path: Path):
    pytest.importorskip("executorch")
    (quantized, inputs), runtime = rows, runtime_named("executorch")
    path = export(quantized, tmp_path / "rows.pte", inputs[:2])
    with torch.no_grad():
        assert sqnr_db(quantized(inputs), load(path)(inputs)) > 80
    assert [one.partition(" (")[2] for one in runtime.float_operations(path)].count("conv2d)") == 1
