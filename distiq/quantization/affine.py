"""Folds an exported graph's batch norms: into the layer before, the layers after, or a layer of their own.

A norm with fixed statistics is y = scale * x + shift for each channel. It is folded into the preceding layer only where
it is that layer's sole consumer and the layer shares its weight with no other; otherwise the other consumers would be
rescaled as well. A norm of rows (B, C) can be folded into the linear layers behind it if nothing else consumes it. Any
other norm becomes a depthwise convolution with a kernel of size one, for which integer kernels exist.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from distiq.quantization.guard import STANDS_FOR
from distiq.quantization.operations import FLOAT, GATE, SCALING, TRANSPOSED, WEIGHTED, aten, groups_of
from distiq.quantization.regions import feature_maps, tail
from distiq.quantization.weights import constant_of, layer_of, new_weight, replace_constant

NATIVE = aten._native_batch_norm_legit_no_training.default
NORMS = {aten.batch_norm.default, aten.instance_norm.default, NATIVE}
FOLDABLE = {*WEIGHTED, aten.conv3d.default, aten.conv3d.padding}
DEPTHWISE = {3: aten.conv1d.default, 4: aten.conv2d.default, 5: aten.conv3d.default}
"""By the dimensions of the values."""


class Affine(NamedTuple):
    """scale * x + shift, both (C,); `path` is the module that it comes from."""

    scale: Tensor
    shift: Tensor
    path: str


def fold_norms(graph: fx.GraphModule) -> None:
    """Removes every batch norm from the graph, in place; one with batch statistics is decomposed into basic operations.

    torchao would fold any that remain without checking what else consumes the layer.
    """
    for node in list(graph.graph.nodes):
        if node.target not in NORMS:
            continue
        source: Any = node.args[0]
        result = _result_of(node)
        affine = _affine_of(graph, node)
        if affine is None:
            if node.target is aten.batch_norm.default:
                _exchange(graph, node, _written_out(graph, node))
        elif _is_foldable(graph, source, node):
            _fold_back(graph, source, affine)
            _exchange(graph, result, source)
        elif source.meta["val"].ndim == 2 and _is_read_by_linear_layers(graph, result):
            for layer in list(result.users):
                _fold_forward(graph, layer, affine)
            _exchange(graph, result, source)
        else:
            _exchange(graph, result, _depthwise(graph, result, source, affine))
    graph.graph.eliminate_dead_code()
    graph.recompile()


def fold_constants(graph: fx.GraphModule) -> None:
    """Folds products and sums with per-channel constants in the same way, where they scale a layer or a feature map."""
    maps, outputs = feature_maps(graph), tail(graph)
    for node in list(graph.graph.nodes):
        if node.target not in SCALING or node.kwargs or node.meta.get(FLOAT):
            continue
        if (scaling := _scaling_of(graph, node)) is None:
            continue
        source, affine = scaling
        if bool((affine.scale == 1).all() and (affine.shift == 0).all()):
            _exchange(graph, node, source)
            continue
        is_map = source in maps or (GATE in node.meta and source.meta["val"].ndim == 2)
        if _is_foldable(graph, source, node):
            _fold_back(graph, source, affine)
            _exchange(graph, node, source)
        elif is_map and node not in outputs:
            made = _depthwise(graph, node, source, affine)
            maps.add(made)
            _exchange(graph, node, made)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _exchange(graph: fx.GraphModule, node: fx.Node, result: fx.Node) -> None:
    """Replaces a node by `result` and erases the node from the graph."""
    if result.op == "call_function":
        result.meta[STANDS_FOR] = node.meta.get(STANDS_FOR, node.name)
    node.replace_all_uses_with(result)
    norm = node.args[0] if node.target is operator.getitem else None
    graph.graph.erase_node(node)
    if isinstance(norm, fx.Node):
        graph.graph.erase_node(norm)


def scaled_by(graph: fx.GraphModule, before: fx.Node, source: fx.Node, scale: Tensor) -> fx.Node:
    """A map times a number for each channel."""
    path = next((path for path, _ in reversed((before.meta.get("nn_module_stack") or {}).values()) if path), "")
    return _depthwise(graph, before, source, Affine(scale, torch.zeros_like(scale), path))


def _scaling_of(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, Affine] | None:
    """The input of a product or sum with a constant, and its affine map; None for other nodes and constants."""
    first, second = (*node.args, -1.0)[:2]  # of a negation
    values = [_vector(graph, node, one) for one in (first, second)]
    if (values[0] is None) == (values[1] is None) or (node.target is aten.div.Tensor and values[1] is None):
        return None
    source: Any = first if values[0] is None else second
    value = values[1] if values[0] is None else values[0]
    assert value is not None
    scale, shift = _scale_and_shift(node.target, value, is_first=values[0] is not None)
    path = next((path for path, _ in reversed((node.meta.get("nn_module_stack") or {}).values()) if path), "")
    return source, Affine(scale, shift, path)


def _scale_and_shift(target: object, value: Tensor, is_first: bool) -> tuple[Tensor, Tensor]:
    """An operation on x and a constant, expressed as scale * x + shift."""
    one, nothing = torch.ones_like(value), torch.zeros_like(value)
    match target:
        case aten.add.Tensor:
            return one, value
        case aten.sub.Tensor | aten.rsub.Scalar:
            return (-one, value) if is_first or target is aten.rsub.Scalar else (one, -value)
        case aten.div.Tensor:
            return one / value, nothing
        case _:
            return value, nothing


def _vector(graph: fx.GraphModule, node: fx.Node, given: object) -> Tensor | None:
    """A constant operand of a node as one value per channel of its result (C,); None if it is not of that form."""
    result = node.meta["val"]
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.ndim < 2:
        return None
    sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
    axis = _channel_axis(sources[0]) if sources else 1
    channels = result.shape[axis]
    if any(source.meta["val"].shape != result.shape or source.meta["val"].dtype != result.dtype for source in sources):
        return None
    value = torch.tensor(float(given)) if isinstance(given, int | float) else constant_of(graph, given)
    if value is None or not isinstance(channels, int) or value.ndim > result.ndim:
        return None
    shape = (*[1] * (result.ndim - value.ndim), *value.shape)
    if any(size != 1 for place, size in enumerate(shape) if place != axis % result.ndim):
        return None
    return value.float().flatten().expand(channels).clone()


def _channel_axis(layer: fx.Node) -> int:
    return -1 if layer.target is aten.linear.default else 1


def _result_of(norm: fx.Node) -> fx.Node:
    """The node of a norm's values: a native norm gives them as the first of three."""
    if norm.target is not NATIVE:
        return norm
    return next(user for user in norm.users if user.target is operator.getitem and user.args[1] == 0)


def _affine_of(graph: fx.GraphModule, norm: fx.Node) -> Affine | None:
    """What a norm computes; None where it takes its statistics from the batch."""
    arguments: Any = norm.args
    values = [constant_of(graph, one) for one in arguments[1:5]]
    weight, bias, mean, variance = values
    uses_batch = norm.target is not NATIVE and arguments[5]
    if mean is None or variance is None or uses_batch:
        return None
    epsilon = arguments[6] if norm.target is NATIVE else arguments[7]
    inverse = torch.rsqrt(variance + epsilon)
    scale = inverse if weight is None else weight * inverse
    shift = -mean * scale if bias is None else bias - mean * scale
    return Affine(scale, shift, layer_of(arguments[3]))


def _written_out(graph: fx.GraphModule, norm: fx.Node) -> fx.Node:
    """A norm that uses batch statistics, decomposed into float32 operations."""
    source, weight, bias, *_, epsilon, _ = norm.args
    axes = [axis for axis in range(source.meta["val"].ndim) if axis != 1]  # type: ignore[union-attr]
    shape = [-1, *[1] * (len(axes) - 1)]

    def call(operation: Any, *arguments: Any) -> fx.Node:
        made = graph.graph.call_function(operation, arguments)
        made.meta = {**norm.meta, FLOAT: True}
        return made

    with graph.graph.inserting_before(norm):
        centred = call(aten.sub.Tensor, source, call(aten.mean.dim, source, axes, True))
        variance = call(aten.mean.dim, call(aten.mul.Tensor, centred, centred), axes, True)
        result = call(aten.mul.Tensor, centred, call(aten.rsqrt.default, call(aten.add.Tensor, variance, epsilon)))
        for operation, values in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
            if values is not None:
                result = call(operation, result, call(aten.view.default, values, shape))
    return result


def _is_foldable(graph: fx.GraphModule, layer: fx.Node, reader: fx.Node) -> bool:
    """Whether a channel scaling can be folded into a layer: it is the only consumer, and the weights are not shared.

    A norm's channels lie on axis 1, those of a linear layer's result on the last.
    """
    if layer.target not in FOLDABLE or list(layer.users) != [reader]:
        return False
    is_row = layer.meta["val"].ndim == 2
    return (layer.target is not aten.linear.default or is_row or reader.target not in NORMS) and _owns(graph, layer)


def _owns(graph: fx.GraphModule, layer: fx.Node) -> bool:
    stored = [one for one in layer.args[1:3] if isinstance(one, fx.Node)]
    names = {str(one.target) for one in stored if constant_of(graph, one) is not None}
    readers = {user for node in graph.graph.nodes if str(node.target) in names for user in node.users}
    return len(names) == len(stored) and readers == {layer}


def _is_read_by_linear_layers(graph: fx.GraphModule, norm: fx.Node) -> bool:
    return bool(norm.users) and all(
        user.target is aten.linear.default and user.args[0] is norm and _owns(graph, user) for user in norm.users
    )


def _fold_back(graph: fx.GraphModule, layer: fx.Node, affine: Affine) -> None:
    """Rewrites the layer to compute scale * (w x + b) + shift."""
    arguments: Any = layer.args
    weight = constant_of(graph, arguments[1])
    assert weight is not None
    if layer.target in TRANSPOSED:  # (I, O / groups, ...)
        groups = groups_of(layer)
        scale = affine.scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))
        folded = (weight.view(groups, -1, *weight.shape[1:]) * scale).view(weight.shape)
    else:
        folded = weight * affine.scale.view(-1, *[1] * (weight.ndim - 1))
    replace_constant(graph, arguments[1], folded)
    _change_bias(graph, layer, affine.shift, lambda bias: bias * affine.scale + affine.shift)


def _fold_forward(graph: fx.GraphModule, layer: fx.Node, affine: Affine) -> None:
    """Rewrites the linear layer to take x as its input in place of scale * x + shift."""
    arguments: Any = layer.args
    weight = constant_of(graph, arguments[1])
    assert weight is not None
    moved = weight @ affine.shift
    replace_constant(graph, arguments[1], weight * affine.scale)
    _change_bias(graph, layer, moved, lambda bias: bias + moved)


def _change_bias(graph: fx.GraphModule, layer: fx.Node, without: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    arguments: Any = [*layer.args, None][: max(3, len(layer.args))]
    bias = constant_of(graph, arguments[2])
    if bias is not None:
        replace_constant(graph, arguments[2], change(bias))
        return
    made = new_weight(graph, f"{arguments[1].target}_bias", without, before=layer)
    layer.args = (*arguments[:2], made, *arguments[3:])


def _depthwise(graph: fx.GraphModule, norm: fx.Node, source: fx.Node, affine: Affine) -> fx.Node:
    """The norm as a depthwise convolution (one group per channel) with a kernel of size one."""
    channels, value = len(affine.scale), source.meta["val"]
    is_row = value.ndim == 2
    operation = DEPTHWISE[3 if is_row else value.ndim]
    positions = [1] * (1 if is_row else value.ndim - 2)
    prefix = f"{affine.path}." if affine.path else ""
    weight = new_weight(graph, f"{prefix}scale", affine.scale.view(channels, 1, *positions), before=norm)
    bias = new_weight(graph, f"{prefix}shift", affine.shift, before=norm)
    with graph.graph.inserting_before(norm):
        call = graph.graph.call_function
        read = call(aten.unsqueeze.default, (source, -1)) if is_row else source
        options = (positions, [0] * len(positions), positions, channels)
        made = result = call(operation, (read, weight, bias, *options))
        if is_row:
            read.meta, made.meta = ({**norm.meta, "val": value.unsqueeze(-1)} for _ in range(2))
            result = call(aten.squeeze.dim, (made, -1))
    result.meta = {**norm.meta, STANDS_FOR: norm.meta.get(STANDS_FOR, norm.name)}
    return result
