"""An exported graph in one form, whatever the network's code looks like: the same function, in fewer kinds of nodes.

Nothing is changed in place, a weight that depends on no input is stored, every layer has its own weights, and no batch
norm is left.
"""

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.models.slices import cut_by_slices
from distiq.quantization.affine import FOLDABLE, NORMS, fold_constants, fold_norms, scaled_by
from distiq.quantization.guard import STANDS_FOR
from distiq.quantization.operations import GATE, GATED, GATES, aten
from distiq.quantization.regions import among_norms, constant_nodes, feature_maps, is_float_tensor
from distiq.quantization.weights import constant_of, drop_unread, new_weight

WRITING = {aten.slice_scatter.default, aten.select_scatter.default}
MOST_COPIES = 4  # of a shared weight: in int8, four copies are as large as the one in float32
PASSING = {aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.alpha_dropout.default,
           aten.detach.default, aten.detach_.default, aten.alias.default, aten.clone.default}  # fmt: skip


def canonicalize(graph: fx.GraphModule) -> None:
    """Brings an exported graph of a network in eval mode into that form, in place."""
    _without_effects(graph)
    _drop_passing(graph)
    _cut_by_slices(graph)
    _join_slices(graph)
    _keep_pooled_axes(graph)
    _open_gates(graph)
    _open_functions(graph)
    _write_linears(graph)
    _store_weights(graph)
    _separate_weights(graph)
    fold_norms(graph)
    fold_constants(graph)
    drop_unread(graph)
    graph.graph.lint()
    graph.recompile()


def changes_views(graph: fx.GraphModule) -> bool:
    """Whether a tensor is changed in place through a view of it, which `canonicalize` cannot make functional."""
    for node in graph.graph.nodes:
        if _is_mutating(node):
            source: Any = node.args[0]
            if _functional(node) is None or not isinstance(source, fx.Node) or _is_view(source):
                return True
    return False


def _is_mutating(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_view(node: fx.Node) -> bool:
    """Whether a node's value shares memory with a value that something else reads, too."""
    schema = node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None
    shares = schema is not None and not schema.is_mutable and any(one.alias_info for one in schema.arguments)
    return shares and any(len(source.users) > 1 or _is_view(source) for source in node.all_input_nodes)


def _functional(node: fx.Node) -> Any:
    """The functional counterpart of an in-place operation, such as relu for relu_; None where there is none."""
    target: Any = node.target
    name, overload = target._schema.name.partition("::")[2], target._overloadname
    if not name.endswith("_") or target.namespace != "aten":
        return None
    return getattr(getattr(aten, name.rstrip("_"), None), overload, None)


def _without_effects(graph: fx.GraphModule) -> None:
    """Makes in-place operations functional; in the trace, later consumers already read the operation's result."""
    for node in graph.graph.nodes:
        if _is_mutating(node) and (operation := _functional(node)) is not None:
            node.target = operation


def _drop_passing(graph: fx.GraphModule) -> None:
    """Removes operations that return their input unchanged, such as dropout in eval mode.

    A view becomes a reshape: it may have needed the copy that has been removed. Empty operands of concatenations are
    dropped, such as the unused caches of networks that can generate text.
    """
    for node in list(graph.graph.nodes):
        is_random = "dropout" in str(node.target) and node.args[2:3] != (False,)
        if node.target in PASSING and not is_random:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten.view.default:
            node.target = aten.reshape.default
        elif node.target is aten.cat.default:
            full = [part for part in node.args[0] if not _is_empty(part)]  # type: ignore[union-attr]
            if len(full) == 1:
                node.replace_all_uses_with(full[0])
                graph.graph.erase_node(node)
            elif full:
                node.args = (full, *node.args[1:])


def _is_empty(node: fx.Node) -> bool:
    return any(isinstance(size, int) and size == 0 for size in node.meta["val"].shape)


def _call(graph: fx.GraphModule, instead_of: fx.Node, operation: Any, *arguments: Any) -> fx.Node:
    """Inserts a node of the same module before another; its shape is found by running the operation."""
    with graph.graph.inserting_before(instead_of):
        made = graph.graph.call_function(operation, arguments)
    value = operation(*fx.map_arg(arguments, lambda node: node.meta["val"]))  # type: ignore[misc]
    made.meta = {**{name: about for name, about in instead_of.meta.items() if name != STANDS_FOR}, "val": value}
    return made


def _replace(graph: fx.GraphModule, node: fx.Node, result: fx.Node) -> None:
    result.meta[STANDS_FOR] = node.name
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


def _cut_by_slices(graph: fx.GraphModule) -> None:
    """Replaces chunks and splits by slices; in float32 they stay, which keeps the files short."""
    for piece, part in cut_by_slices(graph.graph, among_norms(graph)).items():
        piece.meta[STANDS_FOR] = part


def _join_slices(graph: fx.GraphModule) -> None:
    """Replaces writes to a part of a tensor, such as `x[:, :2] = y`, by concatenation, which has integer kernels."""
    for node in list(graph.graph.nodes):
        if node.target not in WRITING:
            continue
        whole: Any = node.args[0]
        axis = (node.args[2] if len(node.args) > 2 else 0) % whole.meta["val"].ndim  # type: ignore[operator]
        size = whole.meta["val"].shape[axis]
        if (written := _written_range(node, size)) is None:
            continue
        part = node.args[1]
        if node.target is aten.select_scatter.default:
            part = _call(graph, node, aten.unsqueeze.default, part, axis)
        before, after = (
            [_call(graph, node, aten.slice.Tensor, whole, axis, *bounds)] if bounds[0] < bounds[1] else []
            for bounds in ((0, written.start), (written.stop, size))
        )
        _replace(graph, node, _call(graph, node, aten.cat.default, [*before, part, *after], axis))


def _written_range(node: fx.Node, size: Any) -> range | None:
    """The positions along an axis that are written; None if they are not contiguous, or the axis is the batch."""
    if not isinstance(size, int):
        return None
    where: Any = node.args[3:]
    if node.target is aten.select_scatter.default:
        return range(where[0] % size, where[0] % size + 1)
    places = range(size)[slice(*(*where, None, None)[:2])]
    return places if places and where[2:] in ((), (1,)) else None


def _keep_pooled_axes(graph: fx.GraphModule) -> None:
    """A mean over height and width is pooling, whether or not it keeps these axes."""
    maps = feature_maps(graph)
    for node in list(graph.graph.nodes):
        source: Any = node.args[0] if node.target is aten.mean.dim else None
        if source not in maps or node.kwargs or (len(node.args) > 2 and node.args[2]):
            continue
        axes = sorted(axis % source.meta["val"].ndim for axis in node.args[1])  # type: ignore[union-attr]
        if axes == list(range(2, source.meta["val"].ndim)):
            pooled = _call(graph, node, aten.mean.dim, source, axes, True)
            _replace(graph, node, _call(graph, node, aten.flatten.using_ints, pooled, 1))


def _open_gates(graph: fx.GraphModule) -> None:
    """Writes SiLU and hard-swish as x * gate(x), which integer kernels have: a quantized gate, and the product."""
    for node in list(graph.graph.nodes):
        if node.target in GATES:
            operation, whole = GATES[node.target]
            gate = _call(graph, node, operation, node.args[0])
            product = _call(graph, node, aten.mul.Tensor, node.args[0], gate)
            gate.meta[GATE], product.meta[GATED] = True, whole
            _replace(graph, node, product)


def _open_functions(graph: fx.GraphModule) -> None:
    """Writes hard-sigmoid as clamp(x / 6 + 1 / 2, 0, 1) and PReLU as w x + (1 - w) relu(x), which have integer kernels.

    A PReLU whose slopes are all equal, as before training, becomes leaky ReLU. Scaling per channel is a convolution
    with a kernel of size one, which only rows and feature maps have; other values keep these functions.
    """
    maps, has_norms = feature_maps(graph), bool(among_norms(graph))
    for node in list(graph.graph.nodes):
        source: Any = node.args[0] if node.args else None
        is_row = isinstance(source, fx.Node) and is_float_tensor(source) and source.meta["val"].ndim == 2
        able = source in maps or (is_row and not has_norms)
        if node.target is aten.hardsigmoid.default and able:
            scaled = _call(graph, node, aten.mul.Tensor, source, 1 / 6)
            moved = _call(graph, node, aten.add.Tensor, scaled, 0.5)
            _replace(graph, node, _call(graph, node, aten.clamp.default, moved, 0.0, 1.0))
        elif node.target is aten.rrelu.default:  # in eval mode its slope is the mean of the two bounds
            low: Any = node.args[1] if len(node.args) > 1 else 1 / 8
            high: Any = node.args[2] if len(node.args) > 2 else 1 / 3
            _replace(graph, node, _call(graph, node, aten.leaky_relu.default, source, (low + high) / 2))
        elif node.target is aten.prelu.default and (slope := constant_of(graph, node.args[1])) is not None:
            if bool((slope == slope.flatten()[0]).all()):
                _replace(graph, node, _call(graph, node, aten.leaky_relu.default, source, float(slope.flatten()[0])))
            elif source in maps:
                positive = _call(graph, node, aten.relu.default, source)
                parts = ((source, slope), (positive, 1 - slope))
                own, rest = (scaled_by(graph, node, *part) for part in parts)
                _replace(graph, node, _call(graph, node, aten.add.Tensor, own, rest))


def _write_linears(graph: fx.GraphModule) -> None:
    """Rewrites every product of a value and a weight, such as those of GPT-2, as a linear layer.

    Otherwise the weights would stay float32. Matrices that a formula gives, such as a mel filterbank, are not
    parameters and do stay float32.
    """
    constants = set(constant_nodes(graph))
    for node in list(graph.graph.nodes):
        arguments: Any = node.args
        if node.target in (aten.matmul.default, aten.mm.default):
            (value, weight), bias = arguments, ()
        elif node.target is aten.addmm.default and not node.kwargs and arguments[0].meta["val"].ndim == 1:
            value, weight, bias = arguments[1], arguments[2], arguments[:1]
        else:
            continue
        is_weight = weight in constants and weight.meta["val"].ndim == 2
        if value in constants or not is_weight or not {*bias} <= constants:
            continue
        if any(_is_parameter(graph, source) for source in _sources_of(weight)):
            turned = _call(graph, node, aten.permute.default, weight, [1, 0])
            _replace(graph, node, _call(graph, node, aten.linear.default, value, turned, *bias))


def _is_parameter(graph: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(operator.attrgetter(str(node.target))(graph), nn.Parameter)


def _store_weights(graph: fx.GraphModule) -> None:
    """Computes layer weights that do not depend on the input once and stores them: weight norm, a blur's kernel.

    Weights computed from a few numbers, such as an audio front-end's Fourier basis, stay a formula: stored, they would
    be larger than the rest of the network.
    """
    for node in list(graph.graph.nodes):
        for argument in _weights_of(node):
            sources = _sources_of(argument)
            if argument.op != "call_function" or not all(map(_is_fixed, sources)):
                continue
            value, read = _computed(graph, argument), sum(_size(graph, source) for source in sources)
            is_repeated = torch.equal(value, value[:1].expand_as(value))
            if value.numel() <= read or is_repeated:
                stack: Any = node.meta.get("nn_module_stack") or {}
                path = next((path for path, _ in reversed(stack.values()) if path), "")
                stored = new_weight(graph, f"{path}.weight" if path else "weight", value, before=node)
                node.replace_input_with(argument, stored)
    graph.graph.eliminate_dead_code()


def _weights_of(node: fx.Node) -> list[fx.Node]:
    """What a layer or a norm reads beside its input."""
    read = node.args[1:3] if node.target in FOLDABLE else node.args[1:5] if node.target in NORMS else ()
    return [argument for argument in read if isinstance(argument, fx.Node)]


def _sources_of(node: fx.Node) -> set[fx.Node]:
    """A node and all nodes that it is computed from."""
    sources, waiting = {node}, [node]
    while waiting:
        new = set(waiting.pop().all_input_nodes) - sources
        sources |= new
        waiting += new
    return sources


def _is_fixed(node: fx.Node) -> bool:
    """Whether a node is no input of the network and draws no random numbers."""
    target = node.target
    is_random = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
    return node.op in ("get_attr", "call_function") and not is_random


def _size(graph: fx.GraphModule, node: fx.Node) -> int:
    value = constant_of(graph, node)
    return 0 if value is None else math.prod(int(size) for size in value.shape)


@torch.no_grad()
def _computed(graph: fx.GraphModule, node: fx.Node) -> Any:
    if node.op == "get_attr":
        return constant_of(graph, node)
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda source: _computed(graph, source))  # type: ignore[misc]
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _separate_weights(graph: fx.GraphModule) -> None:
    """Gives every layer its own copy of the weights that others read, too, unless that would be too many copies."""
    readers: dict[int, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        for source in node.all_input_nodes:
            if (value := constant_of(graph, source)) is not None:
                readers.setdefault(_identity(value), []).append(node)
    for node in list(graph.graph.nodes):
        for source in _weights_of(node) if node.target in FOLDABLE else ():
            value = constant_of(graph, source)
            if value is None:
                continue
            together = readers[_identity(value)]
            if 1 < len(together) <= MOST_COPIES and together[0] is not node:
                node.replace_input_with(source, new_weight(graph, str(source.target), value, before=node))


def _identity(value: Tensor) -> int:
    return value.data_ptr()
