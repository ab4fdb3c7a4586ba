"""ONNX Runtime: everything that touches it. Export, loading, running node by node, what a file holds.

The int8 file holds the same scales and integer weights as the PT2E graph. Activations are stored as uint8 instead of
int8 with the zero point moved by 128: the same values, and the type that its x86 kernels are written for.
"""

import copy
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import ir, opset20
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from distiq.errors import UserError, first_line
from distiq.files import write_atomically
from distiq.models.from_onnx import files_of_onnx
from distiq.models.layout import dynamic_shapes, for_longer, free_dimensions, plain_copy
from distiq.models.onnx_file import subgraphs_of
from distiq.models.recurrent import bilstm
from distiq.models.signature import (
    INPUT,
    OUTPUT,
    Positional,
    Predict,
    Signature,
    Tensors,
    TensorSpec,
    by_name,
    each,
    in_order,
    positional,
)
from distiq.models.trace import FROZEN, copied, why_untraced
from distiq.numerics import dynamic_fake_quantize
from distiq.runtimes.onnx_graph import DQ, DYNAMIC_Q, Q, consumers_of, initializers, value_of
from distiq.runtimes.onnx_half import store_halves
from distiq.runtimes.onnx_passes import FREE, is_wide, rewrite
from distiq.runtimes.runtime import FileOptions, QuantizationParameters, Runtime, Weight, Work

LARGEST_WRITTEN = 64  # values of a constant that a formula of fewer would give
MULTIPLYING = {"Conv", "Gemm", "MatMul"}
FUSED_INTEGERS = {"QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "ConvInteger", "MatMulInteger",
                  "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}  # fmt: skip
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED}
CONTROL = {"If", "Loop", "Scan"}
"""Nodes that compute nothing but what the graphs within them do, whose last outputs are theirs."""
GIVING_FLOATS = {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
QGEMM_OUTPUT = 8  # inputs of a QGemm that quantizes its output
RESULTS: dict[str, Any] = {
    **dict.fromkeys(("Shape", "Size"), TensorProto.INT64),
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "IsNaN"), TensorProto.BOOL
    ),
}
FACTORS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "Gemm": (0, 1), "MatMul": (0, 1),
           "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}  # fmt: skip
"""Which inputs of a node are multiplied."""
TYPES = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32,
         "tensor(uint8)": torch.uint8, "tensor(int8)": torch.int8, "tensor(bool)": torch.bool,
         "tensor(float16)": torch.float16, "tensor(double)": torch.float64, "tensor(int16)": torch.int16}  # fmt: skip
CHUNK = 32  # samples whose values between the nodes are held at a time


def export_onnx(
    model: nn.Module, example: Tensors, path: Path, options: FileOptions, for_openvino: bool = False
) -> None:
    """Writes a float model, or the PT2E reference graph of a quantized one, as an ONNX file with a dynamic batch.

    Args:
        example: inputs (B, ...), B >= 2.
        options: of `named` module paths operations carry the path in their names, as "frontend/conv_3".
        for_openvino: without INT4, and without zero points of weights, though ONNX Runtime fuses a Gemm only with them:
            OpenVINO keeps some of them as subtractions and computes those layers in float32.

    Raises:
        UserError: an operation has no ONNX form; the message names it.
    """
    proto = _to_onnx(model, example)
    rewrite(proto, options.named, options.uint8_input, for_openvino)
    if options.half:
        store_halves(proto)
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString())


def with_mask(source: Path, target: Path, pad: int) -> None:
    """Writes a file of token numbers with the two inputs that Optimum's `ORTModelForSequenceClassification` feeds.

    `input_ids` and `attention_mask` are (B, L) int64; where the mask is 0 a token is read as padding.

    Args:
        pad: the padding token's number.
    """
    proto = onnx.load(str(source))
    graph = proto.graph
    given = [copy.deepcopy(graph.input[0]) for _ in range(2)]
    for value, name in zip(given, ("input_ids", "attention_mask"), strict=True):
        value.name = name
    del graph.input[:]
    graph.input.extend(given)
    graph.initializer.append(numpy_helper.from_array(np.array(pad, np.int64), "padding"))
    graph.node.insert(0, helper.make_node("Cast", ["attention_mask"], ["is_token"], to=TensorProto.BOOL))
    graph.node.insert(1, helper.make_node("Where", ["is_token", "input_ids", "padding"], [INPUT]))
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(target, proto.SerializeToString())


def rename_inputs_and_outputs(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Calls a file's inputs and outputs, in their order, as another file does whose place it takes."""
    proto = onnx.load(str(path))
    graph = proto.graph
    renamed = dict(zip((one.name for one in (*graph.input, *graph.output)), (*inputs, *outputs), strict=True))
    within = {name for node in graph.node for name in (*node.input, *node.output)} | set(initializers(graph))
    names = {name: f"{name}/within" for name in within & set(renamed.values())} | renamed
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        one.name = names.get(one.name, one.name)
    write_atomically(path, proto.SerializeToString())


SETTINGS: tuple[dict[str, str], ...] = ({}, {"graph_optimization_level": "extended"})
"""Without the last level of optimization tensors keep their layout: nothing is reordered between layers."""


def load_onnx(path: Path, threads: int = 1, options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file.

    Args:
        options: "graph_optimization_level" ("all", "extended", "basic", "disable"); any other is an entry of the
            session's configuration.

    Raises:
        UserError: the file is missing or damaged.
    """
    session = open_session(path, threads, options)
    input_names, output_names = (
        tuple(one.name for one in side) for side in (session.get_inputs(), session.get_outputs())
    )

    def predict(inputs: Tensors) -> Tensors:
        arrays = [one.contiguous().numpy() for one in in_order(inputs, input_names, str(path))]
        results = session.run(output_names, dict(zip(input_names, arrays, strict=True)))
        return by_name([torch.from_numpy(one) for one in results], output_names)

    return predict


class FrontEnd(NamedTuple):
    """A file that hears, in two: its front-end, and the network behind it.

    frames: waveforms (B, T) of any length from `window` on -> (B, bands, frames), one frame every `hop` samples.
    network: as many frames as the whole file makes of its clips -> its output.
    """

    window: int
    hop: int
    frames: Callable[[Tensor], Tensor]
    network: Callable[[Tensor], Tensor]


def split_front_end(path: Path, threads: int = 1) -> FrontEnd | None:
    """Cuts an .onnx file behind its front-end; None of another, or where none stays in float32 under its own name."""
    if path.suffix != ONNX_RUNTIME.suffix:
        return None
    proto = onnx.load(str(path))
    framing = next((node for node in proto.graph.node if node.op_type == "Conv"), None)
    module = framing.name.rpartition("/")[0] if framing is not None else ""
    sizes = {entry.name: list(entry.ints) for entry in framing.attribute} if framing is not None else {}
    if not module or len(sizes.get("kernel_shape", ())) != 1:
        return None
    cut = [node for node in proto.graph.node if node.name.startswith(f"{module}/")][-1].output[0]
    parts = []
    for source, sides, result in ((INPUT, ["batch", "samples"], cut), (cut, ["batch", "bands", "frames"], OUTPUT)):
        part = _between(proto, helper.make_tensor_value_info(source, TensorProto.FLOAT, sides), result)
        session = open_session(part.SerializeToString(), threads, name=str(path))
        parts.append(lambda inputs, session=session, source=source: torch.from_numpy(
            session.run(None, {source: inputs.contiguous().numpy()})[0]
        ))  # fmt: skip
    return FrontEnd(sizes["kernel_shape"][0], sizes.get("strides", [1])[0], *parts)


def _between(proto: ModelProto, source: Any, result: str) -> ModelProto:
    """The part of a file that computes the value `result` from the value that `source` describes."""
    needed, nodes = {result}, []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed |= set(node.input) - {source.name}
    held = [tensor for tensor in proto.graph.initializer if tensor.name in needed]
    output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes[::-1], proto.graph.name, [source], [output], held)
    return helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)


class Integers(NamedTuple):
    """What a DequantizeLinear reads: integers, their scale and their zero point."""

    values: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


class IntegerLayer(NamedTuple):
    """A Conv, Gemm or MatMul of two tensors of integers, as ONNX defines it. The bias is float32."""

    operation: str
    attributes: dict[str, Any]
    inputs: Integers
    weight: Integers
    bias: np.ndarray | None


def load_by_nodes(path: Path, compute: Callable[[IntegerLayer], np.ndarray | None]) -> Callable[[Tensor], Tensor]:
    """A `predict` that runs a QDQ file node by node, with another arithmetic for its layers of integers.

    Args:
        compute: gives a layer's float32 output, or None to leave it, like all other nodes, to ONNX Runtime.

    Raises:
        UserError: the file is missing or damaged, or has integer layers in another form than QDQ.
    """
    session = open_session(path, 1)
    name, output = _only_input(session, path).name, session.get_outputs()[0].name
    proto = onnx.load(str(path))
    nodes, constants = proto.graph.node, initializers(proto.graph)
    fused = sorted({node.op_type for node in nodes} & FUSED_INTEGERS)
    if fused:
        raise UserError(f"{path}: holds {', '.join(fused)}; write it with quant_format = QDQ to look into its layers")
    last_use = {source: number for number, node in enumerate(nodes) for source in node.input}
    sessions: dict[int, Any] = {}

    def run(inputs: np.ndarray) -> np.ndarray:
        values, integers = {name: inputs}, dict[str, Integers]()
        for number, node in enumerate(nodes):
            if node.op_type == DQ:
                read = [values[one] if one in values else numpy_helper.to_array(constants[one]) for one in node.input]
                integers[node.output[0]] = Integers(*read, *[np.zeros((), read[0].dtype)] * (3 - len(read)))
            result = None
            if node.op_type in MULTIPLYING and all(source in integers for source in node.input[:2]):
                bias = node.input[2] if len(node.input) > 2 else None
                own_bias = values[bias] if bias in values else value_of(constants, bias) if bias else None
                attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
                factor, weight = (integers[source] for source in node.input[:2])
                result = compute(IntegerLayer(node.op_type, attributes, factor, weight, own_bias))
            if result is not None:
                values[node.output[0]] = result
            else:
                feed = {source: values[source] for source in node.input if source in values}
                if number not in sessions:
                    sessions[number] = _session_of_node(proto, node, feed, constants)
                values |= dict(zip(filter(None, node.output), sessions[number].run(None, feed), strict=True))
            for source in node.input:
                if last_use[source] == number and source != output:
                    values.pop(source, None)
                    integers.pop(source, None)
        return values[output]

    def predict(inputs: Tensor) -> Tensor:
        return torch.cat([torch.from_numpy(run(chunk.contiguous().numpy())) for chunk in inputs.split(CHUNK)])

    return predict


def _session_of_node(
    proto: ModelProto, node: NodeProto, feed: dict[str, np.ndarray], constants: dict[str, TensorProto]
) -> Any:
    """A session that runs one node of a file."""
    import onnxruntime

    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in feed.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    constants_read = [constants[name] for name in dict.fromkeys(node.input) if name in constants]
    graph = helper.make_graph([node], "node", inputs, outputs, constants_read)
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return onnxruntime.InferenceSession(model.SerializeToString(), _options(1), providers=["CPUExecutionProvider"])


def signature(path: Path) -> Signature:
    """What the file takes and gives.

    Raises:
        UserError: of a type that distiq does not feed.
    """
    session = open_session(path, 1)
    return Signature(
        *(tuple(_spec(one, path) for one in side) for side in (session.get_inputs(), session.get_outputs()))
    )


def _spec(stated: Any, path: Path) -> TensorSpec:
    if stated.type not in TYPES:
        raise UserError(f'{path}: "{stated.name}" is {stated.type}; distiq knows {", ".join(TYPES)}')
    shape = tuple(size if isinstance(size, int) else -1 for size in stated.shape)
    return TensorSpec(stated.name, shape, TYPES[stated.type])


def _only_input(session: Any, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UserError(f"{path}: takes {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), not one")
    return inputs[0]


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind work on each type, in the graph that ONNX Runtime runs here.

    An operation that computes has the type of what it multiplies or adds, one that moves values the type of these.
    """
    types: dict[str, Counter[str]] = {}
    for node, used in _typed(_optimized(path).graph):
        types.setdefault(node.op_type, Counter())[_type_name(used)] += 1
    return {kind: dict(counts) for kind, counts in sorted(types.items())}


def _typed(graph: GraphProto, types: dict[str, Any] | None = None) -> Iterator[tuple[NodeProto, Any]]:
    """Each node with the type that it works on, in branches and loops, too; masks and conditions do not count.

    Args:
        types: of the values of the graphs around, to which this one's are added.
    """
    types = {} if types is None else types
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    used: Any
    result: Any
    for node in graph.node:
        for inner in subgraphs_of(node):
            yield from _typed(inner, types)
            given = [types.get(value.name, TensorProto.UNDEFINED) for value in inner.output]
            types |= dict(zip(node.output, given[-len(node.output) :], strict=False))
        if node.op_type in CONTROL:
            continue
        kind, read = node.op_type, [types[name] for name in node.input if name in types]
        data = next((one for one in read if one != TensorProto.BOOL), read[0] if read else TensorProto.UNDEFINED)
        if kind in (Q, DYNAMIC_Q) or kind.startswith("QLinear") or kind in FUSED_INTEGERS:
            used, result = TensorProto.INT8, TensorProto.INT8
            if kind in GIVING_FLOATS or (kind == "QGemm" and len(node.input) < QGEMM_OUTPUT):
                result = TensorProto.FLOAT
        elif kind == "Cast":
            used = result = next(entry.i for entry in node.attribute if entry.name == "to")
        else:
            used = result = TensorProto.FLOAT if kind == DQ else RESULTS.get(kind, data)
        types |= dict.fromkeys(node.output, result)
        yield node, used


def _type_name(number: int) -> str:
    name = TensorProto.DataType.Name(number).lower()
    return {"float": "float32", "uint8": "int8", "undefined": "unknown"}.get(name, name)


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations that ONNX Runtime computes in floating point in a quantized file, as "name (type)".

    Read from the graph after ONNX Runtime's own optimization, so it is what runs here; a type that is not told counts.
    """
    return tuple(
        f"{node.name or node.output[0]} ({node.op_type})"
        for node, used in _typed(_optimized(path).graph)
        if node.op_type not in FREE and used in FLOATS
    )


def _optimized(path: Path) -> ModelProto:
    """The graph after ONNX Runtime's own optimization, without the last level: that changes layouts alone and takes
    the nodes' names."""
    return optimized(path, path.with_suffix(".optimized.onnx.partial"), "extended")


def optimized(path: Path, target: Path, level: str) -> ModelProto:
    """A file's graph after ONNX Runtime's own optimization of that level; it writes the graph to `target` for it."""
    import onnxruntime

    options = _options(1, {"graph_optimization_level": level})
    options.optimized_model_filepath = str(target)
    try:
        with _quiet():
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(target))
    finally:
        target.unlink(missing_ok=True)


def work(path: Path, sample_shapes: Sequence[Sequence[int]]) -> Work | None:
    """The work of a file on one sample of those shapes; None where a layer's shapes cannot be inferred."""
    proto = onnx.load(str(path))
    for value, sizes in zip(proto.graph.input, sample_shapes, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, (1, *sizes), strict=True):
            dimension.dim_value = size
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {name: tuple(tensor.dims) for name, tensor in initializers(graph).items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if all(size.HasField("dim_value") for size in sizes):
            shapes[value.name] = tuple(size.dim_value for size in sizes)
    macs = 0
    for node in graph.node:
        if node.op_type not in FACTORS:
            continue
        first, second = (shapes.get(node.input[place]) for place in FACTORS[node.op_type])
        result = shapes.get(node.output[0])
        if not first or not second or not result:
            return None
        if "Conv" in node.op_type:
            macs += math.prod(result) * math.prod(second[1:])
        else:
            is_turned = any(entry.name == "transA" and entry.i for entry in node.attribute)
            macs += math.prod(result) * first[0 if is_turned else -1]
    return Work(macs, any(node.op_type == DQ or node.op_type in FUSED_INTEGERS for node in graph.node))


def matrix_product(size: int, of_integers: bool) -> Callable[[], object]:
    """A call that multiplies two matrices (size, size) on one thread, the second one constant, as a layer does."""
    import onnxruntime

    generator = np.random.default_rng(0)
    kind, operation = (np.int8, "MatMulInteger") if of_integers else (np.float32, "MatMul")
    constant = numpy_helper.from_array(generator.integers(-64, 65, (size, size)).astype(kind), "constant")
    variable = generator.integers(0, 129, (size, size)).astype(np.uint8 if of_integers else np.float32)
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(variable.dtype), variable.shape)]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([helper.make_node(operation, ["x", "constant"], ["y"])], "product", inputs, outputs)
    graph.initializer.append(constant)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(content, _options(1), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": variable})


def operation_counts(path: Path) -> Counter[str]:
    """How many nodes of each type the file holds."""
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def quantization_parameters(path: Path) -> QuantizationParameters:
    """The integers, scales and zero points of the file; activations are uint8, narrow weights INT4 behind a cast.

    A table of embeddings is read row by row, its scales by the same numbers; a transposed weight is turned back.
    Weights that are float32 once the file is loaded stand behind Cast and Mul, those in groups in a MatMulNBits, those
    beside dynamically quantized inputs in a MatMulInteger.
    """
    graph = onnx.load(str(path)).graph
    constants, consumers = initializers(graph), consumers_of(graph)
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            narrow = value_of(constants, node.input[0])
            assert narrow is not None
            constants[node.output[0]] = numpy_helper.from_array(narrow.astype(np.int8), node.output[0])
    weights, activations = [], set()
    tables: dict[str, dict[bool, np.ndarray]] = {}
    for node in graph.node:
        stored = value_of(constants, node.input[0]) if node.input else None
        if node.op_type == "Gather" and stored is not None and stored.dtype in (np.int8, np.float32):
            tables.setdefault(node.input[1], {})[stored.dtype == np.int8] = stored
        elif node.op_type == "Mul" and stored is not None and stored.dtype == np.int8:
            scale = value_of(constants, node.input[1])
            assert scale is not None
            axis = int(np.argmax(scale.shape))
            weights.append(Weight(np.moveaxis(stored, axis, 0), scale.ravel(), is_multiplied=False))
        elif node.op_type == "MatMulNBits":
            packed, scale = value_of(constants, node.input[1]), value_of(constants, node.input[2])
            assert packed is not None
            assert scale is not None
            nibbles = np.stack([packed & 15, packed >> 4], -1).astype(np.int8) - 8
            weights.append(Weight(nibbles.reshape(scale.size, -1), scale.ravel(), is_multiplied=False))
        elif node.op_type == "MatMulInteger":
            (cast,) = consumers[node.output[0]]
            (product,) = consumers[cast.output[0]]
            integers, scale = constants[node.input[1]], value_of(constants, producers[product.input[1]].input[1])
            assert scale is not None
            weights.append(Weight(numpy_helper.to_array(integers).T, scale))
        if node.op_type not in (Q, DQ) or len(node.input) < 2:
            continue
        scale = value_of(constants, node.input[1])
        assert scale is not None
        if stored is None:
            zero_point = value_of(constants, node.input[2])
            assert zero_point is not None
            activations.add((float(scale), int(zero_point) - (128 if zero_point.dtype == np.uint8 else 0)))
        elif stored.dtype == np.int8:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1 if scale.ndim else 0)
            weights.append(Weight(np.moveaxis(stored, axis, 0), scale))
    if is_wide(graph):
        weights = [weight._replace(is_multiplied=False) for weight in weights]
    weights += [Weight(pair[True], pair[False], is_multiplied=False) for pair in tables.values() if len(pair) == 2]
    return QuantizationParameters(tuple(weights), (), frozenset(activations))


def _options(threads: int, asked: Mapping[str, str] = MappingProxyType({})):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in asked.items():
        if name == "graph_optimization_level":
            level = "DISABLE_ALL" if value == "disable" else f"ENABLE_{value.upper()}"
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        else:
            options.add_session_config_entry(name, value)
    return options


def open_session(  # type: ignore[no-untyped-def]
    model: Path | bytes, threads: int, options: Mapping[str, str] = MappingProxyType({}), name: str = ""
):
    """A file, or the bytes of one that `name` tells of."""
    import onnxruntime

    if not isinstance(model, bytes) and not Path(model).is_file():
        raise UserError(f"{model}: no such file")
    content, place = (model, name) if isinstance(model, bytes) else (str(model), str(model))
    try:
        return onnxruntime.InferenceSession(content, _options(threads, options), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise UserError(f"{place}: ONNX Runtime cannot load this file: {error}") from error


def _to_onnx(model: nn.Module, example: Tensors) -> ModelProto:
    is_graph = isinstance(model, torch.fx.GraphModule)
    network = positional(model, each(plain_copy, example)) if is_graph else copied(model, example)
    free = free_dimensions(network)
    try:
        return _exported(network, free)
    except Exception as error:  # torch.onnx raises many kinds
        cause = error.__cause__ or error
        if FROZEN not in str(cause):
            raise UserError(f"the network cannot be exported to ONNX: {first_line(cause)}") from error
        if (longer := for_longer(free)) == free:
            raise UserError(why_untraced(cause, network, dynamic_shapes(network, free))) from error
    try:
        return _exported(network, longer)
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError(why_untraced(cause, network, dynamic_shapes(network, longer))) from error


def _exported(network: Positional, free: Sequence[dict[int, Any]]) -> ModelProto:
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.module,
            network.inputs,
            input_names=network.input_names,
            output_names=network.output_names,
            dynamo=True,
            dynamic_shapes=dynamic_shapes(network, free),
            verbose=False,
            optimize=False,
            custom_translation_table={
                dynamic_fake_quantize._opoverload: _dynamic_fake_quantize,
                bilstm._opoverload: _bilstm,
            },
        )
        assert program is not None
        optimize_ir(program.model, should_fold=_folds)
        return _with_names(program.model_proto, network.output_names)


def _dynamic_fake_quantize(x: Any) -> Any:
    """`distiq.numerics.dynamic_fake_quantize` in ONNX."""
    integers, scale, zero_point = opset20.DynamicQuantizeLinear(x)
    return opset20.DequantizeLinear(integers, scale, zero_point)


def _bilstm(vectors: Any, lengths: Any, weights: Sequence[Any]) -> Any:
    """`distiq.models.recurrent.bilstm` in ONNX, whose gates stand in another order and whose batch comes second."""
    op: Any = opset20  # its types know no lists of numbers
    ordered = []
    for weight in weights:
        gate, forget, cell, out = op.Split(weight, num_outputs=4)
        ordered.append(op.Concat(gate, out, forget, cell, axis=0))
    inputs, states, own, other = (
        op.Concat(*(op.Unsqueeze(ordered[place], [0]) for place in (first, first + 4)), axis=0) for first in range(4)
    )
    hidden_states, _, _ = op.LSTM(
        op.Transpose(vectors, perm=[1, 0, 2]),
        inputs,
        states,
        op.Concat(own, other, axis=1),
        op.Cast(lengths, to=TensorProto.INT32),
        direction="bidirectional",
        hidden_size=weights[1].shape[1],
    )
    return op.Reshape(op.Transpose(hidden_states, perm=[2, 0, 1, 3]), [0, 0, -1])  # (L, 2, B, H) before


def _with_names(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """Gives every output its name: of a value that is given twice the exporter knows one name alone."""
    graph = proto.graph
    if [output.name for output in graph.output] == list(names):
        return proto
    given = {one.name for one in graph.input}
    values = {one.name: one.name if one.name in given else f"{one.name}_value" for one in graph.output}
    for node in graph.node:
        node.input[:] = [values.get(name, name) for name in node.input]
        node.output[:] = [values.get(name, name) for name in node.output]
    for output, name in zip(graph.output, names, strict=True):
        if output.name != name or name not in given:
            graph.node.append(helper.make_node("Identity", [values[output.name]], [name]))
        output.name = name
    return proto


def _folds(node: ir.Node) -> bool | None:
    """Leaves weights that are a formula of a few numbers to the runtime, which computes them when it loads the file.

    Written out, the Fourier basis of an audio front-end would be many times as large as the network behind it.
    """
    shapes = [value.shape for value in (*node.outputs[:1], *node.inputs) if value is not None]
    if any(shape is None for shape in shapes) or node.op_type == "Expand":  # a bias of zeros, which goes altogether
        return None
    written, *read = (math.prod(shape.numpy()) for shape in shapes if shape is not None)
    return False if written > max(LARGEST_WRITTEN, sum(read)) else None


class _quiet:
    """Holds back what torch.onnx logs while it exports."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)


ONNX_RUNTIME = Runtime(
    name="onnxruntime",
    title="ONNX Runtime",
    suffix=".onnx",
    packages=("onnxruntime",),
    install="onnxruntime==1.32.0",
    imported="onnxruntime",
    export=export_onnx,
    load=load_onnx,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    refuses=lambda mode, activation_bits, group_size: None,
    uint8_input=True,
    settings=SETTINGS,
    work=work,
    parts=lambda path: tuple(files_of_onnx(path)),
    may_saturate=lambda path: True,
)
