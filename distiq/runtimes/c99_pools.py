"""Pooling and reductions of a graph as C calls: windows over what lies in memory."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from distiq.errors import UserError
from distiq.runtimes.c99_layers import Quantized, average, maximum, operation_name, pair
from distiq.runtimes.c99_program import Program, Value, channels_last, in_order, order_of, ordered_layout, settled


def _windows(value: Value, arguments: tuple[Any, ...], axes: int, missing: Sequence[Any]) -> tuple[dict[str, Any], Any]:
    """The fields of a pool, and the layout of what it gives; arguments: kernel, stride, pad, dilation, ceil mode."""
    kernel, stride, pad, dilation, ceil = (*arguments, *missing[len(arguments) :])[:5]
    kernels = pair(kernel, axes, 1)
    strides = pair(stride, axes, 1) if stride != [] and stride is not None else kernels
    pads, dilations = pair(pad, axes, 0), pair(dilation, axes, 1)
    shape = value.layout.shape if axes == 2 else (*value.layout.shape[:2], 1, value.layout.shape[2])
    outs = []
    for size, length, step, around, by in zip(shape[2:], kernels, strides, pads, dilations, strict=True):
        whole = size + 2 * around - by * (length - 1) - 1
        count = (-(-whole // step) if ceil else whole // step) + 1
        outs.append(count - 1 if ceil and (count - 1) * step >= size + around else count)
    fields = {
        "height": shape[2], "width": shape[3], "channels": shape[1], "out_height": outs[0], "out_width": outs[1],
        "kernel_h": kernels[0], "kernel_w": kernels[1], "stride_h": strides[0], "stride_w": strides[1],
        "pad_top": pads[0], "pad_left": pads[1], "dilation_h": dilations[0], "dilation_w": dilations[1], "divisor": 0,
    }  # fmt: skip
    out_shape = (1, shape[1], *outs) if axes == 2 else (1, shape[1], outs[1])
    return fields, ordered_layout(out_shape, channels_last(len(out_shape)))


def _max_pool(program: Program, _node: fx.Node, value: Value, arguments: Any, _named: Any, _found: Any) -> Value:
    value = in_order(program, value, channels_last(value.layout.ndim))
    fields, layout = _windows(value, arguments[1:], value.layout.ndim - 2, (1, None, 0, 1, False))
    return maximum(program, value, fields, layout)


def _avg_pool(
    program: Program, node: fx.Node, value: Value, arguments: Any, _named: Any, into: Quantized | None
) -> Value:
    value = in_order(program, value, channels_last(value.layout.ndim))
    missing: Any = (None, None, 0, False, True, None)[len(arguments) - 1 :]
    kernel, stride, pad, ceil, with_padding, divisor = arguments[1:] + missing
    axes = value.layout.ndim - 2
    fields, layout = _windows(value, (kernel, stride, pad, 1, ceil), axes, ())
    is_padded = bool(fields["pad_top"] or fields["pad_left"])
    if ceil and is_padded and with_padding:
        raise UserError(f"C99: {node.name} rounds its size up and counts padding; set ceil_mode to False")
    if divisor or (with_padding and is_padded):
        fields["divisor"] = divisor or fields["kernel_h"] * fields["kernel_w"]
    elif not is_padded and not ceil:
        fields["divisor"] = fields["kernel_h"] * fields["kernel_w"]
    return average(program, value, fields, layout, into)


def _adaptive(
    program: Program, node: fx.Node, value: Value, arguments: Any, _named: Any, into: Quantized | None
) -> Any:
    axes = value.layout.ndim - 2
    sizes = [arguments[1]] * axes if isinstance(arguments[1], int) else list(arguments[1])
    lengths = value.layout.shape[2:]
    outs = [length if size is None else size for size, length in zip(sizes, lengths, strict=True)]
    if any(length % size for length, size in zip(lengths, outs, strict=True)):
        raise UserError(
            f"C99: {node.name} divides {tuple(lengths)} by {tuple(outs)}, into windows of different sizes; take a"
            " divisor of the size"
        )
    kernel = [length // size for length, size in zip(lengths, outs, strict=True)]
    if "max" in operation_name(node):
        pooled = _max_pool(program, node, value, (value, kernel), None, None)
        return (pooled, None) if "max" in operation_name(node) and "getitem" in str(list(node.users)[:1]) else pooled
    return _avg_pool(program, node, value, (value, kernel), None, into)


def _reduced(
    program: Program, node: fx.Node, value: Value, arguments: Any, named: Any, into: Quantized | None
) -> Value:
    """Means or maxima over some axes: windows over (what lies before, the axes, what lies behind) in memory."""
    value, shape = settled(program, value), tuple(value.layout.shape)
    given = (*arguments[1:], named.get("dim"))[0]
    axes = sorted(axis % len(shape) for axis in ([given] if isinstance(given, int) else given or range(1, len(shape))))
    keep = (*arguments[2:], named.get("keepdim", False))[0]
    order = [axis for axis in order_of(value.layout) or () if shape[axis] > 1]
    inside = [number for number, axis in enumerate(order) if axis in axes]
    if not order or (inside and inside[-1] - inside[0] != len(inside) - 1):
        order = [
            *(axis for axis in axes if shape[axis] > 1),
            *(a for a in range(len(shape)) if a not in axes and shape[a] > 1),
        ]
        inside = [number for number, axis in enumerate(order) if axis in axes]
    ones = [axis for axis in range(len(shape)) if axis not in order]
    value = in_order(program, value, [*ones, *order])
    first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
    outer, count, inner = (_product(shape, part) for part in (order[:first], order[first:last], order[last:]))
    fields = {
        "height": outer, "width": count, "channels": inner, "out_height": outer, "out_width": 1, "kernel_h": 1,
        "kernel_w": count, "stride_h": 1, "stride_w": 1, "pad_top": 0, "pad_left": 0, "dilation_h": 1,
        "dilation_w": 1, "divisor": count,
    }  # fmt: skip
    left = [1 if axis in axes else size for axis, size in enumerate(shape)]
    layout = ordered_layout(left, [*ones, *order])
    if operation_name(node) == "amax":
        made = maximum(program, value, fields, layout)
    else:
        made = average(program, value, fields, layout, into)
    if keep:
        return made
    for axis in reversed(axes):
        made = made._replace(layout=made.layout.squeeze(axis))
    return made


def _product(shape: Sequence[int], axes: Sequence[int]) -> int:
    total = 1
    for axis in axes:
        total *= shape[axis]
    return total


POOLS: dict[str, Callable[..., Any]] = {
    "max_pool1d": _max_pool, "max_pool2d": _max_pool, "avg_pool1d": _avg_pool, "avg_pool2d": _avg_pool,
    "adaptive_avg_pool1d": _adaptive, "adaptive_avg_pool2d": _adaptive, "adaptive_max_pool1d": _adaptive,
    "adaptive_max_pool2d": _adaptive, "mean": _reduced, "amax": _reduced,
}  # fmt: skip
