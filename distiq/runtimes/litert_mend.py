"""Mends what litert-torch has written: names, inputs and outputs, stored weights, a free batch."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distiq.errors import UserError
from distiq.runtimes.litert_file import UNSIGNED, float_operations_of, packed, unpacked
from distiq.runtimes.lowering import RANGE_COLUMNS
from distiq.runtimes.runtime import Weight, dequantized
from distiq.runtimes.uint8_input import MODULE, Uint8Input


def check_integers(content: bytes, path: Path) -> None:
    """Raises UserError unless every operation of the file, from its inputs to its outputs, is one of integers."""
    from ai_edge_litert import schema_py_generated as schema

    graph = unpacked(content).subgraphs[0]
    floats = float_operations_of(content)
    if floats or any(graph.tensors[end].type != schema.TensorType.INT8 for end in (*graph.inputs, *graph.outputs)):
        what = ", ".join(floats) or "its input or output"
        raise UserError(
            f"{path}: integer_io: LiteRT computes {what} in float32; replace those operations, or export the network"
            " without integer_io"
        )


def with_names(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Names the inputs and outputs of the file's signature, which the converter numbers: args_0, output_1."""
    model = unpacked(content)
    for signature_def in model.signatureDefs:
        for mapped, names in ((signature_def.inputs, inputs), (signature_def.outputs, outputs)):
            numbers = [int(one.name.rpartition(b"_")[2]) for one in mapped]
            if twice := [name for number, name in enumerate(names) if number not in numbers]:
                raise UserError(f"LiteRT files give a tensor once, but {twice[0]} is another output, too; leave it out")
            for one, number in zip(mapped, numbers, strict=True):
                one.name = names[number].encode()
    return packed(model)


def with_float_input(content: bytes) -> bytes:
    """Puts a QUANTIZE operation before each int8 input."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    alone = len(graph.inputs) == 1
    for number, inside in enumerate(graph.inputs):
        if graph.tensors[inside].type not in (schema.TensorType.INT8, schema.TensorType.INT16):
            continue
        entry = copy.copy(graph.tensors[inside])
        entry.type, entry.quantization = schema.TensorType.FLOAT32, None
        entry.name = b"input" if alone else f"input_{number}".encode()
        graph.tensors.append(entry)
        insert(model, 0, "QUANTIZE", [len(graph.tensors) - 1], inside)
        _replace(model, "inputs", number, len(graph.tensors) - 1)
    return packed(model)


def with_integer_weights(content: bytes, weights: Sequence[Weight]) -> bytes:
    """Holds the integers of tables, and of linear layers with range columns, where the converter left their values."""
    from ai_edge_litert import schema_py_generated as schema

    by_bytes = {}
    for weight in weights:
        if weight.integers.ndim == 2 and weight.scales.ndim == 1:
            wide = weight._replace(integers=np.pad(weight.integers, ((0, 0), (0, RANGE_COLUMNS))))
            by_bytes["EMBEDDING_LOOKUP", dequantized(weight).tobytes()] = weight
            by_bytes["FULLY_CONNECTED", dequantized(wide).tobytes()] = wide
    model = unpacked(content)
    graph = model.subgraphs[0]
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    for operation in graph.operators:
        kind = names[model.operatorCodes[operation.opcodeIndex].builtinCode]
        if kind not in ("EMBEDDING_LOOKUP", "FULLY_CONNECTED"):
            continue
        tensor = graph.tensors[operation.inputs[1]]
        data = model.buffers[tensor.buffer].data
        if data is None or (stored := by_bytes.get((kind, bytes(data)))) is None:
            continue
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale = stored.scales.astype(np.float32)
        tensor.quantization.zeroPoint = np.zeros(len(stored.scales), np.int64)
        model.buffers.append(schema.BufferT())
        tensor.buffer = len(model.buffers) - 1
        model.buffers[-1].data = np.frombuffer(stored.integers.tobytes(), np.uint8)
        if kind == "FULLY_CONNECTED":
            operation.builtinOptions.asymmetricQuantizeInputs = True  # a range from the smallest to the largest value
    drop_unread_buffers(model)
    return packed(model)


def drop_unread_buffers(model: Any) -> None:
    used = {tensor.buffer for part in model.subgraphs for tensor in part.tensors}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None


def with_float_output(content: bytes) -> bytes:
    """Puts a DEQUANTIZE operation behind each int8 output."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    alone = len(graph.outputs) == 1
    for number, inside in enumerate(graph.outputs):
        if graph.tensors[inside].type not in (schema.TensorType.INT8, schema.TensorType.INT16):
            continue
        result = copy.copy(graph.tensors[inside])
        result.type, result.quantization = schema.TensorType.FLOAT32, None
        result.name = b"output" if alone else f"output_{number}".encode()
        graph.tensors.append(result)
        insert(model, len(graph.operators), "DEQUANTIZE", [inside], len(graph.tensors) - 1)
        _replace(model, "outputs", number, len(graph.tensors) - 1)
    return packed(model)


def with_uint8_input(content: bytes, uint8_input: Uint8Input) -> bytes:
    """Takes uint8 pixels in place of normalized float32: as the input's integers where they are, else normalized.

    The normalization is CAST, DIV, SUB and DIV in float32, in the order of `Uint8Input.normalized`.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    inside = graph.inputs[0]
    entry = copy.copy(graph.tensors[inside])
    entry.type = schema.TensorType.UINT8
    readers = [operation for operation in graph.operators if inside in list(operation.inputs)]
    first = graph.tensors[readers[0].outputs[0]].quantization if len(readers) == 1 else None
    if first is not None and first.scale is not None and len(first.scale) == 1:
        scale, zero_point = np.array(first.scale, np.float32), np.array(first.zeroPoint) + UNSIGNED
        if uint8_input.are_integers_of(scale, zero_point):
            entry.quantization = copy.copy(first)
            entry.quantization.zeroPoint = zero_point
            graph.tensors[inside] = entry
            return packed(model)
    entry.name = b"input"
    graph.tensors.append(entry)
    _replace(model, "inputs", 0, len(graph.tensors) - 1)
    before = graph.inputs[0]
    steps: list[tuple[str, Sequence[float] | None]] = [("CAST", None), ("DIV", [255.0]), ("SUB", uint8_input.mean)]
    for number, (kind, values) in enumerate([*steps, ("DIV", uint8_input.std)]):
        after = inside
        if number < len(steps):
            part = copy.copy(graph.tensors[inside])
            part.name = f"{MODULE}/{number}".encode()
            graph.tensors.append(part)
            after = len(graph.tensors) - 1
        inputs = [before] if values is None else [before, _constant(model, values)]
        insert(model, number, kind, inputs, after)
        before = after
    graph.tensors[inside].name = f"{MODULE}/{len(steps)}".encode()
    return packed(model)


def insert(model: Any, position: int, kind: str, inputs: list[int], output: int) -> None:
    """Puts an operation, with the options that it has by default, into the graph."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = 1
    model.operatorCodes.append(code)
    operation = schema.OperatorT()
    operation.opcodeIndex = len(model.operatorCodes) - 1
    operation.inputs, operation.outputs = inputs, [output]
    if kind in ("DIV", "MUL", "SUB"):
        options = f"{kind.capitalize()}Options"
        operation.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operation.builtinOptions = getattr(schema, f"{options}T")()
    model.subgraphs[0].operators.insert(position, operation)


def _constant(model: Any, values: Sequence[float]) -> int:
    """The number of a new float32 tensor (1, C, 1, 1)."""
    from ai_edge_litert import schema_py_generated as schema

    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.array(values, np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.shape, tensor.type = np.array([1, len(values), 1, 1], np.int32), schema.TensorType.FLOAT32
    tensor.buffer, tensor.name = len(model.buffers) - 1, f"{MODULE}/values".encode()
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _replace(model: Any, side: str, number: int, tensor: int) -> None:
    """Makes a tensor one of the graph's "inputs" or "outputs", in place of the one at that position."""
    graph = model.subgraphs[0]
    numbers = [int(one) for one in getattr(graph, side)]
    for signature_def in model.signatureDefs or []:
        for mapped in getattr(signature_def, side):
            if mapped.tensorIndex == numbers[number]:
                mapped.tensorIndex = tensor
    numbers[number] = tensor
    setattr(graph, side, numbers)


def with_dynamic_batch(content: bytes) -> bytes:
    """Makes every RESHAPE keep the batch size of its input, and marks the graph input's batch as dynamic."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    for number in graph.inputs:
        entry = graph.tensors[number]
        entry.shapeSignature = np.array([-1, *entry.shape[1:]], np.int32)
    for operation in graph.operators:
        if model.operatorCodes[operation.opcodeIndex].builtinCode != schema.BuiltinOperator.RESHAPE:
            continue
        buffer = model.buffers[graph.tensors[operation.inputs[1]].buffer]
        shape = np.frombuffer(bytes(buffer.data), np.int32).copy()
        if shape[0] == 1:
            shape[0] = -1
            buffer.data = np.frombuffer(shape.tobytes(), np.uint8)
    return packed(model)
