"""Learned rounding of weights: each layer, or each block, is brought back to its float original. No labels are needed.

Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization" (arXiv:2004.10568), equations 21-25,
layer by layer; Li et al. 2021, "BRECQ" (arXiv:2102.05426), block by block; there with Wei et al. 2022, "QDrop"
(arXiv:2203.05740). Deviations: the error is divided by the power of the float output, so that the regularizer has the
same weight at any scale; the learning rate is chosen so that few steps of Adam can go as far as many; batches are fixed
groups of 32 samples, taken in random order; rounding may begin at GPTQ's result; a result that is no better than its
starting point is discarded.
"""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError
from distiq.models.signature import Tensors, for_graph
from distiq.numerics import symmetric_bounds
from distiq.progress import Silent, Watch
from distiq.quantization.blocks import Span, block_spans, layer_spans
from distiq.quantization.fake_quantize import ActivationFakeQuantize, PerChannelWeightFakeQuantize, along
from distiq.quantization.graph import parameter_of
from distiq.quantization.regions import constant_nodes
from distiq.quantization.rounding import choose_scale, correct_biases, round_weights
from distiq.quantization.scheme import Scheme
from distiq.quantization.soft_rounding import SoftRounding
from distiq.quantization.streaming import compute

CHUNK = 32  # samples of a step
WEIGHT = 0.01  # of the regularizer, as in BRECQ and QDrop
BETA = (20.0, 2.0)
WARM_UP = 0.2  # share of the steps without the regularizer
DROP = 0.5  # probability that a value keeps its float form (QDrop)
WAY = 10.0  # sum of the learning rates over all steps: 10,000 steps of the paper's 1e-3
FASTEST = 0.1
HELD = 0.5  # where a rounding begins: share of GPTQ's integer; the rest is the position of the float weight
Nodes = tuple[fx.Node, ...]


def float_values(prepared: fx.GraphModule) -> dict[str, Tensor]:
    """What the graph's parameters and constants are before rounding, by name."""
    names = [str(node.target) for node in prepared.graph.nodes if node.op == "get_attr"]
    return {name: operator.attrgetter(name)(prepared).detach().clone() for name in names}


@torch.no_grad()
def reconstruct(
    prepared: fx.GraphModule, samples: Tensors, scheme: Scheme, seed: int = 0, watch: Watch | None = None
) -> None:
    """Replaces the weights of a calibrated graph by quantized values, in place, part by part.

    Args:
        prepared: its fake-quantize modules simulate.
        samples: (N, ...) as the network sees them.
        scheme: "adaround" goes by layers, "brecq" by blocks.

    Raises:
        UserError: no steps to learn in.
    """
    if scheme.iterations < 1:
        raise UserError(f"iterations = {scheme.iterations}: rounding is learned in steps; take 1 or more, 300 is quick")
    originals = float_values(prepared)
    if scheme.rounding_start == "gptq":
        round_weights(prepared, samples)
    spans = block_spans(prepared) if scheme.rounding == "brecq" else layer_spans(prepared)
    fix_scales(prepared, spans)
    if scheme.correct_biases and not scheme.closed_form:
        correct_biases(prepared, samples)
    Reconstruction(prepared, samples, spans, originals, scheme, seed).run(watch or Silent())


def fix_scales(prepared: fx.GraphModule, spans: list[Span]) -> None:
    """Fixes the scales of weights that have none fixed yet, by least squared error, in place."""
    modules = dict(prepared.named_modules(remove_duplicate=False))  # a shared module has several names
    for layer in (layer for span in spans for layer in span.layers):
        node: Any = layer.args[1]
        fake_quantize, weight = modules[str(node.target)], parameter_of(prepared, node)
        assert isinstance(fake_quantize, PerChannelWeightFakeQuantize)
        if fake_quantize.scale is None:
            rows = weight.movedim(fake_quantize.ch_axis, 0).flatten(1).unsqueeze(0)
            is_narrow = fake_quantize.quant_max < symmetric_bounds(8)[1]
            scale = choose_scale(rows, torch.ones(1, rows.shape[2]), fake_quantize.quant_max, search=is_narrow)
            fake_quantize.fix(torch.maximum(scale[..., 0].flatten(), fake_quantize.smallest_scale))


class Reconstruction:
    """Runs the float and the quantized network side by side, part by part; keeps each part's inputs and outputs."""

    def __init__(
        self,
        prepared: fx.GraphModule,
        samples: Tensors,
        spans: list[Span],
        originals: dict[str, Tensor],
        scheme: Scheme,
        seed: int,
    ) -> None:
        self.prepared, self.spans, self.originals = prepared, spans, originals
        self.iterations, self.drop = scheme.iterations, DROP if scheme.rounding == "brecq" else 0.0
        self.held = HELD if scheme.rounding_start == "gptq" else 0.0
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        self.generator = torch.Generator().manual_seed(seed)
        self.constants = constant_nodes(prepared)
        self.rounded: set[nn.Parameter] = set()
        entries = [node for node in prepared.graph.nodes if node.op == "placeholder"]
        given = zip(entries, for_graph(samples, prepared), strict=True)
        chunks: dict[fx.Node, list[Any]] = {node: list(one.split(CHUNK)) for node, one in given}
        self.count = len(chunks[entries[0]])
        self.float = dict(chunks)
        self.quantized = dict(chunks)

    def run(self, watch: Watch) -> None:
        for number, span in enumerate(self.spans):
            self._advance(span.nodes, self.float, for_qat=False)
            if span.layers:
                self._round(span, number, watch)
            self._advance(span.nodes, self.quantized, for_qat=True)
            later = {source for other in self.spans[number + 1 :] for source in _read(other.nodes)}
            for values in (self.float, self.quantized):
                for source in [source for source in values if source not in later]:
                    del values[source]

    def _advance(self, nodes: Nodes, kept: dict[fx.Node, list[Any]], for_qat: bool) -> None:
        """Runs a part and adds its outputs to the kept values."""
        constants, inside = self._constants(nodes, for_qat), set(nodes)
        leaving = [node for node in nodes if node is nodes[-1] or not inside.issuperset(node.users)]
        for number in range(self.count):
            values = self._values(nodes, constants | _entering(nodes, kept, number), for_qat)
            for node in leaving:
                kept.setdefault(node, []).append(values[node])

    def _values(self, nodes: Nodes, values: dict[fx.Node, Any], for_qat: bool, drop: float = 0.0) -> dict[fx.Node, Any]:
        """Adds what the nodes give to what is known for a chunk."""
        for node in nodes:
            values[node] = compute(node, values.__getitem__, self.modules, for_qat)
            if drop and isinstance(self.modules.get(str(node.target)), ActivationFakeQuantize):
                values[node] = self._mixed(values[node.all_input_nodes[0]], values[node])
        return values

    def _mixed(self, value: Any, quantized: Any) -> Any:
        """Each entry in its float form with the probability `drop`."""
        if value is quantized or not isinstance(value, Tensor) or not value.is_floating_point():
            return quantized
        return torch.where(torch.rand(value.shape, generator=self.generator) < self.drop, value, quantized)

    def _constants(self, nodes: Nodes, for_qat: bool) -> dict[fx.Node, Any]:
        """The inputs of these nodes that do not depend on the samples."""
        needed = {source for node in nodes for source in node.all_input_nodes}
        for node in reversed(self.constants):
            if node in needed:
                needed.update(node.all_input_nodes)
        values: dict[fx.Node, Any] = {}
        for node in (node for node in self.constants if node in needed):
            if node.op == "get_attr":
                name = str(node.target)
                values[node] = operator.attrgetter(name)(self.prepared).detach() if for_qat else self.originals[name]
            else:
                values[node] = compute(node, values.__getitem__, self.modules, for_qat)
        return values

    def _round(self, span: Span, number: int, watch: Watch) -> None:
        """Rounds the weights of a part's layers; those that a part before has rounded stay."""
        roundings: dict[fx.Node, SoftRounding] = {}
        for layer in span.layers:
            weight: Any = layer.args[1]
            parameter = parameter_of(self.prepared, weight)
            if parameter not in self.rounded:
                self.rounded.add(parameter)
                roundings[weight] = self._begin(weight, parameter)
        if not roundings:
            return
        nodes = _leading_to(span.nodes)
        weights = {weight: rounding.start * rounding.scale for weight, rounding in roundings.items()}
        before = self._error(nodes, weights)
        self._learn(nodes, roundings, _Steps(span.name, number, len(self.spans), self.iterations, watch))
        learned = {weight: rounding.integers() * rounding.scale for weight, rounding in roundings.items()}
        if self._error(nodes, learned) <= before:
            weights = learned
        for weight, value in weights.items():
            parameter_of(self.prepared, weight).copy_(value)

    def _begin(self, node: fx.Node, parameter: nn.Parameter) -> SoftRounding:
        fake_quantize = self.modules[str(node.target)]
        assert isinstance(fake_quantize, PerChannelWeightFakeQuantize)
        scale = along(fake_quantize.calculate_qparams()[0], fake_quantize.ch_axis, parameter)
        integers = torch.round(fake_quantize(parameter.detach()) / scale)
        source: Any = node.args[0]
        original = self.originals[str(source.target)]
        return SoftRounding(original, integers, scale, fake_quantize.quant_max, self.held)

    def _learn(self, nodes: Nodes, roundings: dict[fx.Node, SoftRounding], steps: "_Steps") -> None:
        constants, targets = self._constants(nodes, for_qat=True), self.float[nodes[-1]]
        squares = sum(float(value.double().square().sum()) for value in targets)
        power = max(squares / sum(value.numel() for value in targets), 1e-12)
        channels = next(reversed(roundings.values())).scale.numel()
        parameters = [parameter for one in roundings.values() for parameter in one.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=min(FASTEST, WAY / self.iterations))
        for step in range(self.iterations):
            chunk = int(torch.randint(self.count, (), generator=self.generator))
            given = _entering(nodes, self.quantized, chunk)
            if self.drop:
                given = {node: self._mixed(self.float[node][chunk], value) for node, value in given.items()}
            with torch.enable_grad():
                soft = {weight: one() for weight, one in roundings.items()}
                one = self._values(nodes, constants | given | soft, True, self.drop)[nodes[-1]]
                error = (one - targets[chunk]).square().mean() / power
                loss = channels * error  # the papers' sum over channels
                if (progress := step / self.iterations) >= WARM_UP:
                    beta = BETA[0] + (BETA[1] - BETA[0]) * (progress - WARM_UP) / (1 - WARM_UP)
                    loss = loss + WEIGHT * sum(rounding.undecided(beta) for rounding in roundings.values())
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps.done(step + 1, error.item())

    def _error(self, nodes: Nodes, weights: dict[fx.Node, Tensor]) -> float:
        """Squared error of a part's output over all samples, with these weights and all activations quantized."""
        constants, total = self._constants(nodes, for_qat=True), 0.0
        for number in range(self.count):
            values = self._values(nodes, constants | _entering(nodes, self.quantized, number) | weights, True)
            total += float((values[nodes[-1]] - self.float[nodes[-1]][number]).double().square().sum())
        return total


class _Steps(NamedTuple):
    """Tells the watch how far a part is, in steps of the whole."""

    name: str
    number: int
    parts: int
    iterations: int
    watch: Watch

    def done(self, steps: int, error: float) -> None:
        place = self.number * self.iterations + steps
        self.watch.step(place, self.parts * self.iterations, {"layers": self.name, "error": error})


def _read(nodes: Nodes) -> set[fx.Node]:
    return {source for node in nodes for source in node.all_input_nodes} - set(nodes)


def _entering(nodes: Nodes, kept: dict[fx.Node, list[Any]], number: int) -> dict[fx.Node, Any]:
    """A chunk's values that a part's nodes read from outside, in a fixed order."""
    sources = _read(nodes)
    return {node: values[number] for node, values in kept.items() if node in sources}


def _leading_to(nodes: Nodes) -> Nodes:
    """Those nodes alone that the last one depends on."""
    needed = {nodes[-1]}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return tuple(node for node in nodes if node in needed)
