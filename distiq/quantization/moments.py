"""What a layer's inputs and its float outputs say, summed up chunk by chunk: all that closed-form rounding reads."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from distiq.quantization.operations import TRANSPOSED, aten, groups_of
from distiq.quantization.weights import as_rows

ENOUGH = 2**17  # positions of a layer, over all samples; of larger maps as many are drawn
PER_COLUMN = 32  # and at least so many for each weight of an output channel
SEED = 0
EVERY = 2**62


class Moments(NamedTuple):
    """Means over samples and positions, per group of channels.

    covariance: (G, K, K) of the inputs as they are, or of a block of them; cross: (G, O, K) of the error that is to be
    mended with those inputs; input_mean: (G, K) of all; error_mean: (G, O), float output minus what the weights give.
    """

    covariance: Tensor
    cross: Tensor
    input_mean: Tensor
    error_mean: Tensor


class Sums:
    """Collects the moments of a layer.

    Args:
        weight: the layer's float weights.
        samples: how many there are in all chunks together.
        block: the columns whose covariance is asked for.
        lost: what rounding took from the weights so far, (G, O, K).
    """

    def __init__(
        self, layer: fx.Node, weight: Tensor, samples: int, block: slice = slice(None), lost: Tensor | None = None
    ) -> None:
        self.layer, self.shape, self.samples, self.block, self.lost = layer, weight.shape, samples, block, lost
        self.rows = as_rows(layer, weight)
        self.terms: list[Tensor] = []
        self.count = 0
        self.generator = torch.Generator().manual_seed(SEED)

    def add(self, quantized: Tensor, original: Tensor) -> None:
        """Takes up the inputs of a chunk (B, ...): those that the layer gets, and those of the float network."""
        enough = max(ENOUGH, PER_COLUMN * self.rows.shape[2]) * len(quantized) // self.samples
        both = (quantized, original)
        given, ideal = _columns(self.layer, both, self.shape, max(enough, len(quantized)), self.generator)
        # What the float weights give on the float inputs, minus what they give on these.
        error = self.rows @ (ideal - given)
        if self.lost is not None:
            error += self.lost @ given
        own = given[:, self.block]
        turned = own.transpose(1, 2)
        terms = [own @ turned, error @ turned, given.sum(2), error.sum(2)]
        terms = [value.double() for value in terms]
        self.terms = [one + more for one, more in zip(self.terms, terms, strict=True)] if self.terms else terms
        self.count += given.shape[2]

    def moments(self, centred: bool) -> Moments:
        """The means; about the inputs' mean where the layer's bias takes that up."""
        covariance, cross, input_mean, error_mean = (value / self.count for value in self.terms)
        if centred:
            own = input_mean[:, self.block].unsqueeze(1)
            covariance = covariance - own.transpose(1, 2) * own
            cross = cross - error_mean.unsqueeze(2) * own
        return Moments(*(value.float() for value in (covariance, cross, input_mean, error_mean)))


def columns(layer: fx.Node, value: Tensor, shape: torch.Size) -> Tensor:
    """A layer's input as the columns that its weights, `as_rows`, are multiplied with: (G, K, samples * positions).

    Args:
        shape: of the weights.
    """
    return _columns(layer, (value,), shape, EVERY, torch.Generator())[0]


def _columns(
    layer: fx.Node, values: tuple[Tensor, ...], shape: torch.Size, most: int, generator: torch.Generator
) -> list[Tensor]:
    """The columns of several inputs, at most so many, at the same positions, which are drawn where there are more."""
    if layer.target is aten.linear.default:
        rows = [value.reshape(1, -1, value.shape[-1]).transpose(1, 2) for value in values]
        drawn = _drawn(rows[0].shape[2], most, generator)
        return rows if drawn is None else [row[:, :, drawn] for row in rows]
    windows = [_windows(layer, value, shape) for value in values]
    samples, channels, height, width = windows[0].shape[:4]
    drawn = _drawn(height * width, max(1, most // samples), generator)
    groups = groups_of(layer)
    found = []
    for window in windows:
        taken = window.flatten(2, 3) if drawn is None else window[:, :, drawn // width, drawn % width]
        taken = taken.reshape(samples, groups, channels // groups, taken.shape[2], -1)
        found.append(taken.permute(1, 2, 4, 0, 3).flatten(3).flatten(1, 2))
    return found


def _drawn(positions: int, most: int, generator: torch.Generator) -> Tensor | None:
    return None if positions <= most else torch.randperm(positions, generator=generator)[:most]


def _windows(layer: fx.Node, value: Tensor, shape: torch.Size) -> Tensor:
    """What the kernel sees at each position, of one dimension as of two: (B, C, H', W', kh, kw), a view of the input.

    A transposed convolution is one of stride 1 over its input with zeros between the values, its kernel turned around.
    """
    arguments: Any = [*layer.args, *[None] * (8 - len(layer.args))]
    kernel, is_flat = tuple(shape[2:]), value.ndim == 3
    transposed = layer.target in TRANSPOSED
    stride, padding, dilation = arguments[3] or 1, arguments[4] or 0, (arguments[7 if transposed else 5] or 1)
    extra = (arguments[5] or 0) if transposed else 0
    axes = len(kernel)
    if isinstance(padding, str):
        spans = [step * (size - 1) for size, step in zip(kernel, _each(dilation, axes), strict=True)]
        sides = [(span // 2, span - span // 2) if padding == "same" else (0, 0) for span in spans]
    else:
        sides = [(size, size) for size in _each(padding, axes)]
    strides, dilations = _each(stride, axes), _each(dilation, axes)
    if transposed:
        reach = [step * (size - 1) for size, step in zip(kernel, dilations, strict=True)]
        more = _each(extra, axes)
        sides = [(far - low, far - high + one) for far, (low, high), one in zip(reach, sides, more, strict=True)]
        value, strides = _with_zeros(value, strides), (1,) * axes
    value = F.pad(value, [side for pair in reversed(sides) for side in pair])
    if is_flat:  # one dimension is two of which one is 1
        value, kernel, strides, dilations = value.unsqueeze(2), (1, *kernel), (1, *strides), (1, *dilations)
    for axis, (size, stride, step) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
        value = value.unfold(axis, step * (size - 1) + 1, stride)[..., ::step]
    return value.flip(4, 5) if transposed else value


def _with_zeros(value: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Zeros between the values: (B, C, H, W) -> (B, C, (H - 1) * stride + 1, ...)."""
    sizes = [(size - 1) * stride + 1 for size, stride in zip(value.shape[2:], strides, strict=True)]
    spread = value.new_zeros(*value.shape[:2], *sizes)
    spread[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))] = value
    return spread


def _each(entry: Any, axes: int) -> tuple[int, ...]:
    """One number for all axes, alone or in a list, as one for each."""
    given = (entry,) if isinstance(entry, int) else tuple(entry)
    return given * axes if len(given) == 1 else given
