"""Reads an ONNX file: its operations and their types, its work, its integers and scales."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from distiq.models.onnx_file import subgraphs_of
from distiq.runtimes.onnx_graph import DQ, DYNAMIC_Q, Q, consumers_of, initializers, value_of
from distiq.runtimes.onnx_kept import is_copy
from distiq.runtimes.onnx_passes import FREE, is_wide
from distiq.runtimes.onnx_session import optimized
from distiq.runtimes.runtime import QuantizationParameters, Weight, Work

CONTROL = {"If", "Loop", "Scan"}
FUSED_INTEGERS = {"QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "ConvInteger", "MatMulInteger",
                  "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}  # fmt: skip
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED}
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


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind work on each type, in the graph that ONNX Runtime runs here.

    An operation that computes has the type of its operands, one that moves values the type of those values.
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
        if not is_copy(node):
            yield node, used


def _type_name(number: int) -> str:
    name = TensorProto.DataType.Name(number).lower()
    return {"float": "float32", "uint8": "int8", "undefined": "unknown"}.get(name, name)


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations that ONNX Runtime computes in floating point in a quantized file, as "name (type)".

    Read from the graph as ONNX Runtime optimizes it, so it is what runs here; an unknown type counts as floating point.
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


"""Nodes that compute nothing but what the graphs within them do, whose last outputs are theirs."""
