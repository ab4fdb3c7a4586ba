"""Moves scales between neighbouring layers so that no channel widens a shared range; the float network stays the same.

Two ways, both on a prepared graph whose observers have seen nothing yet (batch norm is folded there):

- between two weighted layers: cross-layer equalization (Nagel et al. 2019, "Data-free quantization through weight
  equalization and bias correction", arXiv:1906.04721, section 4.1);
- from a normalization into the layers that read it: SmoothQuant (Xiao et al. 2023, arXiv:2211.10438, equation 4).

A ReLU passes a scale on, a clip such as ReLU6 does not: min(x / s, 6) * s = min(x, 6 s). A clip per channel would cost
a float operation, so the single clip stays and the scales are limited instead: a channel that reaches it on the
calibration samples is not scaled, and no other channel is scaled far enough to reach it. On these samples the network's
function is the same; elsewhere it differs only where a channel exceeds everything that calibration saw of it. Deviation
for ReLU: no channel grows beyond the widest of its tensor, as one with tiny weights and a large bias otherwise would
(the paper absorbs such biases instead, section 4.1.3, which zero padding rules out).
"""

import math
import operator
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.models.signature import Tensors
from distiq.quantization.operations import CONVOLUTIONS, NORMALIZATIONS, aten
from distiq.quantization.streaming import FAKE_QUANTIZERS, FloatRun, chunks_of

ALPHA = 0.5  # SmoothQuant's default: activations and weights become equally hard to quantize
SWEEPS, SETTLED = 20, 1e-4
TINY = 1e-30
RELUS = {aten.relu.default, aten.relu_.default, aten.clamp_min.default}
LAYERS = {*CONVOLUTIONS, aten.linear.default}
HARDTANHS = {aten.hardtanh.default, aten.hardtanh_.default}
CLIPS = {aten.relu6.default, aten.clamp.default, *HARDTANHS}


class Pair(NamedTuple):
    """Two weighted layers, the second the only consumer of the first, via `between`: an activation or the first."""

    first: fx.Node
    between: fx.Node
    second: fx.Node
    ceiling: float  # what the activation clips at


class Normalized(NamedTuple):
    """A normalization whose result linear layers alone read."""

    norm: fx.Node
    layers: tuple[fx.Node, ...]


def pairs(prepared: fx.GraphModule) -> list[Pair]:
    """All pairs of layers that a scale can be moved between, in the order of the network."""
    graph = _Graph(prepared)
    result = []
    for first in prepared.graph.nodes:
        behind = _only_reader(first)
        if first.target not in LAYERS or behind is None or not graph.owns(first):
            continue
        activated = behind.target in RELUS | CLIPS
        between, ceiling = (behind, _ceiling(behind)) if activated else (first, math.inf)
        quantized = _only_reader(between)
        second = _only_reader(quantized) if quantized is not None and graph.is_fake_quantize(quantized) else None
        if second is None or second.target not in LAYERS or second.args[0] is not quantized or not graph.owns(second):
            continue
        weight: Any = second.args[1]
        if not graph.is_fake_quantize(weight):  # it stays in float32
            continue
        if ceiling > 0 and (first.target in CONVOLUTIONS) == (second.target in CONVOLUTIONS):
            result.append(Pair(first, between, second, ceiling))
    return result


def normalized(prepared: fx.GraphModule) -> list[Normalized]:
    """All normalizations with weights of their own whose result is read by linear layers alone."""
    graph = _Graph(prepared)
    groups = []
    for norm in prepared.graph.nodes:
        if norm.target not in NORMALIZATIONS or not all(map(graph.is_fake_quantize, norm.users)):
            continue
        layers = tuple(layer for reader in norm.users for layer in reader.users)
        linear = all(layer.target is aten.linear.default and layer.args[0] in norm.users for layer in layers)
        owned = all(graph.owns(node) for node in (norm, *layers))
        if layers and linear and owned and len(norm.args[1]) == 1:
            groups.append(Normalized(norm, layers))
    return groups


def changed_fake_quantizers(prepared: fx.GraphModule) -> set[nn.Module]:
    """The fake-quantize modules whose ranges equalization changes relative to their values: those of the activations
    in between and of the consumers' weights. The per-channel ranges of the first layer are only scaled."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    layers = [pair.second for pair in pairs(prepared)]
    layers += [layer for group in normalized(prepared) for layer in group.layers]
    arguments: Any = [argument for layer in layers for argument in layer.args[:2]]
    return {modules[str(argument.target)] for argument in arguments}


@torch.no_grad()
def equalize_layers(prepared: fx.GraphModule, samples: Tensors) -> None:
    """Cross-layer equalization of all pairs, in place, sweep after sweep until the scales settle.

    Args:
        samples: (N, ...) as the network sees them; they say how far a channel may grow.
    """
    graph, all_pairs = _Graph(prepared), pairs(prepared)
    axes = {pair.between: 1 if pair.first.target in CONVOLUTIONS else -1 for pair in all_pairs}
    highest = _largest(prepared, samples, axes)
    totals = {pair: torch.ones_like(highest[pair.between]) for pair in all_pairs}
    for _ in range(SWEEPS):
        change = 0.0
        for pair, total in totals.items():
            ranges = graph.row_ranges(pair.first), graph.column_ranges(pair.second, len(total))
            target = within_limits(total * balancing_scales(*ranges), highest[pair.between], pair.ceiling)
            graph.scale_rows(pair.first, total / target)
            graph.scale_columns(pair.second, target / total)
            change = max(change, float((target / total).log().abs().max()))
            totals[pair] = target
        if change < SETTLED:
            return


@torch.no_grad()
def migrate_outliers(prepared: fx.GraphModule, samples: Tensors, alpha: float = ALPHA) -> None:
    """SmoothQuant of all normalizations that linear layers alone read, in place.

    Args:
        samples: (N, ...) as the network sees them.
    """
    graph, groups = _Graph(prepared), normalized(prepared)
    highest = _largest(prepared, samples, {group.norm: -1 for group in groups})
    for group in groups:
        outputs = highest[group.norm]
        weights = torch.stack([graph.column_ranges(layer, len(outputs)) for layer in group.layers]).amax(0)
        scales = migration_scales(outputs, weights, alpha)
        graph.scale_rows(group.norm, 1 / scales)
        for layer in group.layers:
            graph.scale_columns(layer, scales)


def balancing_scales(rows: Tensor, columns: Tensor) -> Tensor:
    """s = sqrt(r1 r2) / r2, which makes both ranges sqrt(r1 r2) (Nagel et al. 2019, equation 11); 1 where one is 0.

    Shapes: (C,), (C,) -> (C,).
    """
    return torch.where((rows > 0) & (columns > 0), torch.sqrt(rows / columns.clamp(min=TINY)), 1.0)


def migration_scales(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """s = max|X|^alpha / max|W|^(1 - alpha) (Xiao et al. 2023, equation 4); 1 where one of them is 0.

    Shapes: (C,), (C,) -> (C,).
    """
    scales = activations.pow(alpha) / weights.clamp(min=TINY).pow(1 - alpha)
    return torch.where((activations > 0) & (weights > 0), scales, 1.0)


def within_limits(scales: Tensor, highest: Tensor, ceiling: float) -> Tensor:
    """Limits the scales so that no further channel reaches the ceiling, and none grows beyond the widest one.

    A common factor changes no quantized value. So widths are compared after division by the median scale, and the
    factor can be chosen to make room below the ceiling; or, where some channels lie at the ceiling and have to stay, so
    that the geometric mean of their scales is 1 and the other scales are in proportion to them.

    Args:
        scales: (C,) by which the channels are to be divided. highest: (C,) their largest values before the division.
    """
    fixed = highest >= ceiling
    if fixed.any():
        scales = scales / scales[fixed].log().mean().exp()
        return torch.where(fixed, 1.0, torch.maximum(scales, highest / ceiling))
    limit = highest.max().clamp(min=TINY) / scales.median()
    if limit > ceiling:
        scales, limit = scales * (limit / ceiling), torch.full_like(limit, ceiling)
    return torch.maximum(scales, highest / limit)


class _Graph:
    """The parameters behind a prepared graph's layers."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        self.prepared = prepared
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        self.readers = Counter[nn.Parameter]()
        for node in prepared.graph.nodes:
            for source in () if self.is_fake_quantize(node) else node.all_input_nodes:
                if (parameter := self._parameter(source)) is not None:
                    self.readers[parameter] += 1

    def is_fake_quantize(self, node: fx.Node) -> bool:
        return isinstance(self.modules.get(str(node.target)), FAKE_QUANTIZERS)

    def _parameter(self, argument: object) -> nn.Parameter | None:
        """The parameter behind a layer's argument and its fake-quantize module; None for fixed weights."""
        if isinstance(argument, fx.Node) and self.is_fake_quantize(argument):
            argument = argument.args[0]
        if not isinstance(argument, fx.Node) or argument.op != "get_attr":
            return None
        value = operator.attrgetter(str(argument.target))(self.prepared)
        return value if isinstance(value, nn.Parameter) else None

    def _own(self, layer: fx.Node) -> list[nn.Parameter]:
        """Weight and bias of a layer or a normalization; nothing without a weight."""
        at = 2 if layer.target in NORMALIZATIONS else 1
        weight, *bias = (self._parameter(given) for given in (*layer.args[at : at + 2], None))
        return [] if weight is None else [weight, *(one for one in bias if one is not None)]

    def owns(self, layer: fx.Node) -> bool:
        """Whether the layer has a weight, and nothing else reads it or the bias."""
        own = self._own(layer)
        return bool(own) and all(self.readers[parameter] == 1 for parameter in own)

    def row_ranges(self, layer: fx.Node) -> Tensor:
        """(O,): the largest weight of every output channel."""
        return self._own(layer)[0].flatten(1).abs().amax(1)

    def column_ranges(self, layer: fx.Node, channels: int) -> Tensor:
        """(I,): the largest weight of every input channel; a depthwise layer's reads one row."""
        return self._by_group(layer, channels).abs().amax((1, 3)).flatten()

    def scale_rows(self, layer: fx.Node, factors: Tensor) -> None:
        """Output channels, with their biases, times factors (O,)."""
        for parameter in self._own(layer):
            parameter.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)))

    def scale_columns(self, layer: fx.Node, factors: Tensor) -> None:
        """Weights of input channels times factors (I,)."""
        grouped = self._by_group(layer, len(factors))
        grouped.mul_(factors.view(grouped.shape[0], 1, grouped.shape[2], 1))

    def _by_group(self, layer: fx.Node, channels: int) -> Tensor:
        """A view of the weights: (groups, outputs of a group, inputs of a group, positions)."""
        weight = self._own(layer)[0].data
        groups = channels // weight.shape[1]
        return weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _ceiling(activation: fx.Node) -> float:
    """The upper limit of an activation whose lower limit is zero; 0 for any other, which no scale can pass through."""
    if activation.target in (aten.relu.default, aten.relu_.default):
        return math.inf
    if activation.target is aten.relu6.default:
        return 6.0
    given: list[Any] = list(activation.args[1:])
    default: list[Any] = [-1.0, 1.0] if activation.target in HARDTANHS else [None, None]
    low, high = given + default[len(given) :]
    return 0.0 if low != 0 else math.inf if high is None else float(high)


class _Largest(FloatRun):
    """Keeps the largest magnitude of every channel behind some nodes, given their channels' axes: node -> (C,)."""

    def __init__(self, prepared: fx.GraphModule, axes: dict[fx.Node, int]) -> None:
        super().__init__(prepared)
        self.axes = axes
        self.largest: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.axes:
            axis = self.axes[n] % value.ndim
            magnitudes = value.abs().amax([other for other in range(value.ndim) if other != axis])
            self.largest[n] = torch.maximum(magnitudes, self.largest.get(n, magnitudes))
        return value


def _largest(prepared: fx.GraphModule, samples: Tensors, axes: dict[fx.Node, int]) -> dict[fx.Node, Tensor]:
    run = _Largest(prepared, axes)
    for chunk in chunks_of(prepared, samples) if axes else ():
        run.run(*chunk)
    return run.largest
