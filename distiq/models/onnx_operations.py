"""The operations of ONNX in torch: functions of tensors, shapes and numbers, by name. Layers: onnx_layers.py."""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from torch import Tensor

from distiq.errors import UserError

MOST_VALUES = 2**28  # of one constant or one expanded value
EXPORT_AGAIN = (
    "export the network from PyTorch again with torch.onnx.export(model, example, dynamo=True), or give it to a recipe"
    ' as model = "file.py:function"'
)


def padding_of(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    pads: Sequence[int], auto_pad: bytes,
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """What stands before and behind each axis of an input of these sizes."""
    if auto_pad in (b"NOTSET", b"VALID", b""):
        given = tuple(pads) if pads and auto_pad != b"VALID" else (0,) * (2 * len(kernel))
        return given[: len(kernel)], given[len(kernel) :]
    totals = [
        max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (less, more) if auto_pad == b"SAME_UPPER" else (more, less)


def pad_order(begin: Sequence[int], end: Sequence[int]) -> tuple[int, ...]:
    """The order of `F.pad`: the last axis first."""
    return tuple(size for pair in reversed(list(zip(begin, end, strict=True))) for size in pair)


# Functions: the node's inputs by position, its attributes by name. Older files give some inputs as attributes.


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A function of two tensors, also for the numbers of shapes."""

    def run(one: Any, other: Any) -> Any:
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            return function(_number(one), _number(other))
        ones, others = (item if isinstance(item, tuple) else (item,) for item in (one, other))
        length = max(len(ones), len(others))
        results = tuple(
            function(*pair) for pair in zip(_repeated(ones, length), _repeated(others, length), strict=True)
        )
        return results if isinstance(one, tuple) or isinstance(other, tuple) else results[0]

    return run


def _repeated(items: tuple, length: int) -> tuple:
    return items * length if len(items) == 1 else items


def _number(item: Any) -> Any:
    if not isinstance(item, tuple):
        return item
    return item[0] if len(item) == 1 else torch.tensor(item)


def _divide(one: Any, other: Any) -> Any:
    whole = not isinstance(one, Tensor | float) and not isinstance(other, Tensor | float)
    return one // other if whole else one / other


def _modulo(one: Any, other: Any, *, fmod: int = 0) -> Any:
    """The remainder with the sign of the divisor, as Python's; with `fmod` that of the dividend, as C's."""
    return _elementwise(_fmod if fmod else operator.mod)(one, other)


def _fmod(one: Any, other: Any) -> Any:
    rest = torch.fmod(torch.as_tensor(one), torch.as_tensor(other))
    return rest if isinstance(one, Tensor) or isinstance(other, Tensor) else rest.item()


def _sqrt(x: Any) -> Any:
    if isinstance(x, Tensor):
        return torch.sqrt(x)
    return tuple(math.sqrt(item) for item in x) if isinstance(x, tuple) else math.sqrt(x)


def _clip(x: Tensor, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Tensor:
    low, high = (
        None if item is None else float(item) for item in (min if low is None else low, max if high is None else high)
    )
    if low == 0 and high is None:
        return F.relu(x)
    return F.relu6(x) if (low, high) == (0, 6) else torch.clamp(x, low, high)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return F.softmax(x, axis)


def _gelu(x: Tensor, *, approximate: bytes = b"none") -> Tensor:
    return F.gelu(x, approximate=approximate.decode())


def _leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def _global_average_pool(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1) if x.ndim == 4 else x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _average_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (), pads: Sequence[int] = (),
    ceil_mode: int = 0, auto_pad: bytes = b"NOTSET", count_include_pad: int = 0, dilations: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    strides, padding = _pooling(x, kernel_shape, strides, pads, auto_pad, dilations)
    if max(dilations, default=1) > 1:
        raise UserError("averages over dilated windows")
    pool: Any = F.avg_pool1d if len(kernel_shape) == 1 else F.avg_pool2d
    return pool(x, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))


def _max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (), pads: Sequence[int] = (),
    ceil_mode: int = 0, auto_pad: bytes = b"NOTSET", dilations: Sequence[int] = (), storage_order: int = 0,
) -> Tensor:  # fmt: skip
    strides, padding = _pooling(x, kernel_shape, strides, pads, auto_pad, dilations)
    pool: Any = F.max_pool1d if len(kernel_shape) == 1 else F.max_pool2d
    return pool(x, kernel_shape, strides, padding, tuple(dilations) or 1, bool(ceil_mode))


def _pooling(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], auto_pad: bytes,
    dilations: Sequence[int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    ones = (1,) * len(kernel)
    if len(kernel) not in (1, 2):
        raise UserError(f"pools over {len(kernel)} axes; distiq reads 1 and 2")
    strides = tuple(strides) or ones
    begin, end = padding_of(x.shape[2:], kernel, strides, tuple(dilations) or ones, pads, auto_pad)
    if begin != end:
        raise UserError(f"pads by {begin} before and {end} behind; distiq reads pooling of equal padding on both sides")
    return strides, begin


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function over axes, such as `torch.sum`."""

    def run(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        if not axes and noop_with_empty_axes:
            return x
        return function(x, tuple(axes) if axes else tuple(range(x.ndim)), keepdim=bool(keepdims))

    return run


def _of_all(
    of_tensors: Callable[[Tensor, Tensor], Tensor], of_numbers: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    """A function of two over any number of tensors, or of the numbers of shapes."""

    def two(one: Any, other: Any) -> Any:
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            return of_tensors(torch.as_tensor(one), torch.as_tensor(other))
        return of_numbers(one, other)

    return lambda *items: functools.reduce(_elementwise(two), items)


def _concat(*parts: Any, axis: int, single: Sequence[int] = ()) -> Any:
    """single: which parts are one row for every sample."""
    if all(isinstance(part, tuple) for part in parts):
        return tuple(size for part in parts for size in part)
    rows = next(part.shape[0] for at, part in enumerate(parts) if at not in single)
    given = [part.expand(rows, *part.shape[1:]) if at in single else part for at, part in enumerate(parts)]
    return torch.cat(given, axis)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis % x.ndim != 1:
        raise UserError(f"flattens from axis {axis}, with the batch; distiq reads 1")
    return torch.flatten(x, 1)


def _reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    if not isinstance(x, Tensor):  # numbers of a shape: one of them, or all
        if len(shape) > 1:
            return torch.tensor(x).reshape(shape)
        return (x if isinstance(x, tuple) else (x,)) if shape else _number(x)
    sizes = [x.shape[at] if not allowzero and size is not None and _is_zero(size) else size
             for at, size in enumerate(shape)]  # fmt: skip
    return x.reshape(sizes)


def _is_zero(size: Any) -> bool:
    return isinstance(size, int) and size == 0


def _check_size(shape: tuple) -> None:
    """Refuses what no network of this size computes: a few bytes of a file can ask for terabytes."""
    sizes = [size for size in shape if isinstance(size, int)]
    if math.prod(sizes) > MOST_VALUES:
        raise UserError(f"makes a value of shape {shape}; at most {MOST_VALUES:,} numbers are made at once")


def _expand(x: Tensor, shape: tuple) -> Tensor:
    _check_size(shape)
    new = len(shape) - x.ndim
    ahead = (1,) * -new
    sizes = [-1 if at >= new and isinstance(size, int) and size == 1 else size for at, size in enumerate(shape)]
    return x.expand(*(-1 for _ in ahead), *sizes)


def _transpose(x: Tensor, *, perm: Sequence[int] = ()) -> Tensor:
    return x.permute(*(perm or range(x.ndim)[::-1]))


def _squeeze(x: Any, axes: Any = None) -> Any:
    if not isinstance(x, Tensor):
        return _number(x)
    for axis in sorted(axis % x.ndim for axis in axes or [at for at, size in enumerate(x.shape) if size == 1])[::-1]:
        x = x.squeeze(axis)
    return x


def _unsqueeze(x: Any, axes: Any) -> Any:
    if not isinstance(x, Tensor):
        return (x,)
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _constant_of_shape(shape: tuple, *, value: TensorProto | None = None) -> Any:
    _check_size(shape)
    filling = 0.0 if value is None else numpy_helper.to_array(value).item()
    if len(shape) == 1 and isinstance(filling, int):
        return (filling,) * shape[0]
    return torch.full(shape, filling)


def _where(condition: Any, one: Any, other: Any) -> Any:
    if isinstance(condition, Tensor):
        return torch.where(condition, _number(one), _number(other))
    if not isinstance(condition, tuple):
        return one if condition else other
    ones, others = (_repeated(item if isinstance(item, tuple) else (item,), len(condition)) for item in (one, other))
    return tuple(first if holds else second for holds, first, second in zip(condition, ones, others, strict=True))


def _shape(x: Any, *, start: int = 0, end: int | None = None) -> tuple:
    if not isinstance(x, Tensor):
        return (len(x),) if isinstance(x, tuple) else ()
    return tuple(x.shape)[start:end]


def _gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    if not isinstance(x, Tensor):
        return tuple(x[at] for at in index) if isinstance(index, tuple) else x[index]
    if isinstance(index, tuple):
        return torch.stack([x.select(axis, at) for at in index], axis)
    return x.select(axis, index)


def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    axes = axes or tuple(range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(axes), strict=True):
        if isinstance(x, Tensor) and step == start == -1 and end <= -x.shape[axis]:
            x = x.flip(axis)
        elif isinstance(x, Tensor):
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
        else:
            x = x[start:end:step]
    return x


def _split(x: Tensor, split: Any = None, *, axis: int = 0, num_outputs: int = 1) -> tuple[Tensor, ...]:
    return torch.split(x, list(split) if split else math.ceil(x.shape[axis] / num_outputs), axis)


def _pad(x: Tensor, pads: Any, value: Any = None, axes: Any = None, *, mode: bytes = b"constant") -> Tensor:
    if mode != b"constant":
        raise UserError(f"pads by {mode.decode()}; distiq reads padding with a constant")
    begin, end = [0] * x.ndim, [0] * x.ndim
    for at, axis in enumerate(axes or range(x.ndim)):
        begin[axis], end[axis] = pads[at], pads[at + len(pads) // 2]
    first = next((at for at in range(x.ndim) if begin[at] or end[at]), x.ndim)
    return F.pad(x, pad_order(begin[first:], end[first:]), value=float(value or 0)) if first < x.ndim else x


def _cast(x: Any, *, to: int, saturate: int = 1) -> Any:
    to_float = to in (TensorProto.FLOAT, TensorProto.DOUBLE)
    if to == TensorProto.BOOL and isinstance(x, Tensor):
        return x.bool()
    if not to_float and to not in (TensorProto.INT64, TensorProto.INT32):
        raise UserError(f"casts to {TensorProto.DataType.Name(to)}; distiq reads networks of FLOAT")
    if isinstance(x, Tensor):
        return x.float() if to_float else x.long()
    if not to_float:
        return x
    return tuple(float(size) for size in x) if isinstance(x, tuple) else float(x)


def _cast_like(x: Any, other: Any) -> Any:
    to_float = other.is_floating_point() if isinstance(other, Tensor) else isinstance(_number(other), float)
    return _cast(x, to=TensorProto.FLOAT if to_float else TensorProto.INT64)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Abs": operator.abs,
    "Add": _elementwise(operator.add),
    "And": _elementwise(operator.and_),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(operator.eq),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "GlobalAveragePool": _global_average_pool,
    "Greater": _elementwise(operator.gt),
    "GreaterOrEqual": _elementwise(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": F.hardswish,
    "LeakyRelu": _leaky_relu,
    "Less": _elementwise(operator.lt),
    "LessOrEqual": _elementwise(operator.le),
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Max": _of_all(torch.maximum, max),
    "MaxPool": _max_pool,
    "Min": _of_all(torch.minimum, min),
    "Mod": _modulo,
    "Mul": _elementwise(operator.mul),
    "Neg": operator.neg,
    "Not": torch.logical_not,
    "Or": _elementwise(operator.or_),
    "Pad": _pad,
    "Pow": _elementwise(operator.pow),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _sqrt,
    "Squeeze": _squeeze,
    "Sub": _elementwise(operator.sub),
    "Tanh": torch.tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
