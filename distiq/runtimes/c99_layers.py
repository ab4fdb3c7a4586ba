"""Layers of a graph as C calls: convolutions, linear layers and pooling, of integers and of floats."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from distiq.errors import UserError
from distiq.models.signature import AffineParameters
from distiq.runtimes.c99_program import (
    BOUNDS,
    CMSIS,
    ENDING,
    Q31,
    Buffer,
    Kind,
    Program,
    Value,
    channels_last,
    dense,
    in_order,
    order_of,
    ordered_layout,
    same_layout,
)
from distiq.runtimes.lowering import ACTIVATIONS, QUANTIZE, is_operation

CONVOLUTION_AXES = 4
LARGEST_SUM = {"int8": 2.0**31 - 1, "int16": 2.0**44}
"""What an accumulator may begin with."""
LEAST_SHIFT = {"int8": 1, "int16": 17}
"""Of a multiplier in Q31: kernels of int16 multiply in two parts of 16 bits."""


class Stored(NamedTuple):
    """Integer weights with a scale for each of their output channels, along the first axis."""

    integers: Tensor
    scales: Tensor

    @property
    def values(self) -> Tensor:
        return self.integers.float() * self.scales.view(-1, *[1] * (self.integers.ndim - 1))


class Quantized(NamedTuple):
    """How a result is quantized: the last node that is fused in front of it, by which parameters, to which integers."""

    last: fx.Node
    affine: AffineParameters
    low: int
    high: int
    kind: Kind


def quantized_into(node: fx.Node) -> Quantized | None:
    """How a node's result is quantized, directly or after a fused clamp; None where it stays float32.

    Raises:
        UserError: to neither 8 nor 16 bits.
    """
    users = list(node.users)
    last, low, high = node, -math.inf, math.inf
    if len(users) == 1 and users[0].target in ACTIVATIONS:
        last = users[0]
        low, high = limits(last)
    parameters: set[Any] = {user.args[1:5] for user in last.users}
    if len(parameters) != 1 or not all(is_operation(user, QUANTIZE) for user in last.users):
        return None
    scale, zero_point, smallest, largest = next(iter(parameters))
    affine, kind = AffineParameters(float(scale), int(zero_point)), kind_between(smallest, largest)
    return Quantized(last, affine, integer_at(low, affine, kind), integer_at(high, affine, kind), kind)


def kind_between(low: int, high: int) -> Kind:
    """The type of integers between two bounds.

    Raises:
        UserError: C files hold none such.
    """
    for kind, bounds in BOUNDS.items():
        if bounds == (low, high):
            return kind
    raise UserError(f"C99: activations between {low} and {high} are quantized; C files hold int8 and int16 alone")


def integer_at(value: float, affine: AffineParameters, kind: Kind) -> int:
    """The integer next to a value, which may be infinite, within the bounds of a type."""
    low, high = BOUNDS[kind]
    if not math.isfinite(value):
        return low if value < 0 else high
    return min(max(round(value / affine.scale) + affine.zero_point, low), high)


def operation_name(node: fx.Node) -> str:
    """An operation's name, without the trailing underscore of an in-place one: "relu"."""
    name = str(node.target).split(".")[1]
    return name.rstrip("_") if not name.startswith("_") else name


def limits(clamp: fx.Node) -> tuple[float, float]:
    """The lower and the upper limit of a clamp.

    Raises:
        UserError: one is a tensor.
    """
    name = operation_name(clamp)
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else math.inf
    low: Any
    high: Any
    low, high = (*clamp.args[1:], None, None)[:2] if name != "hardtanh" else (*clamp.args[1:], -1.0, 1.0)[:2]
    low, high = clamp.kwargs.get("min", low), clamp.kwargs.get("max", high)
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        raise UserError(f"C99: {clamp.name} has a tensor as its limit; there is a kernel for numbers alone")
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


class Shape(NamedTuple):
    """A convolution's geometry, (height, width) each, and its groups."""

    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool = False


def pair(value: Any, axes: int, missing: int) -> tuple[int, int]:
    """Expands the numbers for the last `axes` to one for each of two axes; the first axis of a one-dimensional layer
    has length 1."""
    numbers = [value] * axes if isinstance(value, int) else list(value) or [missing] * axes
    numbers = numbers * axes if len(numbers) == 1 else numbers
    return (missing, numbers[0]) if axes == 1 else (numbers[0], numbers[1])


def convolution(
    program: Program, value: Value, weights: Stored | Tensor, bias: Tensor | None, shape: Shape, into: Quantized | None
) -> Value:
    """(1, C, H, W) or (1, C, T) -> the same of the output's channels."""
    is_flat = value.layout.ndim == CONVOLUTION_AXES - 1
    value = in_order(program, value, channels_last(value.layout.ndim))
    image = value._replace(layout=value.layout.unsqueeze(2)) if is_flat else value
    stored = weights.integers if isinstance(weights, Stored) else weights
    kernel = stored.unsqueeze(2) if is_flat else stored
    outs, _, kernel_h, kernel_w = kernel.shape
    _, channels, height, width = image.layout.shape
    out_height, out_width = (
        (size + 2 * pad - dilation * (length - 1) - 1) // stride + 1
        for size, pad, dilation, length, stride in zip(
            (height, width), shape.pad, shape.dilation, (kernel_h, kernel_w), shape.stride, strict=True
        )
    )
    fields: dict[str, Any] = {
        "height": height, "width": width, "channels": channels, "out_height": out_height, "out_width": out_width,
        "out_channels": outs, "kernel_h": kernel_h, "kernel_w": kernel_w, "stride_h": shape.stride[0],
        "stride_w": shape.stride[1], "pad_top": shape.pad[0], "pad_left": shape.pad[1],
        "dilation_h": shape.dilation[0], "dilation_w": shape.dilation[1], "groups": shape.groups,
    }  # fmt: skip
    is_point = (kernel_h, kernel_w, *shape.stride, *shape.pad, shape.groups) == (1, 1, 1, 1, 0, 0, 1)
    is_depthwise = shape.groups == channels == outs > 1
    if is_point:
        fields |= {"height": 1, "width": height * width}
    layout = ordered_layout((1, outs, out_height, out_width), channels_last(CONVOLUTION_AXES))
    macs = out_height * out_width * kernel.numel()
    if isinstance(weights, Stored) and value.affine is not None:
        axes = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
        order = Order(tuple(kernel.shape), axes)
        name = "linear" if is_point else "depthwise" if is_depthwise else "conv"
        made = _integer_layer(program, name, image, weights, bias, order, fields, layout, into, macs)
    else:
        values = weights.values if isinstance(weights, Stored) else weights
        order = Order(tuple(kernel.shape), (0, 2, 3, 1))
        name = "linear_f32" if is_point else "conv_f32"
        made = _float_layer(program, name, image, values, bias, order, fields, layout, macs)
    return made._replace(layout=made.layout.squeeze(2)) if is_flat else made


def linear(
    program: Program, value: Value, weights: Stored | Tensor, bias: Tensor | None, into: Quantized | None
) -> Value:
    """(1, ..., I) -> (1, ..., O); the columns of the weights follow a feature map that lies in another order."""
    stored = weights.integers if isinstance(weights, Stored) else weights
    outs, width = stored.shape
    order, shape = Order((outs, width), (0, 1)), tuple(value.layout.shape)
    if value.unflattened is not None:
        map_ = value.unflattened.layout
        axes = order_of(map_)
        assert axes is not None
        order = Order((outs, *map_.shape[1:]), (0, *(axis for axis in axes if axis > 0)))
        value = value._replace(unflattened=None)
    memory = [axis for axis in (order_of(value.layout) or range(len(shape))) if axis != len(shape) - 1]
    value = in_order(program, value, (*memory, len(shape) - 1))
    layout = ordered_layout((*shape[:-1], outs), (*memory, len(shape) - 1))
    rows = math.prod(shape[:-1])
    fields: dict[str, Any] = {
        "height": 1, "width": rows, "channels": width, "out_height": 1, "out_width": rows, "out_channels": outs,
        "kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1, "groups": 1,
    }  # fmt: skip
    macs = rows * outs * width
    if isinstance(weights, Stored) and value.affine is not None:
        return _integer_layer(program, "linear", value, weights, bias, order, fields, layout, into, macs)
    values = weights.values if isinstance(weights, Stored) else weights
    return _float_layer(program, "linear_f32", value, values, bias, order, fields, layout, macs)


class Order(NamedTuple):
    """How weights are stored: seen in `shape`, then with their axes in that order."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def stored(self, values: Tensor) -> np.ndarray:
        return values.detach().reshape(self.shape).permute(*self.axes).contiguous().numpy()

    def about(self, values: Tensor) -> dict[str, Any]:
        """What reading them back takes."""
        return {"seen": list(self.shape), "axes": list(self.axes), "shape": list(values.shape)}


def _integer_layer(
    program: Program, name: str, value: Value, weights: Stored, bias: Tensor | None, order: Order,
    fields: dict[str, Any], layout: Tensor, into: Quantized | None, macs: int,
) -> Value:  # fmt: skip
    assert value.affine is not None
    is_wide, (scale, zero_point) = value.kind == "int16", value.affine
    into = into if into is not None and into.kind == value.kind else None
    steps = weights.scales.double() * float(np.float32(scale))
    sums = torch.zeros(len(steps), dtype=torch.float64) if bias is None else bias.detach().double() / steps
    if name != "depthwise":  # which leaves out padding instead
        sums = sums - zero_point * weights.integers.flatten(1).double().sum(1)
    scales = program.array(weights.scales.detach().float().numpy())
    about = {"weight": scales, **order.about(weights.integers)}
    # What a 32-bit accumulator cannot hold would have been clipped by the simulation's rounded biases.
    most = LARGEST_SUM[value.kind]
    integers = sums.round().clamp(-most, most).numpy().astype(np.int64 if is_wide else np.int32)
    fields |= {
        "weights": program.array(order.stored(weights.integers), about), "bias": program.array(integers),
        "scales": scales, "gives_float": int(into is None), "zero_in": zero_point,
    }  # fmt: skip
    if into is not None:
        ratio = steps / float(np.float32(into.affine.scale))
        parts = dict(zip(("multipliers", "shifts"), fixed(ratio.numpy(), LEAST_SHIFT[value.kind]), strict=True))
        fields |= {"zero_out": into.affine.zero_point, "low": into.low, "high": into.high}
        shared = (Q31,) if is_wide else (Q31, CMSIS)
        fields |= {Q31: {key: program.array(one, None, shared) for key, one in parts.items()}}
        if not is_wide:
            fields |= {CMSIS: _for_cmsis(program, name, fields, integers, weights, parts["shifts"])}
    to = program.new(layout, into.affine, into.kind) if into else program.new(layout)
    fields["rescale"] = (value.buffer, to.buffer if into else None)
    scratch = None
    if name == "conv" or (name == "linear" and not is_wide):  # rows of int16 are read where they lie
        count = fields["kernel_h"] * fields["kernel_w"] * (fields["channels"] // fields["groups"])
        scratch = Buffer(program.name("p"), count, "int16")
    struct = "distiq_wide_layer" if is_wide else "distiq_layer"
    return program.step(f"{name}_{ENDING[value.kind]}", struct, fields, [value], to, name, macs, scratch)


def _for_cmsis(
    program: Program, name: str, fields: dict[str, Any], bias: np.ndarray, weights: Stored, shifts: np.ndarray
) -> dict[str, Any]:
    """What CMSIS-NN's kernels take of a layer: they take the zero point off by themselves, and shift to the left."""
    if name != "depthwise":
        bias = bias + fields["zero_in"] * weights.integers.flatten(1).long().sum(1).numpy()
    plain = bias.clip(-LARGEST_SUM["int8"], LARGEST_SUM["int8"]).astype(np.int32)
    return {
        "factors": fields[Q31]["multipliers"],
        "exponents": program.array(31 - shifts.astype(np.int32), None, (CMSIS,)),
        "plain_bias": program.array(plain, None, (CMSIS,)),
        "is_depthwise": int(name == "depthwise"),
    }


def cmsis_bytes(program: Program) -> int:
    """Memory that CMSIS-NN's kernels may want; a layer that wants more is computed without them.

    As their `..._get_buffer_size`: columns of a convolution, for DSP two of int16, for Helium four of int8; of a
    depthwise layer one of int16, or four of at most 124 channels.
    """
    most = 0
    for step in program.steps:
        if CMSIS in step.fields:
            taps, channels = step.fields["kernel_h"] * step.fields["kernel_w"], step.fields["channels"]
            columns = min(channels, 124) if step.fields[CMSIS]["is_depthwise"] else channels
            most = max(most, 4 * (taps * columns + 16), 2 * taps * channels)
    return most


def fixed(ratios: np.ndarray, least_shift: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Ratios as multipliers of 31 bits (int32) and shifts to the right (uint8): ratio = multiplier * 2 ** -shift."""
    fractions, powers = np.frexp(ratios.astype(np.float64))
    multipliers = np.rint(fractions * 2.0**31)
    over = multipliers >= 2.0**31
    multipliers, powers = np.where(over, multipliers / 2, multipliers), np.where(over, powers + 1, powers)
    shifts = 31 - powers
    if shifts.min(initial=least_shift) < least_shift:
        raise UserError(
            f"C99: a layer's result is rescaled by 2 ** {31 - least_shift} or more; its quantization parameters are no"
            " use"
        )
    multipliers = np.where(shifts > 62, 0, multipliers)
    return multipliers.astype(np.int32), np.minimum(shifts, 62).astype(np.uint8)


def _float_layer(
    program: Program, name: str, value: Value, weights: Tensor, bias: Tensor | None, order: Order,
    fields: dict[str, Any], layout: Tensor, macs: int,
) -> Value:  # fmt: skip
    value = as_float(program, value)
    added = np.zeros(fields["out_channels"], np.float32) if bias is None else bias.detach().float().numpy()
    stored = program.array(order.stored(weights.float()), {"float": True, **order.about(weights)})
    fields = {**fields, "weights": stored, "bias": program.array(added)}
    operation = {"linear_f32": "linear", "conv_f32": "conv"}[name]
    return program.step(name, "distiq_layer_f32", fields, [value], program.new(layout), operation, macs)


def as_float(program: Program, value: Value) -> Value:
    """The value in float32."""
    if value.affine is None:
        return value
    affine, value = value.affine, dense(program, value)
    to = program.new(same_layout(value))
    fields = {"count": to.buffer.count, "scale": (value.buffer, None), "zero": affine.zero_point}
    return program.step(f"dequantize_{ENDING[value.kind]}", "distiq_affine", fields, [value], to, "dequantize")


def average(program: Program, value: Value, fields: dict[str, Any], layout: Tensor, into: Quantized | None) -> Value:
    """Means over windows of (1, height, width, channels) in memory; `fields` are those of a pool."""
    if into is None or value.affine is None or into.kind != value.kind:
        return program.step(
            "average_f32", "distiq_pool", fields, [as_float(program, value)], program.new(layout), "average"
        )
    to = program.new(layout, into.affine, into.kind)
    divisor = fields["divisor"] or 1
    ratio = float(np.float32(value.affine.scale)) / float(np.float32(into.affine.scale)) / divisor
    multiplier, shift = fixed(np.array([ratio]), LEAST_SHIFT[value.kind])
    fields |= {
        "rescale": (value.buffer, to.buffer), "zero_in": value.affine.zero_point, "zero_out": into.affine.zero_point,
        "low": into.low, "high": into.high, Q31: {"multiplier": int(multiplier[0]), "shift": int(shift[0])},
    }  # fmt: skip
    return program.step(f"average_{ENDING[value.kind]}", "distiq_pool", fields, [value], to, "average")


def maximum(program: Program, value: Value, fields: dict[str, Any], layout: Tensor) -> Value:
    """Maxima over windows; the result has the quantization parameters of the input."""
    kernel, to = f"maximum_{ENDING[value.kind]}", program.new(layout, value.affine, value.kind)
    return program.step(kernel, "distiq_pool", fields, [value], to, "maximum")
