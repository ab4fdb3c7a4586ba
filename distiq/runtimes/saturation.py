"""Whether a file gives other outputs on another x86 CPU: sums of two u8 x s8 products in 16 bits.

Without VNNI, kernels multiply with `vpmaddubsw`, which adds two neighbouring products and saturates at 16 bits; with
VNNI the sum is exact. `saturation` says from the integers whether that can happen; `emulate` runs a file as a CPU with
AVX2 alone would.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.errors import UserError
from distiq.runtimes.onnx_runtime import IntegerLayer, load_by_nodes
from distiq.runtimes.runtime import QuantizationParameters

LARGEST_ACTIVATION = 255
LIMITS = np.iinfo(np.int16)
Pair = tuple[int, int]
MOST_VALUES = 2**20  # of unfolded input at a time


class Saturation(NamedTuple):
    """Output channels of a file, and those of them where two products can leave 16 bits."""

    channels: int
    may_saturate: int

    def sentence(self) -> str:
        """The certificate, or what it cannot promise."""
        if self.may_saturate == 0:
            return "certified: no sum of two products leaves 16 bits, so CPUs without VNNI give the same integers"
        return (
            f"not certified: in {self.may_saturate} of {self.channels} output channels two products can leave 16 bits"
            " on an x86 CPU without VNNI; reduce_range (in a recipe's [quantize], or --reduce-range) is the cure"
        )


def saturation(parameters: QuantizationParameters) -> Saturation:
    """Counts the channels from the integers: exact for the worst inputs that the ranges allow.

    The largest input is taken as 255, which is never too small and rarely too large: a range ends at a value that
    calibration reached or clipped; only where branches share a range may one of them stay below. Which weights are
    neighbours is the kernel's choice, so every pair of a channel counts, also in depthwise layers, which some kernels
    multiply in other ways.
    """
    flags = [may_saturate(weight.integers) for weight in parameters.weights if weight.is_multiplied]
    return Saturation(sum(map(len, flags)), int(sum(flag.sum() for flag in flags)))


def may_saturate(integers: np.ndarray) -> np.ndarray:
    """For each output channel, whether some pair of its weights can: (O, ...) int8 -> (O,) bool."""
    rows = np.sort(integers.reshape(len(integers), -1).astype(np.int64), axis=1)
    highest = LARGEST_ACTIVATION * np.clip(rows[:, -2:], 0, None).sum(1)
    lowest = LARGEST_ACTIVATION * np.clip(rows[:, :2], None, 0).sum(1)
    return (highest > LIMITS.max) | (lowest < LIMITS.min)


def emulate(path: Path, saturating: bool = True) -> Callable[[Tensor], Tensor]:
    """A `predict` that runs an ONNX file of QDQ form, anyone's, as ONNX Runtime does on x86 with AVX2 and no VNNI.

    Layers of u8 inputs and s8 weights are computed in integers, with their pair sums held to 16 bits. Pairs are those
    of MLAS's QgemmU8S8 and ConvSym kernels: inputs (0, 1), (2, 3), ... of a linear layer; of a convolution in the order
    kernel position, then channel of the group (MLAS works on channels-last images). A depthwise layer of one output per
    channel is widened before it is multiplied and never saturates there; neither do u8 weights, nor layers in float.
    Other libraries pair other weights: a figure from here is that of ONNX Runtime, a certificate holds for all.

    Args:
        saturating: False computes the same sums exactly, to compare with.

    Raises:
        UserError: the file is missing, damaged or not in QDQ form, or a layer has s8 inputs, a padding by name or
            weights whose zero point is not 0.
    """

    def compute(layer: IntegerLayer) -> np.ndarray | None:
        if layer.weight.values.dtype != np.int8:
            return None
        if layer.inputs.values.dtype != np.uint8 or layer.weight.zero_point.any():
            raise UserError(
                f"{path}: only u8 inputs with symmetric s8 weights can be emulated; a {layer.operation} is not"
            )
        if layer.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise UserError(f"{path}: a Conv is padded by name; write its pads as numbers")
        return _linear(layer, saturating) if layer.operation != "Conv" else _convolution(layer, saturating)

    return load_by_nodes(Path(path), compute)


def _linear(layer: IntegerLayer, saturating: bool) -> np.ndarray:
    """Gemm and MatMul are a convolution of one position: (..., K) -> (..., O)."""
    inputs, weight = (torch.from_numpy(one.values.astype(np.float64)) for one in (layer.inputs, layer.weight))
    weight = weight if layer.attributes.get("transB") else weight.T
    rows = inputs.reshape(-1, inputs.shape[-1], 1, 1)
    sums = accumulate(rows, weight[:, :, None, None], saturating=saturating) - _offset(layer, weight[:, :, None, None])
    return _scaled(sums, layer).reshape(*inputs.shape[:-1], -1)


def _convolution(layer: IntegerLayer, saturating: bool) -> np.ndarray:
    inputs, weight = (torch.from_numpy(one.values.astype(np.float64)) for one in (layer.inputs, layer.weight))
    axes = weight.ndim - 2
    strides, dilations = (layer.attributes.get(name, [1] * axes) for name in ("strides", "dilations"))
    pads = layer.attributes.get("pads", [0] * 2 * axes)
    sides = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axes + axis])]
    inputs = F.pad(inputs, sides, value=float(layer.inputs.zero_point))
    if axes == 1:  # one dimension is two of which one is 1
        inputs, weight, strides, dilations = inputs.unsqueeze(2), weight.unsqueeze(2), [1, *strides], [1, *dilations]
    stride, dilation = (strides[0], strides[1]), (dilations[0], dilations[1])
    sums = accumulate(inputs, weight, stride, dilation, layer.attributes.get("group", 1), saturating)
    result = _scaled(sums - _offset(layer, weight), layer)
    return result.squeeze(2) if axes == 1 else result


def _offset(layer: IntegerLayer, weight: Tensor) -> Tensor:
    """What the zero point of the inputs adds to the sums of an output channel: (1, O, 1, 1)."""
    return (float(layer.inputs.zero_point) * weight.sum((1, 2, 3))).view(1, -1, 1, 1)


def _scaled(sums: Tensor, layer: IntegerLayer) -> np.ndarray:
    scale = layer.inputs.scale.astype(np.float64) * layer.weight.scale.reshape(-1)
    result = sums.numpy() * scale.reshape(1, -1, 1, 1)
    if layer.bias is not None:
        result = result + layer.bias.astype(np.float64).reshape(1, -1, 1, 1)
    return result.astype(np.float32)


def accumulate(
    inputs: Tensor,
    weight: Tensor,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
    saturating: bool = True,
) -> Tensor:
    """The accumulators of a convolution of integers, their pair sums held to 16 bits; see `emulate` for the pairs.

    Shapes: (B, C, H, W) of 0..255, padded already, and (O, C / groups, kh, kw) of -128..127 -> (B, O, H', W'); all are
    whole numbers in float64.
    """
    exact = F.conv2d(inputs, weight, None, stride, 0, dilation, groups)
    outputs, channels = weight.shape[:2]
    if not saturating or (channels == 1 and outputs == groups):
        return exact
    samples = max(1, MOST_VALUES // (inputs.shape[1] * weight[0, 0].numel() * exact[0, 0].numel()))
    parts = [_beyond(part, weight, stride, dilation, groups) for part in inputs.float().split(samples)]
    return exact - torch.cat(parts).view_as(exact)


def _beyond(inputs: Tensor, weight: Tensor, stride: Pair, dilation: Pair, groups: int) -> Tensor:
    """How far the pair sums of each accumulator lie beyond 16 bits, in sum: (B, O, H' * W')."""
    outputs, channels, height, width = weight.shape
    unfolded = F.unfold(inputs, (height, width), dilation, 0, stride)
    columns = unfolded.view(len(inputs), groups, channels, height * width, -1).permute(1, 3, 2, 0, 4)
    columns = columns.reshape(groups, height * width * channels, -1)
    rows = weight.float().view(outputs, channels, -1).transpose(1, 2).flatten(1)
    odd = rows.shape[1] % 2
    columns, rows = F.pad(columns, (0, 0, 0, odd)), F.pad(rows, (0, odd))
    low, high = float(LIMITS.min), float(LIMITS.max)
    largest = columns.amax(2)
    beyond = []
    for row in range(outputs):
        group = row * groups // outputs
        pairs, (first, second) = columns[group], (rows[row, 0::2], rows[row, 1::2])
        # With the largest values of these samples few pairs can leave the limits; the others are not looked at.
        sums = torch.stack([first * largest[group, 0::2], second * largest[group, 1::2]])
        highest, lowest = sums.clamp(min=0).sum(0), sums.clamp(max=0).sum(0)
        able = (highest > high) | (lowest < low)
        sums = pairs[0::2][able] * first[able, None] + pairs[1::2][able] * second[able, None]
        beyond.append((sums - sums.clamp(low, high)).sum(0, dtype=torch.float64))
    return torch.stack(beyond).view(outputs, len(inputs), -1).transpose(0, 1)
