"""The operations between a graph's layers as C calls: sums and products, functions of one value, joints, padding."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.models.signature import AffineParameters
from distiq.runtimes.c99_layers import LEAST_SHIFT, Quantized, as_float, fixed, integer_at, linear
from distiq.runtimes.c99_program import (
    BOUNDS,
    ENDING,
    Q31,
    Kind,
    Program,
    Value,
    dense,
    in_order,
    move,
    order_of,
    ordered_layout,
    same_layout,
    settled,
)

BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "rsub": "sub"}
UNARY = {
    "leaky_relu": "leaky", "sigmoid": "sigmoid", "silu": "silu", "tanh": "tanh", "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish", "exp": "exp", "log": "log", "neg": "neg",
}  # fmt: skip


def table(
    program: Program, value: Value, function: Callable[[Tensor], Tensor], affine: AffineParameters,
    low: int, high: int,
) -> Value:  # fmt: skip
    """A unary function as a table from int8 to int8, filled with the graph's own result for each integer."""
    given, value = value.affine, dense(program, value)
    assert given is not None
    smallest, largest = BOUNDS["int8"]
    integers = torch.arange(smallest, largest + 1, dtype=torch.float32)
    with torch.no_grad():
        floats = function((integers - given.zero_point) * given.scale)
    results = ((floats * (1.0 / affine.scale)).round() + affine.zero_point).clamp(low, high)
    to = program.new(same_layout(value), affine)
    fields = {"table": program.array(results.numpy().astype(np.int8)), "count": to.buffer.count}
    return program.step("table_s8", "distiq_table", fields, [value], to, "function")


def requantized(
    program: Program, value: Value, affine: AffineParameters, kind: Kind, low: float = -math.inf, high: float = math.inf
) -> Value:
    """Integers by other quantization parameters, or of another type, clamped to values between two limits."""
    given, value = value.affine, dense(program, value)
    assert given is not None
    ends = integer_at(low, affine, kind), integer_at(high, affine, kind)
    if value.kind == kind == "int8":
        return table(program, value, lambda x: x, affine, *ends)
    to = program.new(same_layout(value), affine, kind)
    multiplier, shift = fixed(np.array([given.scale / affine.scale]), LEAST_SHIFT["int16"])
    fields = {
        "count": to.buffer.count, "scale": (value.buffer, None), "inverse": 1.0 / affine.scale,
        "zero_in": given.zero_point, "zero_out": affine.zero_point, "low": ends[0], "high": ends[1],
        Q31: {"multiplier": int(multiplier[0]), "shift": int(shift[0])},
    }  # fmt: skip
    kernel = f"{ENDING[value.kind]}_to_{ENDING[kind]}"
    return program.step(kernel, "distiq_requantized", fields, [value], to, "requantize")


def float_unary(program: Program, name: str, value: Value, low: float = 0.0, high: float = 0.0) -> Value:
    """A function of each value in float32."""
    value = dense(program, as_float(program, value))
    if name == "neg":
        return binary(program, "mul", (value, -1.0), None)
    to = program.new(same_layout(value))
    fields = {"count": to.buffer.count, "low": low, "high": high}
    return program.step(f"{name}_f32", "distiq_unary", fields, [value], to, name)


def binary(program: Program, name: str, arguments: Sequence[Any], into: Quantized | None) -> Value:
    """A sum, difference, product or quotient of two tensors, or of one and constants."""
    first, second = arguments[1::-1] if name == "rsub" else arguments[:2]
    operation = BINARY[name]
    kinds = {one.kind if isinstance(one, Value) else None for one in (first, second)}
    if into is not None and kinds == {into.kind} and operation != "div":
        return _integers(program, operation, first, second, into)
    first, second = (
        as_float(program, one) if isinstance(one, Value) else torch.as_tensor(one).float() for one in (first, second)
    )
    first, second, inner = _aligned(program, first, second, commutes=operation in ("add", "mul"))
    to = program.new(same_layout(first))
    fields = {"count": to.buffer.count, "inner": inner}
    return program.step(f"{operation}_f32", "distiq_pair_f32", fields, [first, second], to, operation)


def _integers(program: Program, operation: str, first: Value, second: Value, into: Quantized) -> Value:
    first, second, inner = _aligned(program, first, second, commutes=operation != "sub")
    assert first.affine is not None
    assert second.affine is not None
    to = program.new(same_layout(first), into.affine, into.kind)
    sign = -1.0 if operation == "sub" else 1.0
    scales = [float(np.float32(one.scale)) for one in (first.affine, second.affine)]
    step = float(np.float32(into.affine.scale))
    fields: dict[str, Any] = {
        "count": to.buffer.count, "inner": inner, "scale_a": (first.buffer, None), "scale_b": (second.buffer, None),
        "rescale": 1.0 / step, "zero_a": first.affine.zero_point, "zero_b": second.affine.zero_point,
        "zero_out": into.affine.zero_point, "low": into.low, "high": into.high,
    }  # fmt: skip
    if operation == "sub":
        fields["negated"] = True
    if operation == "mul":
        multiplier, shift = fixed(np.array([scales[0] * scales[1] / step]), LEAST_SHIFT[into.kind])
        fields[Q31] = {"multiplier_a": int(multiplier[0]), "multiplier_b": 0, "shift": int(shift[0])}
    else:
        ratios = [scales[0] / step, sign * scales[1] / step]
        shift_of_both = 30 - max(math.frexp(abs(one))[1] for one in ratios)
        parts = [round(math.ldexp(one, shift_of_both)) for one in ratios]
        fields[Q31] = {"multiplier_a": parts[0], "multiplier_b": parts[1], "shift": shift_of_both}
    kernel = f"{'mul' if operation == 'mul' else 'add'}_{ENDING[into.kind]}"
    return program.step(kernel, "distiq_pair", fields, [first, second], to, operation)


def _aligned(program: Program, first: Any, second: Any, commutes: bool) -> tuple[Value, Value, int]:
    """Both operands in one memory order: the first in the result's shape, the second and its period of repetition."""
    shapes = [tuple(one.layout.shape) if isinstance(one, Value) else tuple(one.shape) for one in (first, second)]
    shape = torch.broadcast_shapes(*shapes)
    if isinstance(first, Value) and tuple(first.layout.shape) == shape:
        whole, other = first, second
    elif commutes and isinstance(second, Value) and tuple(second.layout.shape) == shape:
        whole, other = second, first
    else:
        whole, other = _widened(program, first, shape, None), second
    whole = dense(program, whole)
    order = order_of(whole.layout)
    assert order is not None
    sizes = (1,) * (len(shape) - len(_shape(other))) + _shape(other)
    kept = [axis for axis in order if sizes[axis] > 1]
    wide = [axis for axis in order if shape[axis] > 1]
    if kept != wide[len(wide) - len(kept) :] or any(sizes[axis] != shape[axis] for axis in kept):
        other, kept = _widened(program, other, shape, order), wide
        sizes = shape
    if isinstance(other, Tensor):
        value = program.constant(other.reshape(sizes), order)
    else:
        laid = settled(program, other)
        value = in_order(program, laid._replace(layout=laid.layout.view(sizes)), order)
    return whole, value, math.prod(shape[axis] for axis in kept)


def _shape(one: Any) -> tuple[int, ...]:
    return tuple(one.layout.shape) if isinstance(one, Value) else tuple(one.shape)


def _widened(program: Program, one: Any, shape: Sequence[int], order: Sequence[int] | None) -> Any:
    """A tensor that is repeated to the whole shape, in that order in memory."""
    if isinstance(one, Tensor):
        wide = one.expand(tuple(shape))
        return program.constant(wide, range(len(shape))) if order is None else wide
    one = settled(program, one)
    return in_order(program, one._replace(layout=one.layout.expand(tuple(shape))), order or range(len(shape)))


def joined(program: Program, parts: Sequence[Any], axis: int, into: Quantized | None) -> Value:
    """Tensors one behind another along an axis."""
    parts = [one if isinstance(one, Value) else program.constant(one[:1], range(one.ndim)) for one in parts]
    given = {(one.affine, one.kind) for one in parts}
    affine, kind = (into.affine, into.kind) if into is not None else next(iter(given))
    if any(one.affine is None for one in parts) or (into is None and len(given) > 1):
        parts, affine = [as_float(program, one) for one in parts], None
    elif affine is not None:
        parts = [
            one if (one.affine, one.kind) == (affine, kind) else requantized(program, one, affine, kind)
            for one in parts
        ]
    parts = [settled(program, one) for one in parts]
    layouts = [one.layout for one in parts]
    shape = list(layouts[0].shape)
    axis %= len(shape)
    shape[axis] = sum(one.shape[axis] for one in layouts)
    order = order_of(max(layouts, key=lambda one: one.numel())) or tuple(range(len(shape)))
    order = tuple(sorted(order, key=lambda one: (shape[one] == 1, order.index(one))))
    to = program.new(ordered_layout(shape, order), affine, kind)
    start = 0
    for one in parts:
        length = one.layout.shape[axis]
        move(program, one, to, to.layout.narrow(axis, start, length), "concat")
        start += length
    return to


def padded(program: Program, value: Value, widths: Sequence[int], filling: float) -> Value:
    """A tensor with constants around it, as many as `widths` say from the last axis on; negative ones cut."""
    value = settled(program, value)
    shape, layout = list(value.layout.shape), value.layout
    starts = [0] * len(shape)
    for number in range(len(widths) // 2):
        axis = len(shape) - 1 - number
        before, behind = widths[2 * number], widths[2 * number + 1]
        cut = [max(-before, 0), max(-behind, 0)]
        layout = layout.narrow(axis, cut[0], shape[axis] - sum(cut))
        shape[axis] += before + behind
        starts[axis] = max(before, 0)
    value = value._replace(layout=layout)
    order = order_of(value.layout) or tuple(range(len(shape)))
    to = program.new(ordered_layout(shape, order), value.affine, value.kind)
    filled = filling if value.affine is None else float(integer_at(filling, value.affine, value.kind))
    program.step(
        f"fill_{ENDING[value.kind]}", "distiq_fill", {"count": to.buffer.count, "value": filled}, [], to, "fill"
    )
    place = to.layout
    for axis, start in enumerate(starts):
        place = place.narrow(axis, start, layout.shape[axis])
    return move(program, value, to, place, "pad")


def softmax(program: Program, value: Value, axis: int, of_logarithm: bool) -> Value:
    """Along an axis, which is brought to the end in memory."""
    value = settled(program, value)
    axis %= value.layout.ndim
    rest = [one for one in (order_of(value.layout) or range(value.layout.ndim)) if one != axis]
    value = in_order(program, value, (*rest, axis))
    width = value.layout.shape[axis]
    to = program.new(ordered_layout(tuple(value.layout.shape), (*rest, axis)))
    fields = {"rows": to.buffer.count // width, "width": width, "of_logarithm": int(of_logarithm)}
    return program.step("softmax_f32", "distiq_softmax", fields, [value], to, "softmax")


def product(program: Program, first: Any, second: Any) -> Value:
    """A matrix product of two tensors, or of one and a constant."""
    if isinstance(second, Tensor) and second.ndim == 2:
        return linear(program, as_float(program, first), second.t(), None, None)
    if isinstance(first, Tensor) and first.ndim == 2:
        swapped = as_float(program, second)
        swapped = swapped._replace(layout=settled(program, swapped).layout.transpose(-1, -2))
        made = linear(program, swapped, first, None, None)
        return made._replace(layout=made.layout.transpose(-1, -2))
    if not isinstance(first, Value) or not isinstance(second, Value):
        raise UserError("C99: a product with a constant of three axes or more has no kernel in C; take another runtime")
    first, second = (settled(program, as_float(program, one)) for one in (first, second))
    second = second._replace(layout=second.layout.transpose(-1, -2))
    heads = torch.broadcast_shapes(first.layout.shape[:-2], second.layout.shape[:-2])
    first, second = (
        in_order(program, one._replace(layout=one.layout.expand(*heads, *one.layout.shape[-2:])), range(len(heads) + 2))
        for one in (first, second)
    )
    rows, depth = first.layout.shape[-2:]
    columns = second.layout.shape[-2]
    to = program.new(ordered_layout((*heads, rows, columns), range(len(heads) + 2)))
    fields = {"batch": math.prod(heads), "rows": rows, "depth": depth, "columns": columns}
    return program.step(
        "matmul_f32", "distiq_matmul", fields, [first, second], to, "matmul", math.prod(heads) * rows * depth * columns
    )
