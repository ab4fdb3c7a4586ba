"""Scale, zero point, rounding, error: pure functions, and the independent ruler of the tests.

Affine quantization stands for ``value = (q - zero_point) * scale`` with q an integer of `bits` bits, signed
(Jacob et al. 2018, arXiv:1712.05877, equation 1). Rounding is half to even, as in every runtime.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_SCALE = float(torch.finfo(torch.float32).eps)
HALVED_FROM = 256
"""Values of a constant from which on two bytes each, in place of four, are worth a conversion in the file."""


def is_halved(shape: Sequence[int]) -> bool:
    """Whether a constant of that shape is rounded to float16: it is large and no vector.

    Biases and the vectors of norms are few bytes, and their errors are the same at every position, so that no product
    averages them out: of MiniLM-L6 they made more noise than all of its matrices.
    """
    return math.prod(shape) >= HALVED_FROM and sum(size > 1 for size in shape) > 1


def drawn(count: int, most: int) -> Tensor:
    """At most `most` of the numbers 0 to `count` - 1, drawn at random, always the same ones, ascending, int64.

    What people bring is sorted by class, or its classes take turns: neither the first of it nor every second shows all.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:most].sort().values


def affine_bounds(bits: int) -> tuple[int, int]:
    """Smallest and largest signed integer: (-128, 127) for 8 bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def symmetric_bounds(bits: int) -> tuple[int, int]:
    """The same, without the most negative number: (-127, 127) for 8 bits, so that the range is symmetric."""
    return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1


def affine_qparams(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of signed integers that span [low, high], widened to hold zero exactly.

    Args:
        low, high: tensors of one shape; low <= high.

    Returns:
        scale: float32, positive. zero_point: int64.
    """
    smallest, largest = affine_bounds(bits)
    low, high = torch.clamp(low.double(), max=0.0), torch.clamp(high.double(), min=0.0)
    scale = torch.clamp((high - low) / (largest - smallest), min=SMALLEST_SCALE).float()
    zero_point = torch.clamp(smallest - torch.round(low / scale.double()), smallest, largest)
    return scale, zero_point.long()


def symmetric_scale(largest_magnitude: Tensor, bits: int) -> Tensor:
    """Scale of symmetric quantization whose largest value is `largest_magnitude`; the zero point is 0."""
    return torch.clamp(largest_magnitude.float() / symmetric_bounds(bits)[1], min=SMALLEST_SCALE)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bounds: tuple[int, int]) -> Tensor:
    """The integers that stand for `x`, as int64; scale and zero point broadcast against x."""
    return torch.clamp(torch.round(x / scale) + zero_point, *bounds).long()


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The values that integers stand for."""
    return (q - zero_point) * scale


@torch.library.custom_op("distiq::dynamic_fake_quantize", mutates_args=())
def dynamic_fake_quantize(x: Tensor) -> Tensor:
    """x in float32, rounded to 8-bit affine integers that span it, as ONNX's DynamicQuantizeLinear defines them.

    One operation in an exported graph, so that a runtime's own can take its place. The gradient passes straight
    through it.
    """
    low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = torch.where(high > low, (high - low) / 255, torch.ones_like(low))
    zero_point = torch.clamp(torch.round(-low / scale), 0, 255)
    return (torch.clamp(torch.round(x / scale) + zero_point, 0, 255) - zero_point) * scale


@dynamic_fake_quantize.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


dynamic_fake_quantize.register_autograd(lambda _, gradient: gradient)


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise ratio in decibels: 10 log10(sum(r^2) / sum((r - a)^2)); inf when they are equal."""
    reference, approximation = reference.double(), approximation.double()
    noise = float((reference - approximation).square().sum())
    signal = float(reference.square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
