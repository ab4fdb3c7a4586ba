"""Which layers of a prepared graph are rounded together: single layers, or blocks with one input and one output value.

Li et al. 2021, "BRECQ" (arXiv:2102.05426), section 3.2, define the blocks of each architecture by hand. Here they are
derived from the graph: a block ends wherever a single value carries everything that quantization has affected, so a
residual body, a squeeze-and-excitation or an attention is never cut. Consecutive layers that no such join binds form a
block if they make up a whole module (expand, depthwise and project of an inverted residual without a shortcut).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import fx

from distiq.quantization.fake_quantize import ActivationFakeQuantize, PerChannelWeightFakeQuantize
from distiq.quantization.operations import ACTIVATIONS, NORMALIZATIONS, POINTWISE, SUMS, WEIGHTED, aten
from distiq.quantization.regions import constant_nodes
from distiq.quantization.weights import layer_of

MOST_LAYERS = 8  # of a block; a larger one (a U-Net, say) is taken layer by layer
BESIDE = {
    *ACTIVATIONS, *POINTWISE, *NORMALIZATIONS, aten.mul.Tensor, aten.gelu.default,
    aten.tanh.default, aten.elu.default, aten.leaky_relu.default, aten.sigmoid_.default,
}  # fmt: skip
"""Operations that belong to the layer before them: a block is compared after its activation."""


class Span(NamedTuple):
    """Consecutive nodes that depend on the samples, and the layers among them whose weights are quantized.

    Where there are layers, the float and the quantized network are compared at the last node.
    """

    nodes: tuple[fx.Node, ...]
    layers: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """The module path that the layers share, such as "stages.0.0"; for a single layer, its path."""
        return _shared([_path(layer) for layer in self.layers])


def layer_spans(prepared: fx.GraphModule) -> list[Span]:
    """The graph in parts of one layer each."""
    return _by_layer(_moving(prepared), _layer_test(prepared))


def block_spans(prepared: fx.GraphModule) -> list[Span]:
    """The graph in blocks."""
    is_layer = _layer_test(prepared)
    spans: list[Span] = []
    touched = _touched(prepared)
    for part in _grouped(_closed(_pieces(prepared, touched), touched, is_layer), touched):
        spans += _by_layer(part.nodes, is_layer) if len(part.layers) > MOST_LAYERS else [part]
    return spans


def _moving(prepared: fx.GraphModule) -> list[fx.Node]:
    constant = set(constant_nodes(prepared))
    return [node for node in prepared.graph.nodes if node.op.startswith("call") and node not in constant]


def _layer_test(prepared: fx.GraphModule) -> Callable[[fx.Node], bool]:
    modules = dict(prepared.named_modules(remove_duplicate=False))  # a shared module has several names

    def is_layer(node: fx.Node) -> bool:
        if node.target not in WEIGHTED:
            return False
        weight: Any = node.args[1]
        return isinstance(modules.get(str(weight.target)), PerChannelWeightFakeQuantize)

    return is_layer


def _span(nodes: Sequence[fx.Node], is_layer: Callable[[fx.Node], bool]) -> Span:
    return Span(tuple(nodes), tuple(node for node in nodes if is_layer(node)))


def _by_layer(nodes: Sequence[fx.Node], is_layer: Callable[[fx.Node], bool]) -> list[Span]:
    """Parts that end with a layer, or with the activation that alone reads it and stands right behind."""
    spans: list[Span] = []
    open_: list[fx.Node] = []
    for node, following in itertools.zip_longest(nodes, nodes[1:]):
        open_.append(node)
        has_activation = following is not None and following.target in ACTIVATIONS and list(node.users) == [following]
        if any(is_layer(other) for other in open_) and not (is_layer(node) and has_activation):
            spans.append(_span(open_, is_layer))
            open_ = []
    return [*spans, _span(open_, is_layer)] if open_ else spans


def _touched(prepared: fx.GraphModule) -> dict[fx.Node, bool]:
    """The nodes whose values quantization affects, in order, each with whether it fake-quantizes an activation."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    touched: dict[fx.Node, bool] = {}
    for node in _moving(prepared):
        is_fake_quantize = isinstance(modules.get(str(node.target)), ActivationFakeQuantize)
        sources = node.all_input_nodes
        reads_quantized_weights = any(
            isinstance(modules.get(str(source.target)), PerChannelWeightFakeQuantize) for source in sources
        )
        if is_fake_quantize or reads_quantized_weights or any(source in touched for source in sources):
            touched[node] = is_fake_quantize
    return touched


def _pieces(prepared: fx.GraphModule, touched: dict[fx.Node, bool]) -> list[list[fx.Node]]:
    """Cuts the graph after each node that alone carries all affected values, but never right after a fake-quantizer."""
    place = {node: number for number, node in enumerate(prepared.graph.nodes)}
    pieces: list[list[fx.Node]] = [[]]
    reach = 0  # position of the last consumer of any affected value so far
    for node in _moving(prepared):
        pieces[-1].append(node)
        if node not in touched:
            continue
        if reach <= place[node] and not touched[node]:
            pieces.append([])
        reach = max([reach, *(place[user] for user in node.users)])
    return [piece for piece in pieces if piece]


def _closed(
    pieces: list[list[fx.Node]], touched: dict[fx.Node, bool], is_layer: Callable[[fx.Node], bool]
) -> list[Span]:
    """Merges pieces so that each has a layer: one without joins the next piece, an activation the previous one."""
    parts: list[list[fx.Node]] = []
    waiting: list[fx.Node] = []
    for piece in pieces:
        if any(is_layer(node) for node in piece):
            parts.append([*waiting, *piece])
            waiting = []
        elif parts and not waiting and all(touched.get(node, True) or node.target in BESIDE for node in piece):
            parts[-1] += piece
        else:
            waiting += piece
    return [_span(part, is_layer) for part in (*parts, waiting) if part]


def _grouped(parts: list[Span], touched: dict[fx.Node, bool]) -> list[Span]:
    """Neighbours that are all of one module, and that no sum has bound already, become one."""
    names = [part.name for part in parts]
    has_sum = [any(_is_sum(node, touched) for node in part.nodes) for part in parts]

    def module_of(number: int) -> str:
        path = names[number]
        while path := path.rpartition(".")[0]:
            inside = [other for other, name in enumerate(names) if f"{name}.".startswith(f"{path}.")]
            if len(inside) > 1:
                in_a_row = inside == list(range(inside[0], inside[-1] + 1))
                layers = sum(len(parts[other].layers) for other in inside)
                bound = any(has_sum[other] for other in inside)
                return path if in_a_row and layers <= MOST_LAYERS and not bound else ""
        return ""

    keys = [module_of(number) or f"{number}" for number in range(len(parts))]
    groups = itertools.groupby(zip(keys, parts, strict=True), key=lambda pair: pair[0])
    together = [[part for _, part in group] for _, group in groups]
    return [
        Span(
            tuple(node for part in group for node in part.nodes),
            tuple(layer for part in group for layer in part.layers),
        )
        for group in together
    ]


def _is_sum(node: fx.Node, touched: dict[fx.Node, bool]) -> bool:
    return node.target in SUMS and sum(source in touched for source in node.all_input_nodes) > 1


def _path(layer: fx.Node) -> str:
    weight: Any = layer.args[1]
    return layer_of(weight.all_input_nodes[0])


def _shared(paths: Sequence[str]) -> str:
    """The deepest module path that all lie in."""
    steps = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, steps))
