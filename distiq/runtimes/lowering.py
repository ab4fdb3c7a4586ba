"""Rewrites of the reference graph for the runtimes, which change no value; and its quantization parameters.

The reference graph holds integer weights, and quantize / dequantize pairs at its activations.
"""

import copy
import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from distiq.models.attention import write_out_attention
from distiq.models.layout import make_contiguous
from distiq.numerics import SMALLEST_SCALE
from distiq.runtimes.runtime import QuantizationParameters, Weight

aten = torch.ops.aten
QUANTIZE, DEQUANTIZE = "quantize_per_tensor.default", "dequantize_per_tensor.default"
WEIGHT_DEQUANTIZE = "dequantize_per_channel.default"
SHIFT = 128  # from int8 to uint8
LEVELS = 256
RANGE_COLUMNS = 2
"""Columns beside the input of a linear layer: see `with_float_outputs`."""
FEWEST_WIDENED = 2**14
"""Weights of a linear layer from which on products of integers are worth the operations around them."""
VANISHING = 1e-30
"""Times a value it is nothing beside a limit of the range; a zero would make the converter fold it."""
ACTIVATIONS = {
    aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default, aten.hardtanh_.default,
    aten.clamp.default, aten.clamp_min.default,
}  # fmt: skip

MOVING = {
    aten.view.default, aten.reshape.default, aten.transpose.int, aten.permute.default, aten.contiguous.default,
    aten.unsqueeze.default,
}  # fmt: skip

AS_MAPS: dict[Any, Any] = {
    aten.conv1d.default: aten.conv2d.default,
    aten.conv1d.padding: aten.conv2d.padding,
}
CARRYING = {aten.flatten.using_ints, aten.expand.default, aten.slice.Tensor, aten.select.int, aten.squeeze.dim}


def is_operation(node: fx.Node, name: str) -> bool:
    """Whether a node is that operation; the operations are there only once torchao is loaded."""
    return str(node.target) == f"quantized_decomposed.{name}"


def is_quantized(model: nn.Module) -> bool:
    """Whether the model is a reference graph."""
    return isinstance(model, fx.GraphModule) and any(
        is_operation(node, QUANTIZE) or is_operation(node, WEIGHT_DEQUANTIZE) for node in model.graph.nodes
    )


def float_copy(model: nn.Module) -> nn.Module:
    """A float network as converters want it: a copy on the CPU, in eval mode, with standard strides."""
    return make_contiguous(copy.deepcopy(model).cpu().eval())


def with_float_outputs(
    reference: fx.GraphModule, choosing: bool = False, one_sample: bool = False, has_hybrids: bool = True
) -> fx.GraphModule:
    """A copy for runtimes whose only integer kernel with a float32 result quantizes its input itself.

    Such a kernel quantizes each row of a float32 input to a range from its smallest to its largest value. Linear layers
    whose result stays float32 get two extra input columns here, the limits of the input's range in the graph, and two
    columns of zero weights: the kernel then computes the graph's scale, and no product changes. Small ones, and all
    other layers whose result stays float32, hold their weights as float32: the same values, dequantized.

    Args:
        choosing: operations of the graph are to compute scale and zero point, as ExecuTorch's lowering wants it.
        one_sample: the file's batch is fixed, and the columns may become constants.
        has_hybrids: there is such a kernel; if not, such weights are held as float32 whatever their number.
    """
    graph = copy_of_graph(reference)
    _quantize_before_moving(graph)
    widened: dict[tuple[Any, ...], fx.Node] = {}
    for node in list(graph.graph.nodes):
        if not is_operation(node, WEIGHT_DEQUANTIZE) or any(_result_is_quantized(user) for user in node.users):
            continue
        if choosing and all(user.target is aten.embedding.default for user in node.users):
            for reader in list(node.users):
                reader.replace_all_uses_with(_scaled_rows(graph, node, reader))
            continue
        few = not has_hybrids or _attribute(graph, node.args[0]).numel() < FEWEST_WIDENED
        if few or not all(_takes_range(user, node) for user in node.users):
            node.replace_all_uses_with(_new_parameter(graph, node))
            continue
        integers = _attribute(graph, node.args[0])
        wide = _new_buffer(graph, f"{node.name}_wide", F.pad(integers, (0, RANGE_COLUMNS)), node)
        node.replace_input_with(node.args[0], wide)
        for layer in list(node.users):
            source: Any = layer.args[0]
            if source.args not in widened:
                widened[source.args] = _with_range(graph, source, integers.shape[1], choosing, one_sample)
            read = widened[source.args]
            layer.replace_input_with(source, _quantized_by_row(graph, read, source, layer) if choosing else read)
    return _cleaned(graph)


def _quantize_before_moving(graph: fx.GraphModule) -> None:
    """Quantizes layers' results before they are reshaped and transposed, as in attention, not after."""
    for layer in [node for node in graph.graph.nodes if node.target is aten.linear.default]:
        last = layer
        while len(last.users) == 1 and (user := next(iter(last.users))).target in MOVING:
            last = user
        parameters = {user.args[1:] for user in last.users if is_operation(user, QUANTIZE)}
        if last is layer or len(parameters) != 1 or not all(is_operation(user, QUANTIZE) for user in last.users):
            continue
        (one,), (first,) = parameters, layer.users
        with graph.graph.inserting_before(first):
            call, library = graph.graph.call_function, torch.ops.quantized_decomposed
            integers = call(library.quantize_per_tensor.default, (layer, *one))
            first.replace_input_with(layer, call(library.dequantize_per_tensor.default, (integers, *one)))


def _scaled_rows(graph: fx.GraphModule, table: fx.Node, reader: fx.Node) -> fx.Node:
    """What an embedding reads of a dequantized table, of its integers and scales."""
    integers, scales = (_attribute(graph, node) for node in table.all_input_nodes[:2])
    held = _new_buffer(graph, f"{table.name}_rows", integers, reader)
    factors = _new_buffer(graph, f"{table.name}_scales", scales.unsqueeze(1), reader)
    with graph.graph.inserting_before(reader):
        call = graph.graph.call_function
        rows, scale = (call(aten.embedding.default, (one, reader.args[1])) for one in (held, factors))
        return call(aten.mul.Tensor, (call(aten._to_copy.default, (rows,), {"dtype": torch.float32}), scale))


def _takes_range(layer: fx.Node, weight: fx.Node) -> bool:
    """Whether it is a linear layer with an input of 8 bits and a scale for each of its outputs."""
    if layer.target is not aten.linear.default or layer.args[1] is not weight or weight.args[3] != 0:
        return False
    source: Any = layer.args[0]
    return is_operation(source, DEQUANTIZE) and source.args[4] - source.args[3] == LEVELS - 1


def _with_range(graph: fx.GraphModule, source: fx.Node, width: int, choosing: bool, one_sample: bool) -> fx.Node:
    """(..., width + RANGE_COLUMNS): the values of a dequantize node, then the limits of their range.

    They are concatenated as integers: adding them in float32 would be a pass over four times as many bytes. Only for
    ExecuTorch are they added, to padded integers, since its partitioner finds a cycle in the other form.
    """
    arguments: Any = source.args
    integers, scale, zero_point, low, high, _ = arguments
    before, parameters, library = integers.next, arguments[1:], torch.ops.quantized_decomposed
    quantize, dequantize = library.quantize_per_tensor.default, library.dequantize_per_tensor.default
    limits = torch.tensor([(low - zero_point) * scale, (high - zero_point) * scale])
    columns = F.pad(limits, (width, 0)) if choosing else limits
    added = _new_buffer(graph, f"{source.name}_range", columns, before)
    with graph.graph.inserting_before(before):
        call = graph.graph.call_function
        values = call(dequantize, arguments)
        if choosing:
            wider = call(aten.constant_pad_nd.default, (values, [0, RANGE_COLUMNS], 0.0))
            return call(aten.add.Tensor, (call(dequantize, (call(quantize, (wider, *parameters)), *parameters)), added))
        # As constants, the limits would have a fixed batch size.
        some = call(aten.slice.Tensor, (values, -1, 0, RANGE_COLUMNS))
        nothing = call(aten.mul.Tensor, (some, 0.0 if one_sample else VANISHING))
        beside = call(quantize, (call(aten.add.Tensor, (nothing, added)), *parameters))
        both = call(aten.cat.default, ([values, call(dequantize, (beside, *parameters))], -1))
        return call(dequantize, (call(quantize, (both, *parameters)), *parameters))


def _quantized_by_row(graph: fx.GraphModule, values: fx.Node, source: fx.Node, reader: fx.Node) -> fx.Node:
    """The values, quantized from their smallest to their largest; each layer has its own pair, which XNNPACK wants."""
    arguments: Any = source.args
    low, high, kind = arguments[3:6]
    with graph.graph.inserting_before(reader):
        call, library = graph.graph.call_function, torch.ops.quantized_decomposed
        chosen = call(library.choose_qparams.tensor, (values, low, high, SMALLEST_SCALE, kind))
        parameters = [call(operator.getitem, (chosen, number)) for number in range(2)]
        integers = call(library.quantize_per_tensor.tensor, (values, *parameters, low, high, kind))
        return call(library.dequantize_per_tensor.tensor, (integers, *parameters, low, high, kind))


def with_plain_attention(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy with attention as products and a softmax, so that no converter can move its scaling into the weights."""
    graph = copy_of_graph(reference)
    write_out_attention(graph)
    return _cleaned(graph)


def with_float_joints(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy in which quantized values and others are joined in float32, and given as outputs, as the graph does it.

    LiteRT's converter would quantize the others with the same scale, such as a transformer's class token with that of
    the patches, and clip what lies beyond; and it would return an output quantized if another node reads it quantized.
    It does not look through an addition, so a vanishingly small number is added here.
    """
    graph = copy_of_graph(reference)
    last = graph.graph.output_node()
    for one in last.all_input_nodes:
        if any(is_operation(user, QUANTIZE) for user in one.users):
            with graph.graph.inserting_before(last):
                last.replace_input_with(one, graph.graph.call_function(aten.add.Tensor, (one, VANISHING)))
    for node in list(graph.graph.nodes):
        arguments: Any = node.args
        read = {aten.cat.default: arguments[:1], aten.where.self: arguments[1:]}.get(node.target, ())  # type: ignore[call-overload]
        scales = {one: _scale_of(one) for one in pytree.tree_leaves(read) if isinstance(one, fx.Node)}
        if len(set(scales.values())) < 2:
            continue
        for one in (one for one, scale in scales.items() if scale is not None):
            with graph.graph.inserting_before(node):
                node.replace_input_with(one, graph.graph.call_function(aten.add.Tensor, (one, VANISHING)))
    return _cleaned(graph)


def _scale_of(node: fx.Node) -> tuple[Any, ...] | None:
    """Scale and zero point of the values of a node that gives dequantized ones, moved or not."""
    while node.target in MOVING | CARRYING:
        node = node.args[0]  # type: ignore[assignment]
    return node.args[1:3] if is_operation(node, DEQUANTIZE) else None


def without_idle_clips(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy without clamps whose result is quantized to a range with the same limits: quantizing clamps."""
    graph = copy_of_graph(reference)
    for node in list(graph.graph.nodes):
        if node.target is aten.clamp.default and node.users and all(_saturates(node, user) for user in node.users):
            node.replace_all_uses_with(node.all_input_nodes[0])
    return _cleaned(graph)


def _saturates(clamp: fx.Node, user: fx.Node) -> bool:
    """Whether a clamp's limits are the smallest and the largest integer of its quantized result, or beyond them."""
    if not is_operation(user, QUANTIZE):
        return False
    arguments: Any = user.args
    _, scale, zero_point, smallest, largest, _ = arguments
    limits: Any = (*clamp.args[1:], None, None)
    low, high = limits[:2]
    return (low is None or round(low / scale) + zero_point <= smallest) and (
        high is None or round(high / scale) + zero_point >= largest
    )


def with_float_weights(reference: fx.GraphModule, computes_in_float: Callable[[fx.Node], bool]) -> fx.GraphModule:
    """A copy in which such layers hold their weights as float32: the same values, dequantized."""
    graph = copy_of_graph(reference)
    for node in list(graph.graph.nodes):
        weight: Any = node.args[1] if computes_in_float(node) else None
        if weight is not None and is_operation(weight, WEIGHT_DEQUANTIZE):
            node.replace_input_with(weight, _new_parameter(graph, weight))
    return _cleaned(graph)


def with_hard_tanh(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy in which a clamp of two limits is hardtanh: under this name alone XNNPACK fuses it with a layer."""
    graph = copy_of_graph(reference)
    for node in graph.graph.nodes:
        if node.target is aten.clamp.default and len(node.args) == 3 and None not in node.args:
            node.target = aten.hardtanh.default
    return _cleaned(graph)


def with_float_rows_as_maps(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy in which 1-D convolutions with float32 weights and a bias are 2-D ones, of maps of one column.

    ExecuTorch's own lowering of 1-D ones would quantize their input, which XNNPACK refuses beside float32 weights.
    """
    graph = copy_of_graph(reference)
    for node in list(graph.graph.nodes):
        given: Any = node.args
        if node.target not in AS_MAPS or given[1].op != "get_attr":
            continue
        source, weight, *rest = given
        settings: list[Any] = [*rest, *(None, [1], [0], [1])[len(rest) :]]
        bias, stride, padding, dilation, *groups = settings
        sizes = [*stride, 1], padding if isinstance(padding, str) else [*padding, 0], [*dilation, 1], *groups
        value = _attribute(graph, weight).unsqueeze(-1)
        kernel = _held(graph, f"{node.name}_kernel", value, node)
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            column = call(aten.unsqueeze.default, (source, -1))
            layer = call(AS_MAPS[node.target], (column, kernel, bias, *sizes))
            result = call(aten.squeeze.dim, (layer, -1))
        node.replace_all_uses_with(result)
    return _cleaned(graph)


def with_weight_pairs(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy in which integer weights and stored constants are float32 behind a quantize / dequantize pair."""
    graph = copy_of_graph(reference)
    library = torch.ops.quantized_decomposed
    for node in list(graph.graph.nodes):
        source: Any = node.args[0] if node.args else None
        if is_operation(node, WEIGHT_DEQUANTIZE):
            quantize = library.quantize_per_channel.default
        elif is_operation(node, DEQUANTIZE) and source.op == "get_attr":
            quantize = library.quantize_per_tensor.default
        else:
            continue
        value = _new_parameter(graph, node)
        with graph.graph.inserting_before(node):
            integers = graph.graph.call_function(quantize, (value, *node.args[1:]))
        node.replace_input_with(node.args[0], integers)
    return _cleaned(graph)


def with_unsigned_activations(reference: fx.GraphModule) -> fx.GraphModule:
    """A copy in which int8 activations are uint8, their zero points moved by 128: the same values."""
    graph = copy_of_graph(reference)
    for node in graph.graph.nodes:
        if is_operation(node, QUANTIZE) or is_operation(node, DEQUANTIZE):
            value, scale, zero_point, low, high, _ = node.args
            node.args = (value, scale, zero_point + SHIFT, low + SHIFT, high + SHIFT, torch.uint8)
    return _cleaned(graph)


def qparams_of(reference: fx.GraphModule) -> QuantizationParameters:
    """The integers, scales and zero points of the reference graph."""
    weights, constants, activations = [], [], set()
    for node in reference.graph.nodes:
        arguments: Any = node.args
        if is_operation(node, WEIGHT_DEQUANTIZE):
            integers, scales = (_attribute(reference, argument).numpy() for argument in arguments[:2])
            weights.append(Weight(np.moveaxis(integers, arguments[3], 0), scales))
        elif is_operation(node, QUANTIZE):
            activations.add((float(np.float32(arguments[1])), arguments[2]))
            if is_fixed(arguments[0]):
                constants.append(Weight(_value_of(reference, node).numpy(), np.array(arguments[1], np.float32)))
        elif is_operation(node, DEQUANTIZE) and arguments[0].op == "get_attr":
            scale = np.array(arguments[1], np.float32)
            activations.add((float(scale), arguments[2]))
            constants.append(Weight(_attribute(reference, arguments[0]).numpy(), scale))
    return QuantizationParameters(tuple(weights), (), frozenset(activations), constants=tuple(constants))


def is_fixed(node: fx.Node) -> bool:
    """Whether a node is stored, or computed of what is, without being quantized."""
    is_computing = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    if not is_computing or is_operation(node, DEQUANTIZE) or is_operation(node, WEIGHT_DEQUANTIZE):
        return node.op == "get_attr"
    return node.target is not aten.sym_size.int and all(map(is_fixed, node.all_input_nodes))


def _value_of(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """What a node gives that no input changes."""
    if node.op == "get_attr":
        return _attribute(graph, node)
    arguments, named = fx.map_arg((node.args, dict(node.kwargs)), lambda source: _value_of(graph, source))  # type: ignore[misc]
    return node.target(*arguments, **named)  # type: ignore[operator]


def _attribute(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    return operator.attrgetter(str(node.target))(graph)


def copy_of_graph(reference: fx.GraphModule) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own classes, as they are copied
        return copy.deepcopy(reference)


def _result_is_quantized(node: fx.Node) -> bool:
    users = list(node.users)
    if len(users) == 1 and users[0].target in ACTIVATIONS:
        users = list(users[0].users)
    return bool(users) and all(is_operation(user, QUANTIZE) for user in users)


def _new_buffer(graph: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(name)


def _new_parameter(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """A node before a dequantize node of weights that gives the same values, as a float32 parameter."""
    arguments = [_attribute(graph, entry) if isinstance(entry, fx.Node) else entry for entry in node.args]
    target: Any = node.target
    return _held(graph, f"{node.name}_float", target(*arguments, **node.kwargs), node)


def _held(graph: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    graph.register_parameter(name, nn.Parameter(value, requires_grad=False))
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(name)


def _cleaned(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph without unused values: Inductor of torch 2.13 would mistake an unused weight for one it has packed."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in {name for name, _ in (*graph.named_parameters(), *graph.named_buffers())} - read:
        owner, _, attribute = name.rpartition(".")
        delattr(graph.get_submodule(owner), attribute)
    graph.recompile()
    return graph
