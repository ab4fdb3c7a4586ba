"""Int8 files from a float32 ONNX graph that somebody else wrote: opened, given outputs to observe, and written.

`onnx_plan` says where quantize-dequantize pairs stand; the numbers in them come from whoever calibrates.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.version_converter
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.errors import UserError
from distiq.models.onnx_file import every_node, open_onnx
from distiq.runtimes.onnx_branches import every_graph, exposed, name_branches, share_constants
from distiq.runtimes.onnx_composed import drop_unread, with_hard_swish
from distiq.runtimes.onnx_floats import with_floats
from distiq.runtimes.onnx_graph import DQ, Q, initializers
from distiq.runtimes.onnx_kept import float_constants, keep_float_layers
from distiq.runtimes.onnx_plan import PAIRED, STANDARD, Layer, Plan
from distiq.runtimes.onnx_session import open_session, optimized
from distiq.runtimes.onnx_tables import with_integer_tables

OLDEST_OPSET = 13  # the first whose pairs have scales for each channel
PLACED_RESIZE = 11  # the first in which `Resize` says how it places its samples
OLDEST_FORMAT = 8  # of ONNX files: before 4 every constant had to be an input
CONTRIBUTED = "com.microsoft"  # where ONNX Runtime has such pairs for older opsets
LARGEST_INTEGER = 2**30  # of a bias: half of what 32 bits hold


class Parameters(NamedTuple):
    """Scale and zero point of an activation of type uint8."""

    scale: float
    zero_point: int


class Weight(NamedTuple):
    """Integers of a layer's weight in its own shape, the scale of each channel, and the bias (channels,) or None."""

    integers: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None


def open_graph(path: Path, given: Sequence[str], folder: Path) -> ModelProto:
    """A float32 file whose constants are computed and whose batch norms are folded, with a name for every node.

    Args:
        given: names of the inputs that the data has; any other input with a default value becomes a constant.
        folder: for files of the moment.

    Raises:
        UserError: the file is missing, damaged or quantized already, or ONNX Runtime does not load it.
    """
    model = open_onnx(path)
    constants = initializers(model.graph)
    kept = [entry for entry in model.graph.input if entry.name in given or entry.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, OLDEST_FORMAT)
    with_floats(model)
    model = _raised(model, folder) or _optimized(model, folder, path)
    for graph in every_graph(model.graph):
        _take_constants(graph)
    _name_nodes(model.graph)
    name_branches(model.graph)
    share_constants(model.graph)
    for graph in every_graph(model.graph):
        with_hard_swish(graph)
    return model


def _optimized(model: ModelProto, folder: Path, path: Path) -> ModelProto:
    whole = folder / "whole.onnx"
    onnx.save(model, str(whole))
    try:
        return optimized(whole, folder / "basic.onnx", "basic")
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise UserError(f"{path}: ONNX Runtime cannot load this file: {str(error).splitlines()[0]}") from error


def _raised(model: ModelProto, folder: Path) -> ModelProto | None:
    """An optimized copy in the oldest opset whose pairs ONNX Runtime makes integers of; None where it is newer already.

    Before opset 10 it has no integer convolution at all. What onnx cannot convert stays as it is.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    if not versions or versions[0] >= OLDEST_OPSET:
        return None
    try:
        raised = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        del raised.graph.output[:]
        raised.graph.output.extend(model.graph.output)  # free sizes keep their names, or have none
        if versions[0] < PLACED_RESIZE:
            for node in every_node(raised.graph):
                _place_as_before(node)
        return _optimized(raised, folder, folder)
    except Exception:  # onnx's and onnxruntime's kinds share no base
        return None


def _place_as_before(node: NodeProto) -> None:
    """States how `Resize` places its samples: onnx's converter leaves it at the default of the newer opset."""
    stated = {entry.name for entry in node.attribute}
    if node.op_type == "Resize" and "coordinate_transformation_mode" not in stated:
        placed = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in placed.items())


def _take_constants(graph: GraphProto) -> None:
    """Makes `Constant` nodes initializers."""
    kept = []
    for node in graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = copy.deepcopy(value)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _name_nodes(graph: GraphProto) -> None:
    seen: Counter[str] = Counter()
    for node in graph.node:
        name = node.name or next(filter(None, node.output), node.op_type)
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy that gives the named tensors alone, in their order, and computes no more than these need.

    What a branch makes is empty where it is not taken.
    """
    part = copy.deepcopy(model)
    places = exposed(part.graph, names)
    del part.graph.output[:]
    part.graph.output.extend(helper.make_empty_tensor_value_info(places[name]) for name in names)
    drop_unread(part.graph)
    return part


def values_of(
    model: ModelProto, names: Sequence[str], feeds: Iterator[dict[str, np.ndarray]], threads: int
) -> Iterator[dict[str, np.ndarray]]:
    """The named tensors for each of the feeds, one after the other."""
    inputs = {entry.name for entry in model.graph.input}
    made = [name for name in names if name not in inputs]
    session = open_session(with_outputs(model, made).SerializeToString(), threads, name="the network") if made else None
    taken = {entry.name for entry in session.get_inputs()} if session is not None else set()
    for feed in feeds:
        values = {name: feed[name] for name in names if name in inputs}
        if session is not None:
            given = [one.name for one in session.get_outputs()]
            results = results_of(session, given, {name: one for name, one in feed.items() if name in taken})
            values |= zip(made, results, strict=True)
        yield values


def results_of(session: Any, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[Any]:
    """The named outputs of a session.

    Raises:
        UserError: it does not run on these inputs.
    """
    try:
        return list(session.run(list(names), dict(feed)))
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise UserError(f"the network does not run on these samples: {str(error).splitlines()[0]}") from error


def quantized_graph(
    model: ModelProto, planned: Plan, activations: Mapping[str, Parameters], weights: Mapping[str, Weight]
) -> ModelProto:
    """A copy of the model with the planned pairs, and tables of embeddings in int8.

    Args:
        activations: by the tensors that `Plan.groups` names. weights: by the layers' names; a layer that is not there
            keeps its float32 weights behind quantized activations.
    """
    model = copy.deepcopy(model)
    version = next(entry.version for entry in model.opset_import if entry.domain in STANDARD)
    domain = "" if version >= OLDEST_OPSET else CONTRIBUTED
    stored: dict[str, np.ndarray] = {}
    constants: dict[str, TensorProto] = {}
    for graph in every_graph(model.graph):
        constants |= initializers(graph)
    floats = {name for graph in every_graph(model.graph) for name in float_constants(graph)}
    for graph in every_graph(model.graph):
        _Writer(graph, planned, activations, weights, domain, constants, stored).write()
        keep_float_layers(graph, floats)
        with_integer_tables(graph)
    if any(entry.domain == domain for entry in model.opset_import) or not domain:
        return model
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


class _Writer:
    """Writes the pairs of one graph. A branch stores its constants in itself, under globally unique names."""

    def __init__(
        self,
        graph: GraphProto,
        planned: Plan,
        activations: Mapping[str, Parameters],
        weights: Mapping[str, Weight],
        domain: str,
        constants: Mapping[str, TensorProto],
        stored: dict[str, np.ndarray],
    ) -> None:
        self.graph, self.plan, self.domain = graph, planned, domain
        self.activations, self.weights, self.constants, self.stored = activations, weights, constants, stored
        self.nodes = {node.name: node for node in graph.node}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.behind: dict[str, list[NodeProto]] = {}  # by the tensor's first name, whose maker they follow
        self.front: list[NodeProto] = []

    def write(self) -> None:
        self._factors()
        makers = {name: node for node in self.graph.node for name in node.output}
        inputs = {entry.name for entry in self.graph.input}
        fused = {layer.output for layer in self.plan.layers}
        for name, root in self.plan.shared.items():
            maker = makers.get(name)
            if maker is not None or name in inputs:
                by_integers = name in fused or (maker is not None and maker.name in self.plan.integer)
                self._pair(name, self.activations[root], maker, by_integers)
        for layer in self.plan.layers:
            if layer.name in self.weights and layer.name in self.nodes:
                self._weight(layer, self.weights[layer.name])
        nodes = [*self.front]
        for node in self.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.behind.get(name, [])
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        del self.graph.value_info[:]
        drop_unread(self.graph)

    def _store(self, name: str, value: np.ndarray) -> str:
        """Stores a constant once in this graph; a different one with the same name gets a number."""
        own, number, here = name, 1, {tensor.name for tensor in self.graph.initializer}
        while own in self.stored and not (own in here and np.array_equal(self.stored[own], value)):
            number += 1
            own = f"{name}_{number}"
        if own not in self.stored:
            self.stored[own] = value
            self.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), own)
            )
        return own

    def _parameters(self, name: str, parameters: Parameters) -> list[str]:
        scale = self._store(f"{name}/scale", np.array(parameters.scale, np.float32))
        return [scale, self._store(f"{name}/zero_point", np.array(parameters.zero_point, np.uint8))]

    def _node(self, kind: str, inputs: list[str], result: str, axis: int | None = None) -> NodeProto:
        axes: dict[str, Any] = {} if axis is None else {"axis": axis}
        return helper.make_node(kind, inputs, [result], f"{result}/{kind}", domain=self.domain, **axes)

    def _pair(self, name: str, parameters: Parameters, maker: NodeProto | None, by_integers: bool) -> None:
        """A pair behind a tensor. If integers produce it, all consumers read the pair; else only integer operations."""
        stored = self._parameters(name, parameters)
        source, result = (f"{name}/float", name) if by_integers else (name, f"{name}/dequantized")
        pair = [
            self._node(Q, [source, *stored], f"{name}/quantized"),
            self._node(DQ, [f"{name}/quantized", *stored], result),
        ]
        if by_integers:
            assert maker is not None
            place = list(maker.output).index(name)
            maker.output[place] = source
        else:
            for reader in self.readers.get(name, []):
                if reader.name in self.plan.integer:
                    _read_instead(reader, name, result)
        if maker is None:
            self.front += pair
        else:
            self.behind[source] = pair

    def _factors(self) -> None:
        """Constants that integers are added to or multiplied by, as integers of one scale."""
        for node in self.graph.node:
            if node.name not in self.plan.integer or node.op_type not in PAIRED:
                continue
            for name in node.input:
                if name in self.constants:
                    own = self._factor(name, node.name, numpy_helper.to_array(self.constants[name]))
                    _read_instead(node, name, own)

    def _factor(self, name: str, reader: str, value: np.ndarray) -> str:
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        parameters = parameters_of(low, high)
        integers = np.clip(np.rint(value / np.float32(parameters.scale)) + parameters.zero_point, 0, 255)
        own = f"{reader}/{name}"
        stored = [self._store(f"{own}/uint8", integers.astype(np.uint8)), *self._parameters(own, parameters)]
        self.front.append(self._node(DQ, stored, f"{own}/dequantized"))
        return f"{own}/dequantized"

    def _weight(self, layer: Layer, weight: Weight) -> None:
        node, zeros = self.nodes[layer.name], np.zeros(weight.scale.shape, np.int8)
        integers = weight.integers.astype(np.int8)
        node.input[1] = self._constant(
            f"{layer.name}/weight", layer.weight, integers, weight.scale, zeros, layer.channels
        )
        if weight.bias is None:
            return
        scale = weight.scale.astype(np.float64) * self.activations[self.plan.shared[layer.source]].scale
        integers = np.clip(np.rint(weight.bias / scale), -LARGEST_INTEGER, LARGEST_INTEGER).astype(np.int32)
        own = f"{layer.name}/bias"
        del node.input[2:]
        node.input.append(self._constant(own, own, integers, scale, zeros.astype(np.int32), 0))

    def _constant(
        self, result: str, name: str, integers: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, axis: int
    ) -> str:
        """The DQ half of a pair, for a single layer: ONNX Runtime does not fuse a shared one.

        The integers are stored once, the scale once per layer: ONNX Runtime would merge identical DQ nodes.
        """
        own = self._store(f"{name}/integers", integers)
        scale_name = self._store(f"{result}/scale", scale.astype(np.float32))
        stored = [own, scale_name, self._store(f"{own}/zero_point", zero_point)]
        self.front.append(self._node(DQ, stored, f"{result}/dequantized", axis))
        return f"{result}/dequantized"


def _read_instead(node: NodeProto, name: str, other: str) -> None:
    for place, source in enumerate(node.input):
        if source == name:
            node.input[place] = other


def parameters_of(low: float, high: float) -> Parameters:
    """Of a range that is widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).eps))
    return Parameters(scale, int(np.clip(np.rint(-low / scale), 0, 255)))
