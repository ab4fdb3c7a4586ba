"""Closed-form rounding of weights: layer by layer, each against its float original on the inputs that it really gets.

Frantar et al. 2023, "GPTQ" (arXiv:2210.17323), and Frantar and Alistarh 2022, "Optimal brain compression"
(arXiv:2208.11580), for linear, convolution, grouped and depthwise layers. Deviations: the target is what the float
network's layer gave on *its* inputs, so that a layer also mends the errors of those before it; the mean error goes into
the bias (empirical bias correction, Nagel et al. 2019, arXiv:1906.04721, section 4.2); scales are chosen by the
error that the layer's inputs make of them; wide layers are solved in blocks of their inputs.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.models.signature import Tensors, for_graph
from distiq.numerics import SMALLEST_SCALE
from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    BiasFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
)
from distiq.quantization.graph import CONVOLUTIONS, GROUPED, WEIGHTED, parameter_of

CHUNK = 32
MOST_COLUMNS = 8192  # of a layer that are solved together: more would fill the memory with their covariance
MOST_VALUES = 2**24  # of unfolded input at a time
DAMPING = 0.01  # of the mean diagonal, added to it (GPTQ's own)
PULL = 0.05  # the same, of the correction for errors of earlier layers: few samples do not move weights far
SHRINKS = 24


class Moments(NamedTuple):
    """What a layer's inputs and its float outputs say, over all samples and positions, per group of channels.

    covariance: (G, K, K) of the inputs as they are; cross: (G, O, K) of the error that is to be mended with those
    inputs; input_mean: (G, K); error_mean: (G, O), float output minus what the float weights give here.
    """

    covariance: Tensor
    cross: Tensor
    input_mean: Tensor
    error_mean: Tensor


@torch.no_grad()
def round_weights(prepared: fx.GraphModule, samples: Tensors) -> None:
    """Replaces the weights of a calibrated graph by grid values, in place, and corrects its biases.

    Args:
        prepared: its points simulate. samples: (N, ...) as the network sees them.
    """
    Rounding(prepared, samples).run()


@torch.no_grad()
def correct_biases(prepared: fx.GraphModule, samples: Tensors) -> None:
    """Adds to each bias of a calibrated graph what its layer's output lost on average, in place, layer by layer.

    Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2) of weights as they are.
    """
    Rounding(prepared, samples, only_biases=True).run()


class Rounding:
    """Runs float and quantized network side by side, node by node, and rounds each layer when it is reached."""

    def __init__(self, prepared: fx.GraphModule, samples: Tensors, only_biases: bool = False) -> None:
        self.prepared, self.only_biases = prepared, only_biases
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        entries = [node for node in prepared.graph.nodes if node.op == "placeholder"]
        self.chunks = {node: one.split(CHUNK) for node, one in zip(entries, for_graph(samples, prepared), strict=True)}
        self.count = len(self.chunks[entries[0]])
        last_use = {source: node for node in prepared.graph.nodes for source in node.all_input_nodes}
        self.finished: dict[fx.Node, list[fx.Node]] = {}
        for source, user in last_use.items():
            self.finished.setdefault(user, []).append(source)
        self.rounded: set[nn.Parameter] = set()
        self.constant: set[fx.Node] = set()  # what does not depend on the samples is computed once
        self.float: dict[fx.Node, list[Any]] = {}
        self.quantized: dict[fx.Node, list[Any]] = {}

    def run(self) -> None:
        for node in self.prepared.graph.nodes:
            if node.op == "output":
                continue
            if all(source in self.constant for source in node.all_input_nodes) and node.op != "placeholder":
                self.constant.add(node)
            self.float[node] = self._values(node, self.float, for_qat=False)
            if node.target in WEIGHTED and isinstance(self._module(_grid_node(node)), PerChannelWeightFakeQuantize):
                if self.only_biases:
                    self._correct_bias(node)
                else:
                    self._round(node)
            self.quantized[node] = self._values(node, self.quantized, for_qat=True)
            for source in self.finished.get(node, ()):
                if source.op != "get_attr":
                    self.float.pop(source, None)
                    self.quantized.pop(source, None)

    def _module(self, node: object) -> object:
        return self.modules.get(str(node.target)) if isinstance(node, fx.Node) else None

    def _values(self, node: fx.Node, known: dict[fx.Node, list[Any]], for_qat: bool) -> list[Any]:
        count = 1 if node in self.constant else self.count
        return [self._value(node, known, number, for_qat) for number in range(count)]

    def _value(self, node: fx.Node, known: dict[fx.Node, list[Any]], number: int, for_qat: bool) -> Any:
        """What a node gives for a chunk."""
        if node.op == "placeholder":
            return self.chunks[node][number]
        if node.op == "get_attr":
            # The float network keeps the values that it began with.
            value = operator.attrgetter(str(node.target))(self.prepared)
            return value if for_qat else value.detach().clone()
        return compute(node, lambda source: self._known(known, source, number), self.modules, for_qat)

    def _known(self, known: dict[fx.Node, list[Any]], source: fx.Node, number: int) -> Any:
        values = known[source]
        return values[min(number, len(values) - 1)]

    def _round(self, node: fx.Node) -> None:
        """Rounds the weights of a layer and renews what the quantized network knows of them."""
        arguments: Any = node.args
        grid_node = _grid_node(node)
        weight_point, bias_point = self._module(grid_node), None
        assert isinstance(weight_point, PerChannelWeightFakeQuantize)
        weight = parameter_of(self.prepared, grid_node)
        size = weight[0].numel()  # of a group, where a layer's inputs are grouped
        if weight in self.rounded:
            return  # a weight that two layers share keeps its first rounding
        self.rounded.add(weight)
        bias = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], fx.Node) else None
        bias_point = self._module(bias) if bias is not None else None
        has_bias = isinstance(bias_point, BiasFakeQuantize)
        groups = _groups(node)
        columns, bound = self.quantized[arguments[1]][0][0].numel(), weight_point.quant_max
        blocks = column_blocks(columns, size if size < columns else 1)
        shaped = weight.reshape(groups, -1, columns).clone()
        rounded, scale = shaped.clone(), torch.empty(0)
        for block in blocks:
            moments = self._moments(node, weight, groups, has_bias, block, shaped - rounded if block.start else None)
            wanted = shaped[:, :, block] + _correction(moments)
            if not block.start:
                # A scale is of a whole row: of several blocks it is that of the float weights, all inputs alike.
                variance = moments.covariance.diagonal(dim1=1, dim2=2)
                rows = (wanted, variance) if len(blocks) == 1 else (shaped, torch.ones(groups, columns))
                scale = choose_scale(*rows, bound, search=bound < 127, size=size)
                scale = torch.maximum(scale, weight_point.smallest_scale)
            rounded[:, :, block] = gptq(wanted, moments.covariance, scale[:, :, block], bound)
        weight.copy_(rounded.reshape(weight.shape))
        weight_point.fix(scale[:, :, ::size].flatten())
        if isinstance(bias_point, BiasFakeQuantize) and bias is not None:
            parameter = parameter_of(self.prepared, bias)
            # The mean error before the last block was rounded, and what that has added to it.
            lost = (shaped - rounded)[:, :, blocks[-1]]
            change = moments.error_mean + (lost @ moments.input_mean.unsqueeze(2)).squeeze(2)
            parameter.add_(change.flatten().to(parameter.dtype))
            bias_point.freeze(parameter)
        self._renew(*arguments[1:2], *([bias] if bias is not None else []))

    def _renew(self, *sources: fx.Node) -> None:
        """Takes up new values of parameters, through their points."""
        for source in sources:
            for inner in (*source.all_input_nodes, source):
                self.quantized[inner] = self._values(inner, self.quantized, for_qat=True)

    def _correct_bias(self, node: fx.Node) -> None:
        bias: Any = node.args[2] if len(node.args) > 2 else None
        point = self._module(bias)
        if not isinstance(point, BiasFakeQuantize) or (parameter := parameter_of(self.prepared, bias)) in self.rounded:
            return  # a layer that is used twice keeps its first correction
        self.rounded.add(parameter)
        axis = 1 if node.target in CONVOLUTIONS else -1
        outputs = zip(self.float[node], self._values(node, self.quantized, for_qat=True), strict=True)
        lost = torch.cat([(wanted - found).movedim(axis, 0).flatten(1) for wanted, found in outputs], 1)
        parameter.add_(lost.mean(1))
        point.freeze(parameter)
        self._renew(bias)

    def _moments(
        self, node: fx.Node, weight: Tensor, groups: int, centred: bool, block: slice, lost: Tensor | None
    ) -> Moments:
        """The moments of a block of the inputs; `lost` is what rounding took from the weights so far, (G, O, K)."""
        source: Any = node.args[0]
        sums: list[Tensor] | None = None
        count = 0
        for number in range(self.count):
            inputs = self._known(self.quantized, source, number)
            originals = self._known(self.float, source, number)
            samples = max(1, MOST_VALUES // max(1, inputs[0].numel() * weight[0, 0].numel()))
            for given, original in zip(inputs.split(samples), originals.split(samples), strict=True):
                ours, theirs = (_columns(node, value, weight, groups) for value in (given, original))
                # What the float weights give on the float inputs, minus what they give on these.
                error = weight.reshape(groups, -1, ours.shape[1]) @ (theirs - ours)
                if lost is not None:
                    error += lost @ ours
                ours = ours[:, block]
                terms = [ours @ ours.transpose(1, 2), error @ ours.transpose(1, 2), ours.sum(2), error.sum(2)]
                terms = [value.double() for value in terms]
                sums = terms if sums is None else [one + other for one, other in zip(sums, terms, strict=True)]
                count += ours.shape[2]
        assert sums is not None
        covariance, cross, input_mean, error_mean = (value / count for value in sums)
        if centred:  # the bias takes up the means
            covariance = covariance - input_mean.unsqueeze(2) * input_mean.unsqueeze(1)
            cross = cross - error_mean.unsqueeze(2) * input_mean.unsqueeze(1)
        return Moments(*(value.float() for value in (covariance, cross, input_mean, error_mean)))


def compute(node: fx.Node, known: Callable[[fx.Node], Any], modules: Mapping[str, nn.Module], for_qat: bool) -> Any:
    """What a node that calls something gives, from what is known of its sources; without grids, points pass it on."""
    found: Any = fx.map_arg((node.args, dict(node.kwargs)), known)
    args, kwargs = found
    if node.op == "call_module":
        module = modules[str(node.target)]
        is_fake_quantize = isinstance(
            module, ActivationFakeQuantize | DynamicFakeQuantize | PerChannelWeightFakeQuantize | BiasFakeQuantize
        )
        return args[0] if is_fake_quantize and not for_qat else module(*args, **kwargs)
    assert node.op == "call_function", node.op
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        args = (args[0].clone(), *args[1:])  # `x += ...` must not change what is kept of x
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _grid_node(layer: fx.Node) -> fx.Node:
    """The node of a layer's weight point, which may stand behind the view of grouped weights."""
    weight: Any = layer.args[1]
    return weight.args[0] if weight.op == "call_function" and weight.meta.get(GROUPED) else weight


def column_blocks(columns: int, size: int) -> list[slice]:
    """Even parts of a layer's inputs that are solved one after the other, `MOST_COLUMNS` at most, of whole groups of
    `size`; each mends what those before it lost."""
    count = -(-columns // MOST_COLUMNS)
    width = -(-columns // (count * size)) * size
    return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]


def _groups(node: fx.Node) -> int:
    arguments: Any = node.args
    return int(arguments[6]) if node.target in CONVOLUTIONS and len(arguments) > 6 else 1


def _columns(node: fx.Node, value: Tensor, weight: Tensor, groups: int) -> Tensor:
    """A layer's input as the columns that its weights are multiplied with: (groups, K, samples * positions)."""
    if node.target not in CONVOLUTIONS:
        return value.reshape(1, -1, value.shape[-1]).transpose(1, 2)
    arguments: Any = [*node.args, *[None] * (7 - len(node.args))]
    stride, padding, dilation = (arguments[place] or default for place, default in ((3, 1), (4, 0), (5, 1)))
    kernel = tuple(weight.shape[2:])
    if value.ndim == 3:  # one dimension is two of which one is 1
        value, kernel = value.unsqueeze(2), (1, *kernel)
        stride, dilation = ((1, *_pair(entry, 1)) for entry in (stride, dilation))
        padding = padding if isinstance(padding, str) else (0, *_pair(padding, 1))
    if isinstance(padding, str):
        value = _padded_same(value, kernel, _pair(dilation, 2)) if padding == "same" else value
        padding = 0
    unfolded = F.unfold(value, kernel, dilation, padding, stride)
    batch, rows, positions = unfolded.shape
    return unfolded.view(batch, groups, rows // groups, positions).permute(1, 2, 0, 3).flatten(2)


def _pair(value: Any, length: int) -> tuple[int, ...]:
    return (int(value),) * length if isinstance(value, int) else tuple(value)


def _padded_same(value: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    sides = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    return F.pad(value, sides)


def _correction(moments: Moments) -> Tensor:
    """The change of the weights that mends what earlier layers did wrong: least squares, pulled towards none."""
    diagonal = moments.covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    eye = torch.eye(moments.covariance.shape[1])
    damped = moments.covariance + PULL * diagonal.view(-1, 1, 1) * eye
    return torch.linalg.solve(damped.double(), moments.cross.transpose(1, 2).double()).transpose(1, 2).float()


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
            error = ((_on_grid(weight, scale, bound) - weight).square() * variance).sum(3, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.expand_as(weight).reshape(shape)


def _on_grid(weight: Tensor, scale: Tensor, bound: int) -> Tensor:
    return torch.clamp(torch.round(weight / scale), -bound, bound) * scale


def gptq(weight: Tensor, covariance: Tensor, scale: Tensor, bound: int) -> Tensor:
    """Rounds column by column; what a column loses, the columns that follow make up for as well as they can.

    Columns go in the order of falling variance ("act order").

    Shapes: (G, O, K), (G, K, K), (G, O, K) or (G, O, 1) -> (G, O, K), on the grid.
    """
    groups, _, columns = weight.shape
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(1, descending=True)
    back = order.argsort(1)
    weight = weight.gather(2, order.unsqueeze(1).expand_as(weight)).clone()
    scale = scale.expand_as(weight).gather(2, order.unsqueeze(1).expand_as(weight))
    covariance = covariance.gather(1, order.unsqueeze(2).expand_as(covariance))
    covariance = covariance.gather(2, order.unsqueeze(1).expand_as(covariance)).double()
    damping = (DAMPING * diagonal.mean(1)).clamp(min=1e-10).view(groups, 1, 1).double()
    eye = torch.eye(columns, dtype=torch.float64)
    # Of inputs that hardly vary around a large mean, float32 leaves a matrix that is not positive: more damping.
    while torch.linalg.cholesky_ex(covariance + damping * eye).info.any():
        damping = 10 * damping
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + damping * eye))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    rounded = torch.empty_like(weight)
    for column in range(columns):
        own = weight[:, :, column : column + 1]
        rounded[:, :, column : column + 1] = _on_grid(own, scale[:, :, column : column + 1], bound)
        loss = (own - rounded[:, :, column : column + 1]) / factor[:, column, column].view(groups, 1, 1)
        weight[:, :, column:] -= loss * factor[:, column : column + 1, column:]
    return rounded.gather(2, back.unsqueeze(1).expand_as(rounded))
