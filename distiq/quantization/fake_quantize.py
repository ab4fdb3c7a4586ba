"""Fake-quantize modules: they stand in a prepared graph wherever a tensor will be quantized.

During calibration they observe, then they simulate quantization, with a straight-through gradient. torchao's
`prepare_pt2e` places them and `convert_pt2e` replaces each by a quantize / dequantize pair with the same numbers.
"""

import contextlib
import math
from collections.abc import Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.observer import ObserverBase

from distiq.numerics import SMALLEST_SCALE, affine_qparams, dynamic_fake_quantize, symmetric_scale
from distiq.quantization.ranges import Function, Histogram, activation_range
from distiq.quantization.scheme import Scheme

LARGEST_BIAS = 2.0**30


@contextlib.contextmanager
def only_enabled(network: nn.Module, enabled: Collection[nn.Module] = ()) -> Iterator[None]:
    """Lets only these fake-quantizers of a network quantize; the others pass values through, unseen by observers."""
    modules: list[Any] = [module for module in network.modules() if hasattr(module, "enabled")]
    for module in modules:
        module.enabled = module in enabled
    try:
        yield
    finally:
        for module in modules:
            module.enabled = True


class ActivationFakeQuantize(ObserverBase):
    """Per-tensor fake quantization: affine, or symmetric where values lie on both sides of zero.

    `scale` and `zero_point` are set by `freeze`, and saved with the graph; `learn` trains the scale.
    """

    def __init__(
        self, dtype: torch.dtype, quant_min: int, quant_max: int, qscheme: torch.qscheme, scheme: Scheme, **_: Any
    ) -> None:
        super().__init__(dtype)
        self.quant_min, self.quant_max, self.qscheme, self.scheme = quant_min, quant_max, qscheme, scheme
        self.mode: Literal["observe", "simulate"] = "observe"
        self.enabled = True  # while it is not, values pass unchanged
        self.histogram = Histogram()
        self.through: Function | None = None  # the only consumer of the values; see `mse_range`
        self.keeps_extremes = False  # the range is as wide as all values, whatever the scheme says
        self.scale: Tensor
        self.zero_point: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "observe" and self.enabled:
            self.histogram.update(x)
        if self.mode == "observe" or not self.enabled:
            return x
        zero_point = int(self.zero_point)
        low, high = self.quant_min - zero_point, self.quant_max - zero_point
        if isinstance(self.scale, nn.Parameter):
            return _LearnedStepFunction.apply(x, self.scale, low, high)
        return _FakeQuantizeFunction.apply(x, float(self.scale), low, high)

    def freeze(self) -> None:
        """Sets scale and zero point from the observed values and begins to simulate."""
        seen = self.histogram
        wide = (seen.low, seen.high)
        bits = self.quant_max.bit_length() + 1
        keeps = self.keeps_extremes or bits == 16
        low, high = wide if keeps else activation_range(seen, self.scheme, self.through)
        if bits == 16 or (
            self.qscheme == torch.per_tensor_symmetric and low < 0
        ):  # kernels for 16-bit activations have no zero points
            high = max(high, -low * self.quant_max / -self.quant_min)
            low = high * self.quant_min / self.quant_max
        scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), bits)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.histogram = Histogram()
        self.mode = "simulate"

    def learn(self) -> None:
        """Makes the frozen scale a parameter that starts at its value; the zero point stays."""
        scale = self.scale.clone()
        del self.scale
        self.scale = nn.Parameter(scale)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return torch.clamp(self.scale.detach(), min=SMALLEST_SCALE), self.zero_point


class _FakeQuantizeFunction(torch.autograd.Function):
    """Rounds to whole steps within bounds; the gradient passes where the value lies inside them.

    The same as `torch.fake_quantize_per_tensor_affine`, whose kernel takes ten times as long on a CPU (with the scale
    and the bounds as tensors, three times as long again). The steps are rounded before the zero point is added, as in
    the runtimes, so that ties are broken the same way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = (low - 0.5) * scale, (high + 0.5) * scale
        return (x * (1 / scale)).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.bounds), None, None, None


class _LearnedStepFunction(torch.autograd.Function):
    """The same values and the same gradient for x; the gradient for the scale is that of Esser et al. 2020, equation 3.

    For x rounded to step q it is q - x / scale where x lies within the bounds, and q where it is clipped, times the
    gradient of the result. The sum is divided by sqrt(values per sample * largest step), so that scales and weights
    learn at similar speeds. Deviations: x counts as within the bounds wherever its gradient passes, up to half a step
    beyond the limits; the largest step is counted from the smallest, and zero keeps its place among them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        step = max(float(scale), SMALLEST_SCALE)
        quantized = (x * (1 / step)).round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(x, quantized)
        ctx.step, ctx.bounds = step, ((low - 0.5) * step, (high + 0.5) * step)
        ctx.factor = 1 / math.sqrt(x[0].numel() * (high - low))
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        x, quantized = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.bounds)
        slope = torch.addcmul(gradient * quantized, inside, x, value=-1).sum() / ctx.step
        return inside, slope * ctx.factor, None, None


class DynamicFakeQuantize(nn.Module):
    """Affine per-tensor fake quantization whose scale and zero point are computed from each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True  # while it is not, values pass unchanged

    def forward(self, x: Tensor) -> Tensor:
        return dynamic_fake_quantize(x) if self.enabled else x


class PerChannelWeightFakeQuantize(ObserverBase):
    """Symmetric scales per output channel: computed from the current weights, fixed by `fix`, or trained by `learn`.

    `smallest_scale` keeps a channel's range wide enough for its bias: see `BiasFakeQuantize`. torchao hands the
    channel axis only to a class whose name says "PerChannel".
    """

    def __init__(
        self, dtype: torch.dtype, quant_min: int, quant_max: int, qscheme: torch.qscheme, ch_axis: int, **_: Any
    ) -> None:
        super().__init__(dtype)
        self.quant_min, self.quant_max, self.qscheme, self.ch_axis = quant_min, quant_max, qscheme, ch_axis
        self.enabled = True  # while it is not, weights pass unchanged
        self.latest: Tensor = torch.empty(0)
        self.smallest_scale: Tensor
        self.scale: Tensor | None
        self.register_buffer("smallest_scale", torch.tensor(SMALLEST_SCALE))
        self.register_buffer("scale", None)

    def fix(self, scale: Tensor) -> None:
        """Keeps these scales (channels,) from now on: rounding has made the weights multiples of them."""
        self.scale = scale.detach().clone()

    def follow(self) -> None:
        """From now on computes the scales from the current weights, which training moves off the fixed grid."""
        self.scale = None

    def learn(self) -> None:
        """Makes the scales a parameter that begins where they are (Esser et al. 2020, "Learned step size
        quantization", arXiv:1902.08153)."""
        scale = self.calculate_qparams()[0].clone()
        del self.scale
        self.scale = nn.Parameter(scale)

    def forward(self, x: Tensor) -> Tensor:
        self.latest = x.detach()
        if not self.enabled:
            return x
        if isinstance(self.scale, nn.Parameter):
            return learned_step(x, torch.maximum(self.scale, self.smallest_scale), self.quant_max, self.ch_axis)
        scale, zero_point = self.calculate_qparams()
        return torch.fake_quantize_per_channel_affine(
            x, scale, zero_point, self.ch_axis, self.quant_min, self.quant_max
        )

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self.scale is not None:
            scale = torch.maximum(self.scale.detach(), self.smallest_scale)
            return scale, torch.zeros_like(scale, dtype=torch.int32)
        magnitude = self.latest.movedim(self.ch_axis, 0).flatten(1).abs().amax(1)
        scale = torch.maximum(symmetric_scale(magnitude, (self.quant_max + 1).bit_length()), self.smallest_scale)
        return scale, torch.zeros_like(magnitude, dtype=torch.int32)


def along(scale: Tensor, axis: int, weight: Tensor) -> Tensor:
    """Scales (channels,) in a shape that broadcasts over the weights, whose channels lie on that axis."""
    return scale.view([-1 if dimension == axis else 1 for dimension in range(weight.ndim)])


def learned_step(weight: Tensor, scale: Tensor, bound: int, axis: int = 0) -> Tensor:
    """Weights (..., O, ...) quantized with scales (O,), with gradients for both (Esser et al. 2020, equations 1-5).

    The gradient passes straight through the rounding and stops where a weight is clipped; the scale's gradient is
    divided by sqrt(weights of the channel * bound), so that scales and weights learn at similar speeds.
    """
    factor = 1 / math.sqrt(weight.numel() / len(scale) * bound)
    scale = scale.detach() + (scale - scale.detach()) * factor  # its value to the last bit, as in the file
    scale = along(scale, axis, weight)
    steps = torch.clamp(weight / scale, -bound, bound)
    return (steps + (torch.round(steps) - steps).detach()) * scale


class BiasFakeQuantize(nn.Module):
    """The bias of a weighted layer, quantized as its accumulator is: int32 of scale s_x * s_w (Jacob et al. 2018).

    Integer kernels add the bias there. For a depthwise layer that scale can be as coarse as the output's, so the
    simulation must round the bias too, or the deployed file gives other outputs.
    """

    def __init__(self, activation: ActivationFakeQuantize, weight: PerChannelWeightFakeQuantize) -> None:
        super().__init__()
        self.pair = (activation, weight)  # in a tuple, so that they are not registered a second time
        self.value = torch.empty(0)  # the rounded bias, while the graph is converted

    def forward(self, bias: Tensor) -> Tensor:
        activation, weight = self.pair
        if activation.mode == "observe" or not (activation.enabled and weight.enabled):
            return bias
        return bias + (self.rounded(bias.detach()) - bias.detach())

    def rounded(self, bias: Tensor) -> Tensor:
        scale = self.scale()
        scale = scale.repeat(len(bias) // len(scale))  # groups of a transposed convolution have the same scales
        return torch.round(bias / scale) * scale

    def scale(self) -> Tensor:
        activation, weight = self.pair
        return activation.calculate_qparams()[0] * weight.calculate_qparams()[0]

    def freeze(self, bias: Tensor) -> None:
        """Raises the weights' scale where the bias would not fit into 31 bits: in a channel of almost zero weights."""
        activation, weight = self.pair
        needed = bias.detach().abs().max() / (activation.calculate_qparams()[0] * LARGEST_BIAS)
        weight.smallest_scale.copy_(torch.clamp(needed, min=SMALLEST_SCALE))
