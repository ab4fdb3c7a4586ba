"""Statistics of a layer's inputs and float outputs, summed chunk by chunk: all that closed-form rounding needs."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from distiq.quantization.operations import TRANSPOSED, aten, groups_of
from distiq.quantization.weights import as_rows

ENOUGH, MOST = 2**11, 2**17  # positions of a layer over all samples; larger maps are sampled down to as many
PER_COLUMN = 64  # positions for each weight of an output channel, up to MOST
LEAST_PER_COLUMN = 32  # a minimum that overrides MOST
PIECE = 2**21  # numbers that are gathered at once
SEED = 0
EVERY = 2**62


class Moments(NamedTuple):
    """Means over samples and positions, per group of channels.

    covariance: (G, K, K) of the inputs as they are, or of a block of them; cross: (G, O, K) of the error to be
    compensated with those inputs; input_mean: (G, K) of all inputs; error_mean: (G, O), float output minus that of the
    weights.
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
        self.folds = _Fold(), _Fold()  # samples in turn to one and the other
        self.reference: Tensor | None = None
        self.seen = 0
        self.generator = torch.Generator().manual_seed(SEED)

    def add(self, quantized: Tensor, original: Tensor) -> None:
        """Adds the inputs of a chunk (B, ...): those that the layer gets, and those of the float network."""
        share = max(1, enough(self.rows.shape[2]) * len(quantized) // self.samples)
        reads = _reads(self.layer, quantized, self.shape, share, self.generator)
        for part in reads:
            given, ideal = part.columns(self.layer, quantized), part.columns(self.layer, original)
            is_odd = (self.seen + part.samples(self.layer, quantized)) % 2 == 1
            for fold, own in zip(self.folds, (~is_odd, is_odd), strict=True):
                if own.any():
                    self._add(fold, given[:, :, own], ideal[:, :, own])
        self.seen += len(quantized)

    def _add(self, fold: "_Fold", given: Tensor, ideal: Tensor) -> None:
        """Adds the sums over columns, (G, K, P) each."""
        # What the float weights give on the float inputs, minus what they give on these.
        error = self.rows @ ideal.sub_(given)
        if self.lost is not None:
            error += self.lost @ given
        # Products in float32 are summed around the first part's mean: a variance far below its square would be noise.
        if self.reference is None:
            self.reference = given.mean(2, keepdim=True)
        given -= self.reference
        own = given[:, self.block]
        turned = own.transpose(1, 2)
        fold.add([own @ turned, error @ turned, given.sum(2), error.sum(2)], given.shape[2])

    def moments(self, centred: bool) -> Moments:
        """The means; centred on the inputs' mean where the layer's bias absorbs it."""
        return self._means([fold for fold in self.folds if fold.count], centred)

    def halves(self, centred: bool) -> tuple[Moments, ...]:
        """The means over every second sample, and over the others; nothing where either is a single position."""
        if any(fold.count < 2 for fold in self.folds):
            return ()
        return tuple(self._means([fold], centred) for fold in self.folds)

    @property
    def count(self) -> int:
        """Positions that were summed over."""
        return sum(fold.count for fold in self.folds)

    def _means(self, folds: "Sequence[_Fold]", centred: bool) -> Moments:
        count = sum(fold.count for fold in folds)
        terms = (sum(parts[1:], parts[0]) for parts in zip(*(fold.terms for fold in folds), strict=True))
        covariance, cross, away, error_mean = (value / count for value in terms)
        assert self.reference is not None
        reference = self.reference.squeeze(2).double()
        own, around = away[:, self.block].unsqueeze(1), reference[:, self.block].unsqueeze(1)
        # Both are sums around `reference`; `own` leads from there to the mean, and `own + around` there from zero.
        covariance, cross = covariance - own.mT * own, cross - error_mean.unsqueeze(2) * own
        if not centred:
            mean = own + around
            covariance, cross = covariance + mean.mT * mean, cross + error_mean.unsqueeze(2) * mean
        return Moments(*(value.float() for value in (covariance, cross, reference + away, error_mean)))


class _Fold:
    """Sums over a part of the samples, in float64."""

    def __init__(self) -> None:
        self.terms: list[Tensor] = []
        self.count = 0

    def add(self, terms: Sequence[Tensor], count: int) -> None:
        more = [value.double() for value in terms]
        self.terms = [one.add_(other) for one, other in zip(self.terms, more, strict=True)] if self.terms else more
        self.count += count


def enough(columns: int) -> int:
    """How many positions the moments of that many columns are summed over."""
    return max(ENOUGH, min(MOST, PER_COLUMN * columns), LEAST_PER_COLUMN * columns)


def columns(layer: fx.Node, value: Tensor, shape: torch.Size) -> Tensor:
    """A layer's input as the columns that its weights, `as_rows`, are multiplied with: (G, K, samples * positions).

    Args:
        shape: of the weights.
    """
    return torch.cat([part.columns(layer, value) for part in _reads(layer, value, shape)], 2)


class Reads(NamedTuple):
    """What a layer reads at some of its positions: (B, P, taps) places in each channel, and which are not padding.

    For a linear layer the places (P, 1) are rows of all samples.
    """

    first: int
    places: Tensor
    inside: Tensor

    def columns(self, layer: fx.Node, value: Tensor) -> Tensor:
        """(G, K, B * P) of an input."""
        if layer.target is aten.linear.default:
            return value.reshape(-1, value.shape[-1])[self.places].t().unsqueeze(0)
        samples, positions, taps = self.places.shape
        value = value[self.first : self.first + samples].flatten(2)
        index = self.places.view(samples, 1, -1).expand(-1, value.shape[1], -1)
        picked = value.gather(2, index).mul_(self.inside.view(samples, 1, -1))
        picked = picked.view(samples, groups_of(layer), -1, positions, taps)
        if taps == 1:
            return picked.permute(1, 2, 4, 0, 3).flatten(3).flatten(1, 2)
        return picked.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2).transpose(1, 2)

    def samples(self, layer: fx.Node, value: Tensor) -> Tensor:
        """(B * P,) which sample of the input each column is of."""
        if layer.target is aten.linear.default:
            return self.places * len(value) // value.shape[:-1].numel()
        samples, positions, _ = self.places.shape
        return self.first + torch.arange(samples).repeat_interleave(positions)


def _reads(
    layer: fx.Node, value: Tensor, shape: torch.Size, most: int = EVERY, generator: torch.Generator | None = None
) -> Iterator[Reads]:
    """A layer's positions, or `most` of them over all samples, drawn, in parts that gather about `PIECE` numbers."""
    if layer.target is aten.linear.default:
        rows = value.shape[:-1].numel()
        drawn = torch.arange(rows) if rows <= most else torch.randperm(rows, generator=generator)[:most].sort().values
        for part in drawn.split(max(1, PIECE // value.shape[-1])):
            yield Reads(0, part, part)
        return
    places, inside = _taps(layer, tuple(value.shape[2:]), tuple(shape[2:]))
    positions, taps = places.shape
    count = min(positions, max(1, most // len(value)))
    order = torch.arange(positions) if count == positions else torch.randperm(positions, generator=generator)[:count]
    room = max(1, PIECE // (value.shape[1] * taps))
    size = max(1, room // count)
    for first in range(0, len(value), size):
        samples = min(size, len(value) - first)
        for some in order.split(room):
            # Each sample has different positions, though a single random order serves all of them.
            shift = 0 if count == positions else torch.randint(positions, (samples, 1), generator=generator)
            at = (some.expand(samples, -1) + shift) % positions
            yield Reads(first, places[at], inside[at])


def _taps(layer: fx.Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Where the kernel reads a channel (H * W numbers, or L), at each position of the output: places and which of them
    are no padding, both (positions, taps)."""
    arguments: Any = [*layer.args, *[None] * (8 - len(layer.args))]
    is_transposed, axes = layer.target in TRANSPOSED, len(kernel)
    strides, dilations = _each(arguments[3] or 1, axes), _each(arguments[7 if is_transposed else 5] or 1, axes)
    extra = _each((arguments[5] or 0) if is_transposed else 0, axes)
    places, inside = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    for axis, (size, taps, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        reach = dilation * (taps - 1)
        before, after = _padding(arguments[4] or 0, axis, axes, reach)
        offsets = dilation * torch.arange(taps)
        if is_transposed:  # output o = stride * input - padding + offset
            count = (size - 1) * stride - before - after + reach + extra[axis] + 1
            at = torch.arange(count).unsqueeze(1) + before - offsets
            is_read, at = at % stride == 0, at.div(stride, rounding_mode="floor")
        else:
            count = (size + before + after - reach - 1) // stride + 1
            at = torch.arange(count).unsqueeze(1) * stride - before + offsets
            is_read = torch.ones_like(at, dtype=torch.bool)
        is_read &= (at >= 0) & (at < size)
        at = at.clamp(0, size - 1)
        # The preceding axes are strided by the size of this one: (positions, 1, taps, 1) and (1, positions, 1, taps).
        places = (places[:, None, :, None] * size + at[None, :, None, :]).flatten(2).flatten(0, 1)
        inside = (inside[:, None, :, None] & is_read[None, :, None, :]).flatten(2).flatten(0, 1)
    return places, inside


def _padding(padding: Any, axis: int, axes: int, reach: int) -> tuple[int, int]:
    """Zeros before and after an axis."""
    if isinstance(padding, str):
        return (reach // 2, reach - reach // 2) if padding == "same" else (0, 0)
    return (_each(padding, axes)[axis],) * 2


def _each(entry: Any, axes: int) -> tuple[int, ...]:
    """One number for all axes, alone or in a list, as one for each."""
    given = (entry,) if isinstance(entry, int) else tuple(entry)
    return given * axes if len(given) == 1 else given
