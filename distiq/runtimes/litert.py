"""LiteRT (formerly TensorFlow Lite): everything that touches it. XNNPACK runs the .tflite files.

litert-torch converts the reference graph with the weights as quantize / dequantize pairs. It leaves a batch of one,
int8 at quantized inputs and outputs, and float32 weights in tables and in linear layers with a float32 result; all are
mended in the finished file, so that it takes any batch of float32 samples and holds the graph's integers. Inputs and
outputs stay int8 where that is asked for.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from distiq.device.run import as_floats, as_taken, named_tensors
from distiq.errors import UserError, first_line
from distiq.files import write_atomically
from distiq.models.signature import (
    AffineParameters,
    Positional,
    Predict,
    Signature,
    Tensors,
    TensorSpec,
    by_name,
    concatenated,
    each,
    in_order,
    positional,
    split,
    tensors_of,
)
from distiq.numerics import HALVED_FROM
from distiq.recipe.quantize import Mode
from distiq.runtimes.litert_islands import inline_composites, with_islands
from distiq.runtimes.lowering import (
    RANGE_COLUMNS,
    float_copy,
    is_quantized,
    qparams_of,
    with_float_joints,
    with_float_outputs,
    with_plain_attention,
    with_weight_pairs,
    without_idle_clips,
)
from distiq.runtimes.runtime import (
    FileOptions,
    QuantizationParameters,
    Refusal,
    Runtime,
    Weight,
    dequantized,
    only_static_int8,
)
from distiq.runtimes.silence import silence
from distiq.runtimes.uint8_input import MODULE, Uint8Input

FREE = {"BROADCAST_TO", "CAST", "DEQUANTIZE", "EXPAND_DIMS", "FILL", "QUANTIZE", "RESHAPE", "SHAPE", "SQUEEZE",
        "TRANSPOSE"}  # fmt: skip
"""What computes nothing: conversions, constants, shapes, and views of a tensor. All else computes."""
BESIDE_VALUES = ("CONCATENATION", "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "MAXIMUM", "MINIMUM",
                 "NOT_EQUAL", "PADV2", "SELECT_V2")  # fmt: skip
"""What reads constants that are no weights: padding, bounds, and values that others are compared with."""
FILE_IDENTIFIER = b"TFL3"
CONVOLUTION_AXES = IMAGE_AXES = 4
UNSIGNED = 128  # how far the zero point of uint8 stands from that of int8


def export_litert(model: nn.Module, example: Tensors, path: Path, options: FileOptions) -> None:
    """Writes a .tflite file with a dynamic batch, or one of a single sample where the graph does not allow it.

    Args:
        options: `integer_io` wants a model whose input and output are quantized.

    Raises:
        UserError: an operation has no form in LiteRT.
    """
    content = converted(model, example, path, options)
    try:
        _interpreter(content, 1, path)
    except UserError as error:  # it converts operations that it has no kernel for, such as a sort
        raise UserError(f"{error}; take another operation or runtime") from error
    dynamic = _with_dynamic_batch(content)
    if options.uint8_input is not None:
        example = each(lambda one: torch.arange(one.numel()).remainder(256).to(torch.uint8).view_as(one), example)
    if _takes_any_batch(dynamic, example):
        content = dynamic
    elif _has_range_columns(content):
        content = converted(model, example, path, options, one_sample=True)
    write_atomically(path, content)


def converted(
    model: nn.Module,
    example: Tensors,
    path: Path,
    options: FileOptions,
    one_sample: bool = False,
    is_for_micro: bool = False,
) -> bytes:
    """A .tflite file of a single sample.

    Args:
        is_for_micro: inputs and outputs of four axes lie channels last, and no layer multiplies integers by floats.
    """
    with silence():
        import litert_torch
    try:
        with silence(), torch.no_grad():
            prepared = _prepared(model, one_sample, has_hybrids=not is_for_micro)
            network = positional(prepared, each(lambda one: one[:1].contiguous(), example))
            form = _channels_last(network) if is_for_micro else network
            made = litert_torch.convert(form.module, form.inputs, quant_config=_config(model))
            flat = unpacked(bytes(made.model_content()))
            inline_composites(flat)
            _requantize_at_once(flat)
            _widen_biases(flat)
            content = packed(flat)
    except UserError:
        raise
    except Exception as error:  # the converter raises many kinds
        raise UserError(f"{path}: LiteRT cannot convert this network: {first_line(error)}") from error
    uint8_input, integer_io = options.uint8_input, options.integer_io
    if integer_io:
        _check_integers(content, path)
    if not integer_io or uint8_input is not None:
        content = _with_float_input(content)
    if not integer_io:
        content = _with_float_output(content)
    if isinstance(model, fx.GraphModule) and is_quantized(model):
        content = _with_integer_weights(content, qparams_of(model).weights)
    if not network.has_usual_names:
        content = _with_names(content, network.input_names, network.output_names)
    content = content if uint8_input is None else _with_uint8_input(content, uint8_input)
    return _with_halves(content) if options.half else content


def _channels_last(network: Positional) -> Positional:
    """The network with inputs and outputs (B, C, H, W) as (B, H, W, C)."""
    from litert_torch import to_channel_last_io

    taken = [number for number, one in enumerate(network.inputs) if one.ndim == IMAGE_AXES]
    outputs = tensors_of(network.named(network.module(*network.inputs)))
    given = [number for number, one in enumerate(outputs) if one.ndim == IMAGE_AXES]
    inputs = [one.permute(0, 2, 3, 1).contiguous() if one.ndim == IMAGE_AXES else one for one in network.inputs]
    return replace(network, module=to_channel_last_io(network.module, taken, given).eval(), inputs=tuple(inputs))


def load_litert(path: Path, threads: int = 1, _options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file; where its batch is fixed to one, sample by sample.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _predict(_interpreter(path.read_bytes(), threads, path), path)


def signature(path: Path) -> Signature:
    """What the file takes and gives; of int8 also how it is quantized."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return signature_of(path.read_bytes(), path)


def signature_of(content: bytes, path: Path) -> Signature:
    """What a .tflite file takes and gives; `path` is where it lies, or will."""
    inputs, outputs = named_tensors(_interpreter(content, 1, path))
    given = tuple(_spec(name, tensor) for name, tensor in inputs.items())
    is_free = all(one.shape[:1] == (-1,) for one in given)  # the file says it of its inputs alone
    return Signature(given, tuple(_spec(name, tensor, is_free) for name, tensor in outputs.items()))


def _spec(name: str, tensor: dict[str, Any], is_free: bool = False) -> TensorSpec:
    sizes = tensor["shape_signature"] if len(tensor["shape_signature"]) else tensor["shape"]
    sizes = [-1, *sizes[1:]] if is_free else sizes
    scale, zero_point = tensor["quantization"]
    quantization = AffineParameters(float(scale), int(zero_point)) if tensor["dtype"] == np.int8 else None
    dtype = torch.from_numpy(np.zeros(0, tensor["dtype"])).dtype
    return TensorSpec(name, tuple(int(size) for size in sizes), dtype, quantization)


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind give each type; linear layers that multiply integers count as int8."""
    from ai_edge_litert import schema_py_generated as schema

    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    by_kind: dict[str, Counter[str]] = {}
    for kind, _, computed_in in _steps(unpacked(path.read_bytes())):
        by_kind.setdefault(kind.lower(), Counter())[types[computed_in].replace("uint8", "int8")] += 1
    return {kind: dict(counts) for kind, counts in sorted(by_kind.items())}


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations of the file that compute in floating point, as "number (type)"; of pixels "pixels/number"."""
    return _float_operations(path.read_bytes())


def _float_operations(content: bytes) -> tuple[str, ...]:
    from ai_edge_litert import schema_py_generated as schema

    names = []
    for number, (kind, result, computed_in) in enumerate(_steps(unpacked(content))):
        if kind not in FREE and computed_in in _floats(schema):
            place = f"{MODULE}/" if bytes(result.name).startswith(MODULE.encode()) else ""
            names.append(f"{place}{number} ({kind.lower()})")
    return tuple(names)


def _steps(model: Any) -> Iterator[tuple[str, Any, int]]:
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
        if _reads_range_columns(graph, operation, schema):
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
    widened = {operation.inputs[1] for operation in graph.operators if _reads_range_columns(graph, operation, schema)}
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
            array = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape)
            array = array[:, :-RANGE_COLUMNS] if number in widened else array
            array = _channels_first(array, quantization.quantizedDimension)
            weights.append(Weight(array, quantization.scale, is_multiplied=number not in tables))
        elif data is not None and tensor.type == schema.TensorType.FLOAT32 and len(tensor.shape) > 1:
            array = np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)
            floats += [array, *(_channels_first(array, axis) for axis in (0, 3) if array.ndim == CONVOLUTION_AXES)]
    floats += _of_groups([_float_array(model, number) for number in transposed])
    return QuantizationParameters(tuple(weights), tuple(floats), frozenset(activations))


def _float_array(model: Any, number: int) -> np.ndarray:
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


def _has_range_columns(content: bytes) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    graph = unpacked(content).subgraphs[0]
    return any(_reads_range_columns(graph, operation, schema) for operation in graph.operators)


def _reads_range_columns(graph: Any, operation: Any, schema: Any) -> bool:
    """Whether it multiplies integer weights by a float32 input, whose scale its kernel computes."""
    if not isinstance(operation.builtinOptions, schema.FullyConnectedOptionsT):
        return False
    types = [graph.tensors[number].type for number in operation.inputs[:2]]
    return types == [schema.TensorType.FLOAT32, schema.TensorType.INT8]


def _channels_first(array: np.ndarray, output_axis: int) -> np.ndarray:
    """(O, H, W, I), or (1, H, W, O) of a depthwise layer, as (O, I, H, W)."""
    if array.ndim != 4:
        return array
    return array.transpose(0, 3, 1, 2) if output_axis == 0 else array.transpose(3, 0, 1, 2)


def _prepared(model: nn.Module, one_sample: bool, has_hybrids: bool = True) -> nn.Module:
    if not is_quantized(model):
        return float_copy(model)
    assert isinstance(model, fx.GraphModule)
    graph = without_idle_clips(with_float_outputs(with_float_joints(model), False, one_sample, has_hybrids))
    return with_islands(with_weight_pairs(with_plain_attention(graph)))


def _config(model: nn.Module) -> Any:
    """Says to the converter that the graph is quantized; the quantizer itself is never run."""
    if not is_quantized(model):
        return None
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config()))


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


def _check_integers(content: bytes, path: Path) -> None:
    """Raises UserError unless every operation of the file, from its inputs to its outputs, is one of integers."""
    from ai_edge_litert import schema_py_generated as schema

    graph = unpacked(content).subgraphs[0]
    floats = _float_operations(content)
    if floats or any(graph.tensors[end].type != schema.TensorType.INT8 for end in (*graph.inputs, *graph.outputs)):
        what = ", ".join(floats) or "its input or output"
        raise UserError(
            f"{path}: integer_io: LiteRT computes {what} in float32; replace those operations, or export the network"
            " without integer_io"
        )


def _with_names(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
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


def _requantize_at_once(model: Any) -> None:
    """Puts one operation in the place of DEQUANTIZE and QUANTIZE between 16 and 8 bits, in place."""
    from ai_edge_litert import schema_py_generated as schema

    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    by_kind: dict[int, list[Any]] = {kinds.DEQUANTIZE: [], kinds.QUANTIZE: []}
    for operation in graph.operators:
        by_kind.get(model.operatorCodes[operation.opcodeIndex].builtinCode, []).append(operation)
    sources = {int(one.outputs[0]): one for one in by_kind[kinds.DEQUANTIZE]}
    read = Counter(int(number) for one in graph.operators for number in one.inputs)
    for operation in by_kind[kinds.QUANTIZE]:
        source, number = sources.get(int(operation.inputs[0])), int(operation.inputs[0])
        if source is not None and read[number] == 1 and number not in map(int, graph.outputs):
            operation.inputs = [int(source.inputs[0])]
            graph.operators.remove(source)


def _widen_biases(model: Any) -> None:
    """Makes biases of layers with int16 inputs int64, as their kernels want them, in place."""
    from ai_edge_litert import schema_py_generated as schema

    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    layers = (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED)
    for operation in graph.operators:
        kind = model.operatorCodes[operation.opcodeIndex].builtinCode
        if kind not in layers or len(operation.inputs) < 3:
            continue
        taken, bias = (graph.tensors[operation.inputs[place]] for place in (0, 2))
        if taken.type != schema.TensorType.INT16 or bias.type != schema.TensorType.INT32:
            continue
        values = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32).astype(np.int64)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        bias.type, bias.buffer = schema.TensorType.INT64, len(model.buffers) - 1


def _with_float_input(content: bytes) -> bytes:
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
        _insert(model, 0, "QUANTIZE", [len(graph.tensors) - 1], inside)
        _replace(model, "inputs", number, len(graph.tensors) - 1)
    return packed(model)


def _with_integer_weights(content: bytes, weights: Sequence[Weight]) -> bytes:
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
    _drop_unread_buffers(model)
    return packed(model)


def _with_halves(content: bytes) -> bytes:
    """Stores large constants in float16, behind a DEQUANTIZE, whose values are all those of float16."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    for number in range(len(graph.tensors)):
        tensor = graph.tensors[number]
        if tensor.type != schema.TensorType.FLOAT32 or (values := _float_array(model, number)).size < HALVED_FROM:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not (halves.astype(np.float32) == values).all():
            continue
        stored, buffer = copy.copy(tensor), schema.BufferT()
        stored.type, stored.name = schema.TensorType.FLOAT16, tensor.name + b"/float16"
        buffer.data = np.frombuffer(halves.tobytes(), np.uint8)
        model.buffers.append(buffer)
        stored.buffer, tensor.buffer = len(model.buffers) - 1, 0
        graph.tensors.append(stored)
        _insert(model, 0, "DEQUANTIZE", [len(graph.tensors) - 1], number)
    _drop_unread_buffers(model)
    return packed(model)


def _drop_unread_buffers(model: Any) -> None:
    used = {tensor.buffer for part in model.subgraphs for tensor in part.tensors}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None


def _with_float_output(content: bytes) -> bytes:
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
        _insert(model, len(graph.operators), "DEQUANTIZE", [inside], len(graph.tensors) - 1)
        _replace(model, "outputs", number, len(graph.tensors) - 1)
    return packed(model)


def _with_uint8_input(content: bytes, uint8_input: Uint8Input) -> bytes:
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
        _insert(model, number, kind, inputs, after)
        before = after
    graph.tensors[inside].name = f"{MODULE}/{len(steps)}".encode()
    return packed(model)


def _insert(model: Any, position: int, kind: str, inputs: list[int], output: int) -> None:
    """Puts an operation without options of its own into the graph."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = 1
    model.operatorCodes.append(code)
    operation = schema.OperatorT()
    operation.opcodeIndex = len(model.operatorCodes) - 1
    operation.inputs, operation.outputs = inputs, [output]
    if kind in ("DIV", "SUB"):
        operation.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind.capitalize()}Options")
        operation.builtinOptions = schema.DivOptionsT() if kind == "DIV" else schema.SubOptionsT()
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


def _with_dynamic_batch(content: bytes) -> bytes:
    """Lets every RESHAPE keep the batch that it finds, and marks the input's batch as open."""
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


def _takes_any_batch(content: bytes, example: Tensors) -> bool:
    """Whether three samples together give what each gives alone."""
    path = Path("model.tflite")
    interpreter = _interpreter(content, 1, path)
    samples = each(lambda one: torch.cat([one, one])[:3], example)
    try:
        predict = _predict(interpreter, path)
        alone = concatenated([predict(sample) for sample in split(samples, 1)])
        pairs = zip(tensors_of(predict(samples)), tensors_of(alone), strict=True)
    except (RuntimeError, ValueError):
        return False
    return all(_alike(*pair) for pair in pairs)


def _alike(together: Tensor, alone: Tensor) -> bool:
    if not alone.is_floating_point():
        return torch.equal(together, alone)
    largest = max(1.0, float(alone.abs().max()))
    return together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-4, atol=1e-5 * largest)


def _interpreter(content: bytes, threads: int, path: Path) -> Any:
    try:
        with silence():
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: LiteRT cannot load this file: {first_line(error)}") from error
    return interpreter


def _predict(interpreter: Any, path: Path) -> Predict:
    inputs, outputs = named_tensors(interpreter)
    any_batch = all(one["shape_signature"][0] == -1 for one in inputs.values())
    batch = 1

    def run(tensors: Sequence[Tensor]) -> Tensors:
        nonlocal batch
        if len(tensors[0]) != batch:
            for entry, tensor in zip(inputs.values(), tensors, strict=True):
                interpreter.resize_tensor_input(entry["index"], tensor.shape)
            interpreter.allocate_tensors()
            batch = len(tensors[0])
        for entry, tensor in zip(inputs.values(), tensors, strict=True):
            interpreter.set_tensor(entry["index"], as_taken(tensor.contiguous().numpy(), entry))
        interpreter.invoke()
        results = [as_floats(interpreter.get_tensor(one["index"]), one) for one in outputs.values()]
        return by_name([torch.from_numpy(one) for one in results], list(outputs))

    def predict(given: Tensors) -> Tensors:
        tensors = in_order(given, list(inputs), str(path))
        if any_batch:
            return run(tensors)
        return concatenated([run(part) for part in zip(*(one.split(1) for one in tensors), strict=True)])

    return predict


def refuses(mode: Mode, _activation_bits: int, group_size: int) -> Refusal | None:
    """Why a file cannot hold a scheme; activations of 16 bits have kernels of their own."""
    if mode == "float16":
        return None
    refusal = only_static_int8(mode, 8, group_size)
    if refusal is None or mode != "dynamic":
        return refusal
    return refusal._replace(
        what=f"{refusal.what} (its kernels find a range for each row of a layer's input, the graph has one for all)"
    )


LITERT = Runtime(
    name="litert",
    title="LiteRT",
    suffix=".tflite",
    packages=("ai_edge_litert", "litert_torch"),
    install="litert-torch==0.10.0 ai-edge-litert==2.3.0",
    imported="ai_edge_litert.interpreter",
    export=export_litert,
    load=load_litert,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    refuses=refuses,
    uint8_input=True,
    integer_io=True,
    wide=True,
)
