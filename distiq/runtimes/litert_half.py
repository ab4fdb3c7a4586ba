"""Constants of a LiteRT file in float16, behind a DEQUANTIZE: half the size, the same kernels."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distiq.numerics import HALVED_FROM
from distiq.runtimes.litert_file import float_array, packed, unpacked
from distiq.runtimes.litert_mend import drop_unread_buffers, insert

ROUNDING = 1e-6  # relative: a few products of float32


class Scaled(NamedTuple):
    """A matrix (O, I) and what its columns are multiplied by, (I,)."""

    matrix: np.ndarray
    factors: np.ndarray


def with_halves(content: bytes, matrices: Sequence[np.ndarray] = ()) -> bytes:
    """Stores large constants in float16 if that represents all of their values exactly.

    Args:
        matrices: the network's weights. Where the converter has multiplied one by what its input is multiplied by, such
            as by a norm's weights, the two are parted again: of their product float16 holds nothing exactly.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    _part_products(model, [matrix for matrix in matrices if matrix.ndim == 2 and is_exact(matrix)])
    for number in range(len(graph.tensors)):
        tensor = graph.tensors[number]
        if tensor.type != schema.TensorType.FLOAT32 or (values := float_array(model, number)).size < HALVED_FROM:
            continue
        if not is_exact(values):
            continue
        stored = copy.copy(tensor)
        stored.type, stored.name = schema.TensorType.FLOAT16, tensor.name + b"/float16"
        stored.buffer, tensor.buffer = _buffer(model, values.astype(np.float16)), 0
        graph.tensors.append(stored)
        insert(model, 0, "DEQUANTIZE", [len(graph.tensors) - 1], number)
    drop_unread_buffers(model)
    return packed(model)


def is_exact(values: np.ndarray) -> bool:
    """Whether float16 represents all values."""
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def scaled(weight: np.ndarray, matrices: Sequence[np.ndarray]) -> Scaled | None:
    """Which of the matrices a weight (O, I) is, but for a factor of each column."""
    for matrix in matrices:
        if matrix.shape != weight.shape:
            continue
        largest = np.abs(matrix).argmax(0)[None]
        given, own = (np.take_along_axis(values, largest, 0)[0] for values in (weight, matrix))
        factors = given / np.where(own == 0, 1, own)
        if (np.abs(matrix * factors - weight) <= ROUNDING * np.abs(weight)).all():
            return Scaled(matrix, factors)
    return None


def _part_products(model: Any, matrices: Sequence[np.ndarray]) -> None:
    """Multiplies the inputs of linear layers by what their weights were multiplied by, in place."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    readers = Counter(number for operation in graph.operators for number in operation.inputs)
    for operation in list(graph.operators):
        if model.operatorCodes[operation.opcodeIndex].builtinCode != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        given, number = operation.inputs[:2]
        weight = float_array(model, number)
        if weight.size < HALVED_FROM or is_exact(weight) or readers[number] > 1:
            continue
        if (found := scaled(weight, matrices)) is None:
            continue
        name, product = graph.tensors[number].name, copy.copy(graph.tensors[given])
        graph.tensors[number].buffer = _buffer(model, found.matrix)
        product.name = name + b"/product"
        graph.tensors.append(product)
        operation.inputs = [len(graph.tensors) - 1, *operation.inputs[1:]]
        place = next(at for at, one in enumerate(graph.operators) if one is operation)
        insert(model, place, "MUL", [given, _constant(model, name + b"/factors", found.factors)], operation.inputs[0])


def _constant(model: Any, name: bytes, values: np.ndarray) -> int:
    """The number of a new float32 tensor."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = np.array(values.shape, np.int32), schema.TensorType.FLOAT32, name
    tensor.buffer = _buffer(model, values.astype(np.float32))
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _buffer(model: Any, values: np.ndarray) -> int:
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1
