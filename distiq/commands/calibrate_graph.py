"""Ranges and integer weights of an ONNX graph, from what calibration samples show in ONNX Runtime."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from onnx import ModelProto

from distiq.data.calls import Calls
from distiq.errors import UserError
from distiq.quantization.ranges import Histogram, activation_range
from distiq.quantization.scheme import Scheme
from distiq.runtimes.onnx_branches import every_graph
from distiq.runtimes.onnx_graph import initializers, value_of
from distiq.runtimes.onnx_plan import Layer, Plan, observed, plan
from distiq.runtimes.onnx_qdq import LARGEST_INTEGER, Parameters, Weight, parameters_of, quantized_graph, values_of

OBSERVED_AT_ONCE = 48  # tensors whose values are held at a time
UNLIKE = 4.0  # ranges that differ by a larger factor share no quantization parameters: two of eight bits would be lost
SMALLEST = float(np.finfo(np.float32).eps)


class Calibrated(NamedTuple):
    """A graph, its whole plan, the range of every observed tensor, and the integers of its layers' weights.

    `apart` and `unbounded` are those of `plan`.
    """

    model: ModelProto
    plan: Plan
    ranges: dict[str, tuple[float, float]]
    weights: dict[str, Weight]
    apart: tuple[str, ...] = ()
    unbounded: tuple[str, ...] = ()

    def without(self, layers: Iterable[str]) -> Plan:
        """The whole plan without some layers."""
        return plan(self.model.graph, layers, self.apart, self.unbounded)

    def written(self, planned: Plan) -> ModelProto:
        """The int8 graph of a plan that quantizes no more than the whole one."""
        return quantized_graph(self.model, planned, self.activations(planned), self.weights)

    def activations(self, planned: Plan) -> dict[str, Parameters]:
        """Quantization parameters by the tensors that a plan's groups are named after."""
        return {root: parameters_of(*self._range(names)) for root, names in planned.groups().items()}

    def _range(self, names: Sequence[str]) -> tuple[float, float]:
        """The range of a group: that of its own tensors, or of those that they are moved from."""
        roots = {self.plan.shared[name] for name in names}
        own = [name for name in names if name in self.ranges]
        ranges_of_parts = [
            self.ranges[name]
            for name in own or self.plan.shared
            if name in self.ranges and self.plan.shared[name] in roots
        ]
        return min(low for low, _ in ranges_of_parts), max(high for _, high in ranges_of_parts)


def calibrate(model: ModelProto, calls: Calls, scheme: Scheme, name: str) -> Calibrated:
    """Ranges and weights of every layer that could be int8.

    Raises:
        UserError: there is no such layer, or the samples do not run.
    """
    whole = plan(model.graph)
    if not whole.layers:
        raise UserError(
            f"{name}: has no Conv, Gemm or MatMul whose weights are float32 constants: nothing could be int8"
        )
    seen = _histograms(model, observed(model.graph, whole), calls)
    ranges = {one: activation_range(histogram, scheme) for one, histogram in seen.items() if histogram is not None}
    unbounded = [one for one, root in whole.shared.items() if seen.get(one, seen.get(root)) is None]
    planned = plan(model.graph, unbounded=unbounded)
    apart = [one.name for one in planned.joints if _unlike([ranges[name] for name in one.input if name in ranges])]
    planned = plan(model.graph, apart=apart, unbounded=unbounded)
    if not planned.layers:
        raise UserError(f"{name}: every layer reads or gives values that are not finite: nothing could be int8")
    calibrated = Calibrated(model, planned, ranges, {}, tuple(apart), tuple(unbounded))
    activations = calibrated.activations(planned)
    constants = {name: one for graph in every_graph(model.graph) for name, one in initializers(graph).items()}
    weights = {}
    for layer in planned.layers:
        source_scale = activations[planned.shared[layer.source]].scale
        weight, bias = value_of(constants, layer.weight), value_of(constants, layer.bias)
        assert weight is not None
        weights[layer.name] = nearest(layer, weight, bias, source_scale)
    return calibrated._replace(weights=weights)


def _histograms(model: ModelProto, names: Sequence[str], calls: Calls) -> dict[str, Histogram | None]:
    """Each tensor's histogram over the calibration calls; None where a value is not finite, or there is none."""
    by_tensor: dict[str, Histogram | None] = {}
    for part in _parts(names):
        histograms = {name: Histogram() for name in part}
        infinite = set()
        for values in values_of(model, part, iter(calls), 1):
            for name, value in values.items():
                if not np.isfinite(value).all():
                    infinite.add(name)
                elif value.size:
                    histograms[name].update(torch.from_numpy(value))
        by_tensor |= {name: one if one.seen and name not in infinite else None for name, one in histograms.items()}
    return by_tensor


def _parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + OBSERVED_AT_ONCE] for start in range(0, len(names), OBSERVED_AT_ONCE))


def _unlike(ranges: Sequence[tuple[float, float]]) -> bool:
    widths = [max(high, 0.0) - min(low, 0.0) for low, high in ranges]
    return bool(widths) and max(widths) > UNLIKE * min(widths)


def nearest(layer: Layer, weight: np.ndarray, bias: np.ndarray | None, source_scale: float) -> Weight:
    """The integers that are nearest to a weight, with a scale for each channel from its largest value.

    A scale is large enough for its bias to fit into 32 bits.
    """
    axes = tuple(axis for axis in range(weight.ndim) if axis != layer.channels)
    scale = np.maximum(np.abs(weight).max(axes) / 127, SMALLEST)
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), scale.shape)
        scale = np.maximum(scale, np.abs(bias) / (source_scale * LARGEST_INTEGER))
    integers = np.clip(np.rint(weight / np.expand_dims(scale, axes)), -127, 127)
    return Weight(integers.astype(np.int8), scale, bias)
