"""Transposes in front of linear layers, as a flattened feature map has them: moved into the layers' weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

KEEPING = ("QUANTIZE", "RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH")
"""Operations of one value each: they compute the same in any order."""


class _Flattened(NamedTuple):
    """A transpose and the reshape behind it that makes rows, which linear layers alone read."""

    transpose: Any
    reshape: Any
    layers: tuple[Any, ...]


def without_transposes(file: Any) -> dict[str, list[int]]:
    """Drops such transposes from an unpacked .tflite file, in place.

    Returns:
        The columns of each weight that has moved, by the number of its tensor: column k was column `columns[k]`.
    """
    graph, moved = file.subgraphs[0], {}
    for operation in list(graph.operators):
        if (found := _flattened(file, operation)) is None:
            continue
        source = int(operation.inputs[0])
        order = [int(one) for one in _constant(file, operation.inputs[1])]
        shape = [int(size) for size in graph.tensors[source].shape]
        columns = np.argsort(np.arange(math.prod(shape)).reshape(shape).transpose(order).reshape(-1))
        for number in {int(layer.inputs[1]) for layer in found.layers}:
            _reorder(file, number, columns)
            moved[str(number)] = columns.tolist()
        found.reshape.inputs = [source, *list(found.reshape.inputs)[1:]]
        graph.operators.remove(operation)
    return moved


def with_columns_as_in_the_graph(file: Any, columns: Mapping[str, Sequence[int]]) -> Any:
    """The unpacked file with moved columns where they were, in place: not to be run, but to be read."""
    for number, moved in columns.items():
        _reorder(file, int(number), np.argsort(moved))
    return file


def _flattened(file: Any, operation: Any) -> _Flattened | None:
    """What a transpose of one sample is a part of; None where it cannot be moved."""
    if _kind(file, operation) != "TRANSPOSE" or _constant(file, operation.inputs[1])[0] != 0:
        return None
    readers = _readers(file, operation)
    if len(readers) != 1 or _kind(file, readers[0]) != "RESHAPE":
        return None
    graph = file.subgraphs[0]
    if len(graph.tensors[readers[0].outputs[0]].shape) != 2 or graph.tensors[readers[0].outputs[0]].shape[0] != 1:
        return None
    layers = _layers_behind(file, readers[0])
    return _Flattened(operation, readers[0], tuple(layers)) if layers else None


def _layers_behind(file: Any, operation: Any) -> list[Any]:
    """The linear layers that read rows; none where anything else does, or where their weights are read elsewhere."""
    layers = []
    for reader in _readers(file, operation) or [None]:
        if reader is not None and _kind(file, reader) in KEEPING:
            behind = _layers_behind(file, reader)
        else:
            behind = [reader] if reader is not None and _is_layer(file, reader, operation) else []
        if not behind or int(operation.outputs[0]) in map(int, file.subgraphs[0].outputs):
            return []
        layers += behind
    return layers


def _is_layer(file: Any, reader: Any, operation: Any) -> bool:
    if _kind(file, reader) != "FULLY_CONNECTED" or int(reader.inputs[0]) != int(operation.outputs[0]):
        return False
    weight = int(reader.inputs[1])
    others = [one for one in file.subgraphs[0].operators if one is not reader and weight in map(int, one.inputs)]
    return not others and file.buffers[file.subgraphs[0].tensors[weight].buffer].data is not None


def _readers(file: Any, operation: Any) -> list[Any]:
    result = int(operation.outputs[0])
    return [one for one in file.subgraphs[0].operators if result in map(int, one.inputs)]


def _kind(file: Any, operation: Any) -> str:
    from ai_edge_litert import schema_py_generated as schema

    code = file.operatorCodes[operation.opcodeIndex].builtinCode
    return next(name for name, value in vars(schema.BuiltinOperator).items() if value == code)


def _constant(file: Any, number: int) -> np.ndarray:
    """A constant of int32."""
    return np.frombuffer(bytes(file.buffers[file.subgraphs[0].tensors[number].buffer].data), np.int32)


def _reorder(file: Any, number: int, columns: Sequence[int] | np.ndarray) -> None:
    """Puts the columns of a weight (O, I) in another order; its buffer stays that of others that hold the same."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = file.subgraphs[0].tensors[number]
    kind = np.int8 if tensor.type == schema.TensorType.INT8 else np.float32
    values = np.frombuffer(bytes(file.buffers[tensor.buffer].data), kind).reshape(tensor.shape)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values[:, np.asarray(columns)]).tobytes(), np.uint8)
    if sum(one.buffer == tensor.buffer for part in file.subgraphs for one in part.tensors) == 1:
        file.buffers[tensor.buffer] = buffer
    else:
        file.buffers.append(buffer)
        tensor.buffer = len(file.buffers) - 1
