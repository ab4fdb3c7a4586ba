"""LiteRT (formerly TensorFlow Lite): everything that touches it. XNNPACK runs the .tflite files.

litert-torch converts the reference graph with the weights as quantize / dequantize pairs. It leaves a batch of one,
int8 at quantized inputs and outputs, and float32 weights in tables and in linear layers with a float32 result; all of
this is fixed in the finished file, so that it takes any batch of float32 samples and holds the graph's integers. Inputs
and outputs stay int8 on request.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from distiq.recipe.quantize import Mode
from distiq.runtimes.litert_file import (
    IMAGE_AXES,
    float_operations,
    has_range_columns,
    operations,
    packed,
    quantization_parameters,
    unpacked,
)
from distiq.runtimes.litert_half import with_halves
from distiq.runtimes.litert_islands import inline_composites, with_islands
from distiq.runtimes.litert_mend import (
    check_integers,
    with_dynamic_batch,
    with_float_input,
    with_float_output,
    with_integer_weights,
    with_names,
    with_uint8_input,
)
from distiq.runtimes.litert_transposed import is_of_rows, with_cut_outputs, without_padding
from distiq.runtimes.lowering import (
    float_copy,
    is_quantized,
    qparams_of,
    with_float_joints,
    with_float_outputs,
    with_float_weights,
    with_plain_attention,
    with_weight_pairs,
    without_idle_clips,
)
from distiq.runtimes.runtime import FileOptions, Refusal, Runtime, only_static_int8
from distiq.runtimes.silence import silence


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
    dynamic = with_dynamic_batch(content)
    if options.uint8_input is not None:
        example = each(lambda one: torch.arange(one.numel()).remainder(256).to(torch.uint8).view_as(one), example)
    if _takes_any_batch(dynamic, example):
        content = dynamic
    elif has_range_columns(content):
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
        check_integers(content, path)
    if not integer_io or uint8_input is not None:
        content = with_float_input(content)
    if not integer_io:
        content = with_float_output(content)
    if isinstance(model, fx.GraphModule) and is_quantized(model):
        content = with_integer_weights(content, qparams_of(model).weights)
    if not network.has_usual_names:
        content = with_names(content, network.input_names, network.output_names)
    content = content if uint8_input is None else with_uint8_input(content, uint8_input)
    return with_halves(content, [one.numpy() for one in model.state_dict().values()]) if options.half else content


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


def _prepared(model: nn.Module, one_sample: bool, has_hybrids: bool = True) -> nn.Module:
    if not is_quantized(model):
        return without_padding(float_copy(model))
    assert isinstance(model, fx.GraphModule)
    joined = with_float_joints(with_float_weights(with_cut_outputs(model), is_of_rows))
    graph = without_idle_clips(with_float_outputs(joined, False, one_sample, has_hybrids))
    return with_islands(with_weight_pairs(with_plain_attention(graph)))


def _config(model: nn.Module) -> Any:
    """Says to the converter that the graph is quantized; the quantizer itself is never run."""
    if not is_quantized(model):
        return None
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config()))


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
