"""lowered_to_c(): an exported graph, float32 or the reference graph of a quantized network, as a `Program`."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from distiq.errors import UserError
from distiq.models.signature import AffineParameters
from distiq.runtimes.c99_frontend import find_log_mel, log_mel
from distiq.runtimes.c99_layers import (
    Quantized,
    Shape,
    Stored,
    as_float,
    convolution,
    kind_between,
    limits,
    linear,
    operation_name,
    pair,
    quantized_into,
)
from distiq.runtimes.c99_operations import (
    BINARY,
    UNARY,
    binary,
    float_unary,
    joined,
    padded,
    product,
    requantized,
    softmax,
    table,
)
from distiq.runtimes.c99_pools import POOLS
from distiq.runtimes.c99_program import (
    ENDING,
    Program,
    Value,
    channels_last,
    dense,
    in_order,
    move,
    order_of,
    ordered_layout,
    same_layout,
    settled,
)
from distiq.runtimes.lowering import DEQUANTIZE, QUANTIZE, WEIGHT_DEQUANTIZE, is_operation

VIEWS = {"permute", "transpose", "squeeze", "unsqueeze", "expand", "slice", "select", "t", "chunk", "split",
         "split_with_sizes", "narrow", "unbind", "movedim"}  # fmt: skip
RESHAPES = {"view", "reshape", "flatten", "unflatten"}
PASSING = {"dropout", "contiguous", "clone", "alias", "detach", "_to_copy", "to", "feature_dropout"}
CLAMPS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"}
LARGEST_FLOAT = 3.4e38


def lowered_to_c(
    graph: fx.GraphModule, rows: Sequence[Tensor], integer_io: bool, modules: Sequence[str] = ()
) -> Program:
    """The graph as C calls.

    Args:
        rows: its inputs, of which shapes and types alone are read.
        modules: paths of modules that steps carry in their names.
        integer_io: inputs and outputs are integers as the graph quantizes them.

    Raises:
        UserError: an operation has no kernel in C, or an input is not of float32.
    """
    lowering = Lowering(graph, integer_io)
    inputs = iter(rows)
    for node in graph.graph.nodes:
        if node in lowering.values:
            continue
        match node.op:
            case "placeholder":
                lowering.values[node] = lowering.given(node, next(inputs))
            case "get_attr":
                lowering.values[node] = operator.attrgetter(str(node.target))(graph)
            case "output":
                lowering.finish(node.args[0])
            case _:
                lowering.program.module = _module_of(node, modules)
                lowering.values[node] = lowering.result(node)
    return lowering.program


def _module_of(node: fx.Node, modules: Sequence[str]) -> str:
    """Which of the modules a node belongs to, as a name prefix: "frontend/"."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return next((f"{module}/" for module in modules if module in stack), "")


class Lowering:
    """The values of a graph's nodes so far: in C, constants, numbers."""

    def __init__(self, graph: fx.GraphModule, integer_io: bool) -> None:
        self.graph, self.integer_io, self.program = graph, integer_io, Program()
        self.values: dict[fx.Node, Any] = {}
        self.floats: dict[Value, Value] = {}

    def given(self, node: fx.Node, row: Tensor) -> Value:
        """An input: float32, or int8 where the file takes integers."""
        if not row.is_floating_point():
            kind = str(row.dtype).removeprefix("torch.")
            raise UserError(f"C99: the network takes {kind} as {node.name}; C files take float32 and int8 alone")
        layout = ordered_layout((1, *row.shape[1:]), channels_last(row.ndim))
        into = quantized_into(node) if self.integer_io else None
        value = self.program.new(layout, into.affine if into else None)
        self.program.inputs.append(value)
        return value

    def finish(self, returned: Any) -> None:
        """Outputs lie in buffers of their own."""
        for node in returned if isinstance(returned, tuple | list) else (returned,):
            value = self.values[node]
            if not isinstance(value, Value):
                raise UserError("C99: the network gives a constant; leave that output out")
            value = settled(self.program, value)
            value = value if self.integer_io else as_float(self.program, value)
            used = {one.buffer for one in (*self.program.inputs, *self.program.outputs)}
            covers = order_of(value.layout) is not None and value.layout.numel() == value.buffer.count
            if value.buffer in used or not covers:
                order = order_of(value.layout) or range(value.layout.ndim)
                to = self.program.new(ordered_layout(tuple(value.layout.shape), order), value.affine, value.kind)
                value = move(self.program, value, to, to.layout, "copy")
            self.program.outputs.append(value)

    def result(self, node: fx.Node) -> Any:
        """What a node gives."""
        arguments: Any = fx.map_arg(node.args, self.values.__getitem__)
        named: Any = fx.map_arg(node.kwargs, self.values.__getitem__)
        target: Any = node.target
        if is_operation(node, WEIGHT_DEQUANTIZE):
            integers, scales, _, axis = arguments[:4]
            return Stored(integers.movedim(axis, 0), scales) if axis == 0 else target(*arguments, **named)
        if not _values(arguments):
            return target(*(one.values if isinstance(one, Stored) else one for one in arguments), **named)
        if is_operation(node, QUANTIZE):
            return self.quantized(*arguments)
        if is_operation(node, DEQUANTIZE):
            return arguments[0]
        if target is operator.getitem:
            return arguments[0][arguments[1]]
        return self.operation(node, operation_name(node), arguments, named)

    def quantized(self, value: Value, scale: float, zero_point: int, low: int, high: int, _kind: Any) -> Value:
        affine, kind = AffineParameters(float(scale), int(zero_point)), kind_between(low, high)
        if (value.affine, value.kind) == (affine, kind):
            return value
        if value.affine is not None:
            return requantized(self.program, value, affine, kind)
        value = dense(self.program, value)
        to = self.program.new(same_layout(value), affine, kind)
        fields = {"count": to.buffer.count, "inverse": 1.0 / scale, "scale": (to.buffer, None), "zero": zero_point}
        return self.program.step(f"quantize_{ENDING[kind]}", "distiq_affine", fields, [value], to, "quantize")

    def operation(self, node: fx.Node, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        program, value, into = self.program, arguments[0], quantized_into(node)
        is_integer = isinstance(value, Value) and value.affine is not None
        match name:
            case _ if name in PASSING:
                return value
            case "sym_size":
                return int(value.layout.shape[arguments[1]])
            case _ if name in RESHAPES:
                return self.reshaped(node, value, arguments, named)
            case _ if name in VIEWS:
                return self.viewed(node, value, arguments, named)
            case "conv1d" if (front_end := find_log_mel(node, arguments[1], self.values)) is not None:
                features = log_mel(program, value, front_end, pair((*arguments[3:], 1)[0], 1, 1)[1])
                self.values |= dict.fromkeys(front_end.nodes, features)
                return features
            case "conv1d" | "conv2d":
                return self.fused(into, self.convolution(node, arguments, into))
            case "linear":
                weights, bias = arguments[1], (*arguments[2:], named.get("bias"))[0]
                return self.fused(into, linear(program, value, weights, bias, into))
            case "cat":
                return joined(program, arguments[0], (*arguments[1:], 0)[0], into)
            case "pad" | "constant_pad_nd":
                return padded(program, value, arguments[1], _filling(node, name, arguments, named))
            case "softmax" | "_softmax" | "log_softmax" | "_log_softmax":
                return softmax(program, as_float(program, value), arguments[1], "log" in name)
            case "matmul" | "bmm":
                return product(program, arguments[0], arguments[1])
            case "batch_norm":
                return self.normalized(value, arguments)
            case _ if name in POOLS:
                pooled = POOLS[name](program, node, value, arguments, named, into)
                return pooled if "max" in name else self.fused(into, pooled)
            case _ if name in BINARY and _is_pair(arguments):
                return self.fused(into, binary(program, name, arguments, into))
            case _ if name in CLAMPS | UNARY.keys() or name in BINARY:
                if (
                    is_integer
                    and into is not None
                    and value.kind == into.kind == "int8"
                    and _is_of_one(arguments, named)
                ):
                    function = _function(node, named, arguments)
                    return self.fused(into, table(program, value, function, into.affine, into.low, into.high))
                if is_integer and into is not None and name in CLAMPS and into.last is node:
                    return requantized(program, value, into.affine, into.kind, *limits(node))
                if name in CLAMPS:
                    low, high = (min(max(limit, -LARGEST_FLOAT), LARGEST_FLOAT) for limit in limits(node))
                    return float_unary(program, "clamp", value, low, high)
                if name in BINARY:
                    return binary(program, name, arguments, None)
                return float_unary(program, UNARY[name], value, *_slope(name, arguments))
        kind = str(node.target).rpartition(".")[0]
        raise UserError(
            f"C99: the network uses {kind} ({node.name}), for which there is no kernel in C; replace it, or take"
            " another runtime"
        )

    def fused(self, into: Quantized | None, value: Value) -> Value:
        """Records a layer's result as that of the clamp fused into it, too."""
        if into is not None and value.affine is not None:
            self.values[into.last] = value
        return value

    def reshaped(self, node: fx.Node, value: Value, arguments: tuple[Any, ...], named: dict[str, Any]) -> Value:
        target: Any = node.target
        shape = target(torch.empty(value.layout.shape, device="meta"), *arguments[1:], **named)
        value = value.unflattened or value
        try:
            return value._replace(layout=value.layout.view(shape.shape))
        except RuntimeError:
            lies = order_of(value.layout) is not None and value.layout.shape[0] == 1
            if lies and tuple(shape.shape) == (1, value.layout[0].numel()):
                return value._replace(layout=torch.empty(shape.shape, device="meta"), unflattened=value)
        plain = in_order(self.program, value, range(value.layout.ndim))
        return plain._replace(layout=plain.layout.view(shape.shape))

    def viewed(self, node: fx.Node, value: Value, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        value = settled(self.program, value)
        target: Any = node.target
        layouts = target(value.layout, *arguments[1:], **named)
        if isinstance(layouts, Tensor):
            return value._replace(layout=layouts)
        return [value._replace(layout=one) for one in layouts]

    def convolution(self, node: fx.Node, arguments: tuple[Any, ...], into: Quantized | None) -> Value:
        missing: Any = (None, 1, 0, 1, 1)[len(arguments) - 2 :]
        value, weights, bias, stride, pad, dilation, groups = arguments + missing
        axes = value.layout.ndim - 2
        strides, dilations = pair(stride, axes, 1), pair(dilation, axes, 1)
        if isinstance(pad, str):
            shape = (weights.integers if isinstance(weights, Stored) else weights).shape[2:]
            total = [by * (size - 1) for by, size in zip(dilations[2 - axes :], shape, strict=True)]
            if pad == "same" and any(one % 2 for one in total):
                raise UserError(f"C99: {node.name} is padded on one side more than on the other; pad the input instead")
            pad = [one // 2 for one in total] if pad == "same" else 0
        pads = pair(pad, axes, 0)
        return convolution(self.program, value, weights, bias, Shape(strides, pads, dilations, int(groups)), into)

    def normalized(self, value: Value, arguments: tuple[Any, ...]) -> Value:
        _, weight, bias, mean, variance, _, _, epsilon = arguments[:8]
        scale = (variance + epsilon).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        shape = (1, -1, *[1] * (value.layout.ndim - 2))
        scaled = binary(self.program, "mul", (as_float(self.program, value), scale.detach().view(shape)), None)
        return binary(self.program, "add", (scaled, shift.detach().view(shape)), None)


def _filling(node: fx.Node, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> float:
    """The constant that a tensor is padded with."""
    rest: Any = arguments[2:] if name == "pad" else ("constant", *arguments[2:])
    mode, value = rest + ("constant", None)[len(rest) :]
    if mode != "constant":
        raise UserError(f"C99: {node.name} pads by {mode}; there is a kernel for constants alone")
    return float(named.get("value", value) or 0.0)


def _values(arguments: Any) -> list[Value]:
    """The values among arguments and lists of them."""
    if isinstance(arguments, Value):
        return [arguments]
    if isinstance(arguments, tuple | list) and not isinstance(arguments, Stored):
        return [value for one in arguments for value in _values(one)]
    return []


def _is_pair(arguments: tuple[Any, ...]) -> bool:
    return sum(isinstance(one, Value) for one in arguments[:2]) == 2


def _is_of_one(arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether no constant beside a value differs from place to place."""
    return all(one.numel() == 1 for one in (*arguments, *named.values()) if isinstance(one, Tensor))


def _function(node: fx.Node, named: dict[str, Any], arguments: tuple[Any, ...]) -> Callable[[Tensor], Tensor]:
    """A node as a function of one tensor; numbers and single constants beside it stay."""
    target: Any = node.target
    place = next(number for number, one in enumerate(arguments) if isinstance(one, Value))
    return lambda x: target(*(x if number == place else one for number, one in enumerate(arguments)), **named)


def _slope(name: str, arguments: tuple[Any, ...]) -> tuple[float, float]:
    return (float((*arguments[1:], 0.01)[0]), 0.0) if name == "leaky_relu" else (0.0, 0.0)
