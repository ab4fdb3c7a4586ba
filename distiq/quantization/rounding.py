"""Closed-form rounding of weights: layer by layer, each against its float original on the inputs that it really gets.

Frantar et al. 2023, "GPTQ" (arXiv:2210.17323), and Frantar and Alistarh 2022, "Optimal brain compression"
(arXiv:2208.11580), for linear, convolution, grouped and depthwise layers. Deviations: the target is what the float
network's layer gave on *its* inputs, so that a layer also mends the errors of those before it; the mean error goes into
the bias (empirical bias correction, Nagel et al. 2019, arXiv:1906.04721, section 4.2); scales are chosen by the
error that the layer's inputs make of them.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError
from distiq.models.signature import Tensors
from distiq.numerics import SMALLEST_SCALE, symmetric_bounds
from distiq.quantization.annotate import GROUPED
from distiq.quantization.fake_quantize import BiasFakeQuantize, PerChannelWeightFakeQuantize
from distiq.quantization.graph import parameter_of
from distiq.quantization.moments import Moments, Sums
from distiq.quantization.operations import TRANSPOSED, WEIGHTED, aten
from distiq.quantization.streaming import SideBySide
from distiq.quantization.weights import as_rows, from_rows

MOST_COLUMNS = 6144  # of a layer that are solved together: more would fill the memory with their covariance
EIGHT_BITS = symmetric_bounds(8)[1]
DAMPING = 0.1  # of the mean diagonal, added to it; less fits the columns of few samples too closely
PULLS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The same for the correction of earlier layers' errors, which few samples would make too large."""
FIRST_PULL = 0.1
SHRINKS = 24
SWEEPS = 4
LAZY = 128  # columns whose rounding errors are passed on to later columns in one product (GPTQ's default)


@torch.no_grad()
def round_weights(prepared: fx.GraphModule, samples: Tensors) -> int:
    """Replaces the weights of a calibrated graph by quantized values, in place, and corrects its biases.

    Args:
        prepared: its fake-quantize modules simulate. samples: (N, ...) as the network sees them.

    Returns:
        how many of the samples it read: 256, or as many as `streaming.KEPT_BYTES` hold between two layers.
    """
    return Rounding(prepared, samples).run()


@torch.no_grad()
def correct_biases(prepared: fx.GraphModule, samples: Tensors) -> int:
    """Adds to each bias of a calibrated graph the mean error of its layer's output, in place, layer by layer.

    Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2) of weights as they are. Returns the
    samples read, as `round_weights` does.
    """
    return Rounding(prepared, samples, only_biases=True).run()


class Rounding:
    """Advances float and quantized network side by side from layer to layer, and rounds each when it is reached."""

    def __init__(self, prepared: fx.GraphModule, samples: Tensors, only_biases: bool = False) -> None:
        self.prepared, self.only_biases = prepared, only_biases
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        self.networks = SideBySide(prepared, samples, self._is_layer)
        self.rounded: set[nn.Parameter] = set()
        self.pull = FIRST_PULL

    def run(self) -> int:
        """Rounds layer by layer; returns how many samples were read."""
        for layer, part in zip(self.networks.layers, self.networks.parts, strict=False):  # nothing reads the last part
            self._round(layer, part)
        return self.networks.count

    def _is_layer(self, node: fx.Node) -> bool:
        return node.target in WEIGHTED and isinstance(self._module(weights_node(node)), PerChannelWeightFakeQuantize)

    def _module(self, node: object) -> object:
        return self.modules.get(str(node.target)) if isinstance(node, fx.Node) else None

    def _round(self, layer: fx.Node, part: Sequence[fx.Node]) -> None:
        """Advances to a layer's input, rounds its weights, corrects its bias and renews what is known of them."""
        arguments: Any = layer.args
        bias: Any = arguments[2] if len(arguments) > 2 else None
        bias_fake_quantize, source = self._module(bias), arguments[0]
        has_bias = isinstance(bias_fake_quantize, BiasFakeQuantize)
        weight = parameter_of(self.prepared, weights_node(layer))
        if weight in self.rounded or (self.only_biases and not has_bias):
            self.networks.advance(part, source, lambda _: None)
            return  # a weight that two layers share keeps its first rounding
        self.rounded.add(weight)
        if self.only_biases:
            change = self._lost_on_average(layer, part)
        else:
            change = self._rounded(layer, part, weight, has_bias)
            self.networks.renew(arguments[1])
        if isinstance(bias_fake_quantize, BiasFakeQuantize):
            parameter = parameter_of(self.prepared, bias)
            parameter.add_(change.flatten().to(parameter.dtype))
            bias_fake_quantize.freeze(parameter)
            self.networks.renew(arguments[1])
            self.networks.renew(bias)

    def _lost_on_average(self, layer: fx.Node, part: Sequence[fx.Node]) -> Tensor:
        """(G, O): the mean of a layer's float output minus that of its output with the weights as they are."""
        arguments: Any = layer.args
        weight = self.networks.constants[arguments[1]]
        sums = Sums(layer, weight.original, self.networks.count, slice(0, 0))
        self.networks.advance(part, arguments[0], lambda pair: sums.add(pair.quantized, pair.original))
        moments = sums.moments(centred=False)
        lost = sums.rows - as_rows(layer, weight.quantized)
        return moments.error_mean + (lost @ moments.input_mean.unsqueeze(2)).squeeze(2)

    def _rounded(self, layer: fx.Node, part: Sequence[fx.Node], weight: nn.Parameter, centred: bool) -> Tensor:
        """Rounds a layer's weights in place; gives the mean error of its output then, (G, O)."""
        fake_quantize = self._module(weights_node(layer))
        assert isinstance(fake_quantize, PerChannelWeightFakeQuantize)
        arguments: Any = layer.args
        stored, bound = self.networks.constants[arguments[1]].original, fake_quantize.quant_max
        rows = as_rows(layer, stored)
        rounded, scale, change = rows.clone(), torch.empty(0), torch.empty(0)
        columns = rows.shape[2]
        size = weight[0].numel() if layer.target is aten.linear.default else columns  # of what shares a scale
        blocks = column_blocks(columns, size if size < columns else 1)
        for block in blocks:
            sums = Sums(layer, stored, self.networks.count, block, rows - rounded if block.start else None)
            self.networks.advance(() if block.start else part, arguments[0], lambda pair: sums.add(*reversed(pair)))  # noqa: B023
            moments = sums.moments(centred)
            self.pull = _pull(sums.halves(centred), self.pull)
            target = rows[:, :, block] + _correction(moments, self.pull / 2)
            if not block.start:
                # A scale serves a whole row: with several blocks it comes from the float weights, all inputs alike.
                variance = moments.covariance.diagonal(dim1=1, dim2=2)
                alike = torch.ones(len(rows), columns)
                read = (target, variance) if len(blocks) == 1 else (rows, alike)
                scale = torch.maximum(_scales(layer, *read, bound, size), fake_quantize.smallest_scale)
            rounded[:, :, block] = gptq(target, moments.covariance, scale[:, :, block], bound)
            if bound < EIGHT_BITS:
                refits = len(blocks) == 1 and size == columns and layer.target not in TRANSPOSED
                smallest = fake_quantize.smallest_scale if refits else None
                given = rounded[:, :, block], moments.covariance, scale[:, :, block]
                rounded[:, :, block], scale[:, :, block] = descend(target, *given, bound, smallest)
            # The mean error before the block was rounded, plus the error that rounding it has added.
            lost = (rows - rounded)[:, :, block] @ moments.input_mean[:, block].unsqueeze(2)
            change = moments.error_mean + lost.squeeze(2)
        weight.copy_(from_rows(layer, rounded, stored.shape).reshape(weight.shape))
        fake_quantize.fix(scale[0, :, 0] if layer.target in TRANSPOSED else scale[:, :, ::size].flatten())
        return change


def weights_node(layer: fx.Node) -> fx.Node:
    """The node of a layer's weight fake-quantizer, which may stand behind the view of grouped weights."""
    weight: Any = layer.args[1]
    return weight.args[0] if weight.op == "call_function" and weight.meta.get(GROUPED) else weight


def column_blocks(columns: int, size: int) -> list[slice]:
    """Even parts of a layer's inputs that are solved one after the other, `MOST_COLUMNS` at most, of whole groups of
    `size`; each mends what those before it lost."""
    count = -(-columns // MOST_COLUMNS)
    width = -(-columns // (count * size)) * size
    return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]


def _scales(layer: fx.Node, rows: Tensor, variance: Tensor, bound: int, size: int) -> Tensor:
    """`choose_scale` of a layer's rows; the groups of a transposed convolution have their scales in common."""
    search = bound < EIGHT_BITS
    if layer.target not in TRANSPOSED:
        return choose_scale(rows, variance, bound, search, size)
    together = rows.transpose(0, 1).flatten(1).unsqueeze(0)
    scale = choose_scale(together, variance.flatten().unsqueeze(0), bound, search)
    return scale[:, :, :1].expand(rows.shape)


def _correction(moments: Moments, pull: float) -> Tensor:
    """The weight change that compensates for the errors of earlier layers: least squares, regularized towards zero."""
    return torch.cholesky_solve(
        moments.cross.transpose(1, 2).double(), _damped(moments.covariance, pull, 1e-12)
    ).mT.float()


def _pull(halves: Sequence[Moments], start: float) -> float:
    """How strongly a layer's correction is pulled towards zero: as is best for samples that it was not made from.

    Two-fold cross-validation of the ridge, from `start` (a layer's neighbour) to the next minimum. All samples together
    need half of what one half needs, since the error of an estimate falls with their number; so halved it is used.
    """
    if not halves:
        return start

    @cache
    def error(place: int) -> float:
        if not 0 <= place < len(PULLS):
            return math.inf
        pairs = (halves, halves[::-1])
        return sum(_left(_correction(own, PULLS[place]), other) for own, other in pairs)

    place = PULLS.index(start)
    while (best := min(place - 1, place, place + 1, key=error)) != place:
        place = best
    return PULLS[place]


def _left(change: Tensor, moments: Moments) -> float:
    """The squared error of a layer's output that a weight change leaves, less what there is without it."""
    return float(((change @ moments.covariance - 2 * moments.cross) * change).double().sum())


def _damped(covariance: Tensor, share: float, least: float) -> Tensor:
    """The Cholesky factor, in float64, of a covariance with a share of its mean diagonal added to that.

    If the inputs hardly vary around a large mean, the float32 matrix is not positive definite: then more is added.

    Raises:
        UserError: float32 does not hold the covariance.
    """
    if not torch.isfinite(covariance).all():
        raise UserError(
            "closed-form rounding squares the values that reach each layer, and float32 does not hold the squares of"
            " some: scale the inputs or weights so that all values stay below 1e18"
        )
    damping = share * covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=least).view(-1, 1, 1).double()
    matrix, eye = covariance.double(), torch.eye(covariance.shape[1], dtype=torch.float64)
    while (factor := torch.linalg.cholesky_ex(matrix + damping * eye)).info.any():
        damping = 10 * damping
    return factor.L


def choose_scale(weight: Tensor, variance: Tensor, bound: int, search: bool, size: int = 0) -> Tensor:
    """A symmetric scale for every row: of its largest weight, or of the least error under the inputs' variances.

    Args:
        size: so many neighbours of a row share a scale; 0 for the whole row.

    Shapes: (G, O, K), (G, K) -> (G, O, K).
    """
    shape, size = weight.shape, size or weight.shape[2]
    weight = weight.reshape(*shape[:2], -1, size)
    best = full = weight.abs().amax(3, keepdim=True).clamp(min=bound * SMALLEST_SCALE) / bound
    if search:
        variance = variance.clamp(min=0).reshape(shape[0], 1, -1, size)
        least = torch.full_like(full, math.inf)
        for shrink in torch.linspace(1.0, 0.35, SHRINKS).tolist():
            scale = full * shrink
            error = ((_to_nearest(weight, scale, bound) - weight).square() * variance).sum(3, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.expand_as(weight).reshape(shape)


def _to_nearest(weight: Tensor, scale: Tensor, bound: int) -> Tensor:
    return torch.clamp(torch.round(weight / scale), -bound, bound) * scale


def gptq(weight: Tensor, covariance: Tensor, scale: Tensor, bound: int) -> Tensor:
    """Rounds column by column; the following columns compensate for each column's error as well as they can.

    Columns go in the order of falling variance ("act order").

    Shapes: (G, O, K), (G, K, K), (G, O, K) or (G, O, 1) -> (G, O, K), on the quantization grid.
    """
    groups, _, columns = weight.shape
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(1, descending=True)
    back = order.argsort(1)
    weight = weight.gather(2, order.unsqueeze(1).expand_as(weight)).clone()
    scale = scale.expand_as(weight).gather(2, order.unsqueeze(1).expand_as(weight))
    covariance = covariance.gather(1, order.unsqueeze(2).expand_as(covariance))
    covariance = covariance.gather(2, order.unsqueeze(1).expand_as(covariance))
    inverse = torch.cholesky_inverse(_damped(covariance, DAMPING, 1e-10 / DAMPING))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    rounded = torch.empty_like(weight)
    for start in range(0, columns, LAZY):
        block = slice(start, min(start + LAZY, columns))
        losses = torch.empty_like(weight[:, :, block])
        own, own_factor = weight[:, :, block].clone(), factor[:, block, block]
        for column in range(block.stop - start):
            value = own[:, :, column : column + 1]
            place = slice(start + column, start + column + 1)
            rounded[:, :, place] = _to_nearest(value, scale[:, :, place], bound)
            loss = (value - rounded[:, :, place]) / own_factor[:, column, column].view(groups, 1, 1)
            own[:, :, column:] -= loss * own_factor[:, column : column + 1, column:]
            losses[:, :, column : column + 1] = loss
        weight[:, :, block.stop :] -= losses @ factor[:, block, block.stop :]  # all at once ("lazy batch updates")
    return rounded.gather(2, back.unsqueeze(1).expand_as(rounded))


def descend(
    weight: Tensor, rounded: Tensor, covariance: Tensor, scale: Tensor, bound: int, smallest: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Coordinate descent on rounded weights: each in turn takes the best integer, with all others held fixed.

    Behdin et al. 2023, "QuantEase" (arXiv:2309.01885), from GPTQ's result; no step makes the layer's output worse.
    Before each sweep a row gets the scale of least error for its integers.

    Args:
        smallest: what no scale falls below; without it the scales stay.

    Shapes: (G, O, K), (G, O, K), (G, K, K), (G, O, K) -> (G, O, K) on the quantization grid, (G, O, K) scales.
    """
    columns = weight.shape[2]
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    damping = DAMPING * diagonal.mean(1).clamp(min=1e-10 / DAMPING).view(-1, 1, 1)
    covariance = covariance + damping * torch.eye(columns)
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    for _ in range(SWEEPS):
        if smallest is not None:
            integers = torch.round(rounded / scale)
            read = integers @ covariance
            best = (read * weight).sum(2, keepdim=True) / (read * integers).sum(2, keepdim=True).clamp(min=1e-30)
            scale = torch.where(best > 0, torch.maximum(best, smallest), scale)
            rounded = integers * scale
        slope = (rounded - weight) @ covariance
        for start in range(0, columns, LAZY):
            block = slice(start, min(start + LAZY, columns))
            own, own_covariance = slope[:, :, block].clone(), covariance[:, block, block]
            before = rounded[:, :, block].clone()
            for column in range(block.stop - start):
                place = start + column
                wished = rounded[:, :, place] - own[:, :, column] / diagonal[:, place].unsqueeze(1)
                quantized = _to_nearest(wished, scale[:, :, place], bound)
                change = quantized - rounded[:, :, place]
                rounded[:, :, place] = quantized
                own += change.unsqueeze(2) * own_covariance[:, column].unsqueeze(1)
            slope += (rounded[:, :, block] - before) @ covariance[:, block]
    return rounded, scale
