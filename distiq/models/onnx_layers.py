"""The operations of ONNX that hold weights, as layers of torch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.onnx_operations import EXPORT_AGAIN, pad_order, padding_of


def fold_batch_norm(
    layer: nn.Module, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> None:  # fmt: skip
    """Into the weights before it: W s / sigma, (b - mean) s / sigma + bias."""
    if training_mode or not spatial:
        raise UserError(f"a batch norm in training mode; {EXPORT_AGAIN}, in eval mode")
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    factor = (scale.double() / torch.sqrt(variance.double() + epsilon)).view(-1, *[1] * (layer.weight.ndim - 1))
    before = 0.0 if layer.bias is None else layer.bias.double()
    layer.bias = nn.Parameter(((before - mean.double()) * factor.flatten() + bias.double()).float())
    layer.weight.data = (layer.weight.double() * factor).float()


# Layers: the shape of the input, the node's weights and attributes -> padding that stands before it, the layer.
Layer = tuple[tuple[int, ...], nn.Module]


def _convolution(
    shape: torch.Size, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (), pads: Sequence[int] = (), dilations: Sequence[int] = (), group: int = 1,
    auto_pad: bytes = b"NOTSET",
) -> Layer:  # fmt: skip
    axes = weight.ndim - 2
    if axes not in (1, 2):
        raise UserError(f"convolves over {axes} axes; distiq reads 1 and 2")
    strides, dilations = tuple(strides) or (1,) * axes, tuple(dilations) or (1,) * axes
    kernel = tuple(weight.shape[2:])
    begin, end = padding_of(shape[2:], kernel, strides, dilations, pads, auto_pad)
    inside = begin if begin == end else (0,) * axes
    kind: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    sizes = (weight.shape[1] * group, weight.shape[0], kernel)
    layer = nn.utils.skip_init(
        kind, *sizes, stride=strides, padding=inside, dilation=dilations, groups=group, bias=bias is not None
    )
    outside = () if begin == end else pad_order(begin, end)
    return outside, _filled(layer, weight, bias)


def _linear(
    _shape: torch.Size, weight: Tensor, bias: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Layer:  # fmt: skip
    if transA:
        raise UserError(f"multiplies a transposed input; {EXPORT_AGAIN}")
    weight = alpha * (weight if transB else weight.T)
    if bias is not None:
        bias = (beta * bias).reshape(-1).expand(len(weight))
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    return (), _filled(layer, weight, bias)


def _batch_norm(
    shape: torch.Size, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> Layer:  # fmt: skip
    if training_mode or not spatial:
        raise UserError(f"a batch norm in training mode; {EXPORT_AGAIN}, in eval mode")
    kind: Any = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = _filled(kind(len(scale), epsilon, 1 - momentum), scale, bias)
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    return (), layer.eval()


def _layer_norm(
    shape: torch.Size, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Layer:  # fmt: skip
    normalized = shape[axis:]
    layer = nn.LayerNorm(normalized, epsilon, bias=bias is not None)
    return (), _filled(layer, scale.expand(normalized), None if bias is None else bias.expand(normalized))


def _embedding(_shape: torch.Size, table: Tensor) -> Layer:
    return (), nn.Embedding.from_pretrained(table.clone(), freeze=False)


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    layer.weight = nn.Parameter(weight.float().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.float().clone(memory_format=torch.contiguous_format))
    return layer


LAYERS: dict[str, Callable[..., Layer]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "Gather": _embedding,
    "Gemm": _linear,
    "LayerNormalization": _layer_norm,
    "MatMul": _linear,
}
