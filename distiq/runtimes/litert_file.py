"""Reads a LiteRT file: its operations and their types, its integers and scales."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from distiq.runtimes.lowering import RANGE_COLUMNS
from distiq.runtimes.runtime import QuantizationParameters, Weight
from distiq.runtimes.uint8_input import MODULE

FREE = {"BROADCAST_TO", "CAST", "DEQUANTIZE", "EXPAND_DIMS", "FILL", "QUANTIZE", "RESHAPE", "SHAPE", "SQUEEZE",
        "TRANSPOSE"}  # fmt: skip
"""What computes nothing: conversions, constants, shapes, and views of a tensor. All else computes."""
BESIDE_VALUES = ("CONCATENATION", "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "MAXIMUM", "MINIMUM",
                 "NOT_EQUAL", "PADV2", "SELECT_V2")  # fmt: skip
"""What reads constants that are no weights: padding, bounds, and values that others are compared with."""
FILE_IDENTIFIER = b"TFL3"
CONVOLUTION_AXES = IMAGE_AXES = 4
UNSIGNED = 128  # how far the zero point of uint8 stands from that of int8


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind give each type; linear layers that multiply integers count as int8."""
    from ai_edge_litert import schema_py_generated as schema

    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    by_kind: dict[str, Counter[str]] = {}
    for kind, _, computed_in in steps_of(unpacked(path.read_bytes())):
        by_kind.setdefault(kind.lower(), Counter())[types[computed_in].replace("uint8", "int8")] += 1
    return {kind: dict(counts) for kind, counts in sorted(by_kind.items())}


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations of the file that compute in floating point, as "number (type)"; of pixels "pixels/number"."""
    return float_operations_of(path.read_bytes())


def float_operations_of(content: bytes) -> tuple[str, ...]:
    from ai_edge_litert import schema_py_generated as schema

    names = []
    for number, (kind, result, computed_in) in enumerate(steps_of(unpacked(content))):
        if kind not in FREE and computed_in in _floats(schema):
            place = f"{MODULE}/" if bytes(result.name).startswith(MODULE.encode()) else ""
            names.append(f"{place}{number} ({kind.lower()})")
    return tuple(names)


def steps_of(model: Any) -> Iterator[tuple[str, Any, int]]:
    """Each operation's kind, the tensor that it gives and the type that it computes in: that of its result, or, where
    floats are compared, of what it reads."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    for operation in graph.operators:
        result = graph.tensors[operation.outputs[0]]
        first = graph.tensors[operation.inputs[0]].type if len(operation.inputs) else result.type
        compares = first in _floats(schema) and result.type not in (schema.TensorType.INT8, schema.TensorType.UINT8)
        computed_in = first if compares else result.type
        if reads_range_columns(graph, operation, schema):
            computed_in = schema.TensorType.INT8
        yield names[model.operatorCodes[operation.opcodeIndex].builtinCode], result, computed_in


def _floats(schema: Any) -> tuple[int, ...]:
    return schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64


def quantization_parameters(path: Path) -> QuantizationParameters:
    """The integer weights, scales and zero points that the file holds."""
    return parameters_of(unpacked(path.read_bytes()))


def parameters_of(model: Any) -> QuantizationParameters:
    """The integer weights, scales and zero points that an unpacked .tflite file holds."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    weights, floats, activations = [], [], set()
    widened = {operation.inputs[1] for operation in graph.operators if reads_range_columns(graph, operation, schema)}
    kinds = [model.operatorCodes[one.opcodeIndex].builtinCode for one in graph.operators]
    tables, beside, transposed = set(), set(), []
    for kind, operation in zip(kinds, graph.operators, strict=True):
        if kind == schema.BuiltinOperator.EMBEDDING_LOOKUP:
            tables.add(operation.inputs[1])
        elif kind in {getattr(schema.BuiltinOperator, name) for name in BESIDE_VALUES}:
            beside |= set(operation.inputs)
        elif kind == schema.BuiltinOperator.TRANSPOSE_CONV:
            transposed.append(operation.inputs[1])
    for number, tensor in enumerate(graph.tensors):
        data, quantization = model.buffers[tensor.buffer].data, tensor.quantization
        if data is None and quantization is not None and quantization.scale is not None:
            moved = UNSIGNED if tensor.type == schema.TensorType.UINT8 else 0
            activations.add((float(quantization.scale[0]), int(quantization.zeroPoint[0]) - moved))
        elif data is not None and tensor.type == schema.TensorType.INT8 and number not in beside:
            if tensor.shape is None or not len(tensor.shape):
                continue  # a factor, which is its scale times 127
            array = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape)
            array = array[:, :-RANGE_COLUMNS] if number in widened else array
            array = channels_first(array, quantization.quantizedDimension)
            weights.append(Weight(array, quantization.scale, is_multiplied=number not in tables))
        elif data is not None and tensor.type == schema.TensorType.FLOAT32 and len(tensor.shape) > 1:
            array = np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)
            floats.append(array)
            if array.ndim > 2:  # those of transposed convolutions may be turned within the file
                floats.append(array.swapaxes(0, 1))
            if array.ndim == CONVOLUTION_AXES:
                floats += [channels_first(array, 0), channels_first(array, 3)]
    floats += _of_groups([float_array(model, number) for number in transposed])
    return QuantizationParameters(tuple(weights), tuple(floats), frozenset(activations))


def float_array(model: Any, number: int) -> np.ndarray:
    """A constant tensor of float32; empty where a tensor is none."""
    tensor = model.subgraphs[0].tensors[number]
    data = model.buffers[tensor.buffer].data
    return np.zeros(0, np.float32) if data is None else np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def _of_groups(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Float weights (O / G, I, H, W) of transposed convolutions, of which a file holds G parts (O / G, H, W, I / G)."""
    whole = []
    for first, last in combinations(range(len(parts) + 1), 2):
        run = parts[first:last]
        if len(run) > 1 and run[0].ndim == CONVOLUTION_AXES and all(part.shape == run[0].shape for part in run):
            whole.append(np.concatenate(run, 3).transpose(0, 3, 1, 2))
    return whole


def has_range_columns(content: bytes) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    graph = unpacked(content).subgraphs[0]
    return any(reads_range_columns(graph, operation, schema) for operation in graph.operators)


def reads_range_columns(graph: Any, operation: Any, schema: Any) -> bool:
    """Whether it multiplies integer weights by a float32 input, whose scale its kernel computes."""
    if not isinstance(operation.builtinOptions, schema.FullyConnectedOptionsT):
        return False
    types = [graph.tensors[number].type for number in operation.inputs[:2]]
    return types == [schema.TensorType.FLOAT32, schema.TensorType.INT8]


def channels_first(array: np.ndarray, output_axis: int) -> np.ndarray:
    """(O, H, W, I), or (1, H, W, O) of a depthwise layer, as (O, I, H, W)."""
    if array.ndim != 4:
        return array
    return array.transpose(0, 3, 1, 2) if output_axis == 0 else array.transpose(3, 0, 1, 2)


def unpacked(content: bytes) -> Any:
    """The model of a .tflite file as objects."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def packed(model: Any, builder: Any = None) -> bytes:
    """A .tflite file of a model as objects."""
    import flatbuffers

    builder = builder or flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())
