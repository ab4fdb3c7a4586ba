"""OpenVINO: everything that touches it. The IR (.xml with its .bin) is made from an ONNX file, with the same integers.

Precision is set to float32: by default OpenVINO computes the float parts in bfloat16 where the CPU has it.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from distiq.errors import UserError
from distiq.models.signature import Predict, Signature, Tensors, TensorSpec, by_name, in_order
from distiq.numerics import HALVED_FROM
from distiq.recipe.quantize import Mode
from distiq.runtimes.onnx_runtime import export_onnx
from distiq.runtimes.runtime import (
    FileOptions,
    QuantizationParameters,
    Refusal,
    Runtime,
    Weight,
    only_static_int8,
)
from distiq.runtimes.silence import silence

ROUNDING = 1e-6  # of a scale that is worked out from the limits of its range
VECTORS = 2  # axes of a batch of vectors
VERGE = 0.01  # of the step of integer sums
FREE = {"Broadcast", "Convert", "FakeQuantize", "Reorder", "Reshape", "ShapeOf", "Squeeze", "Transpose", "Unsqueeze"}
"""What computes nothing: conversions, shapes, layouts, and views of a tensor. All else computes."""
LAYERS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}
"""Whose kernels say themselves what they compute in; the network's last layer has another name there."""
RESCALING = {"Add", "Multiply", "Subtract"}  # a bias, and integers on their way to floats, within a kernel
LEVELS = 2**16  # a limit so many steps away limits nothing
MOVES = {"MaxPool", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"}
CONSTANT, ENDS = {"Const", "Constant"}, {"Input", "Output", "Parameter", "Result"}
FLOATS = {"f16", "bf16", "f32", "f64"}
TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i32": "int32", "i64": "int64", "u8": "int8",
         "i8": "int8", "boolean": "bool"}  # fmt: skip


def export_openvino(model: nn.Module, example: Tensors, path: Path, options: FileOptions) -> None:
    """Writes `path` (.xml) and its weights (.bin), with a dynamic batch. example: inputs (B, ...), B >= 2.

    Raises:
        UserError: an operation has no ONNX form, or OpenVINO refuses the graph.
    """
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".partial") as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / path.name
        export_onnx(model, example, source, options, for_openvino=True)
        try:
            with silence():
                converted = openvino.convert_model(source)
                if all(operation.get_type_name() != "FakeQuantize" for operation in converted.get_ops()):
                    # Else OpenVINO quantizes what meets integer weights to int8, though nobody asked for it.
                    converted.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
                _round_before_sums(converted)
                _keep_reduced_axes(converted)
                _pad_before_averages(converted)
                _round_limits(converted)
                _bias_every_layer(converted)
                if options.half:
                    _store_halves(converted)
                openvino.save_model(converted, target, compress_to_fp16=False)
        except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
            raise UserError(f"{path}: OpenVINO cannot convert this network: {_first_line(error)}") from error
        os.replace(target.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(target, path)


SETTINGS: tuple[dict[str, str], ...] = (
    {},
    {"PERFORMANCE_HINT": "THROUGHPUT"},
    {"INFERENCE_PRECISION_HINT": "bf16"},
)
"""In bfloat16 float layers are faster and give other outputs."""


def load_openvino(path: Path, threads: int = 1, options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file. It is compiled anew for each batch size that it meets: fixed shapes run faster.

    Args:
        options: properties of OpenVINO's CPU device, in place of distiq's.

    Raises:
        UserError: the file is missing or damaged.
    """
    import openvino

    _check(path)
    core = openvino.Core()
    requests: dict[tuple[tuple[int, ...], ...], Any] = {}
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise UserError(f"{path}: OpenVINO cannot load this file: {_first_line(error)}") from error
    input_names, output_names = (tuple(_name(one) for one in side) for side in (model.inputs, model.outputs))

    def request_for(shapes: tuple[tuple[int, ...], ...]) -> Any:
        if shapes not in requests:
            model = core.read_model(path)
            model.reshape({number: list(shape) for number, shape in enumerate(shapes)})
            requests[shapes] = core.compile_model(model, "CPU", {**_options(threads), **options}).create_infer_request()
        return requests[shapes]

    def predict(inputs: Tensors) -> Tensors:
        arrays = [one.contiguous().numpy() for one in in_order(inputs, input_names, str(path))]
        request = request_for(tuple(one.shape for one in arrays))
        results = request.infer(dict(enumerate(arrays)), share_inputs=True)
        return by_name([torch.from_numpy(results[number].copy()) for number in range(len(output_names))], output_names)

    return predict


def signature(path: Path) -> Signature:
    """What the file takes and gives."""
    import openvino

    _check(path)
    model = openvino.Core().read_model(path)
    return Signature(*(tuple(_spec(one) for one in side) for side in (model.inputs, model.outputs)))


def _spec(port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(_name(port), shape, torch.from_numpy(np.zeros(0, port.get_element_type().to_dtype())).dtype)


def _name(port: Any) -> str:
    return port.get_any_name()


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind work in each type, from the compiled graph; those on constants are left out."""
    types: dict[str, Counter[str]] = {}
    for _, facts in _working(path):
        type_name = "int8" if _is_int8(facts) else TYPES.get(facts["runtimePrecision"], facts["runtimePrecision"])
        types.setdefault(facts["layerType"], Counter())[type_name] += 1
    return {kind: dict(counts) for kind, counts in sorted(types.items())}


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations that OpenVINO computes in floating point here, as "name (type)", from the compiled graph.

    With those of the file that it runs at the end of another's kernel, where that gives floats.
    """
    import openvino

    kinds = {one.get_friendly_name(): one.get_type_name() for one in openvino.Core().read_model(path).get_ordered_ops()}
    names = []
    for name, facts in _working(path):
        if facts["layerType"] not in FREE and facts["runtimePrecision"] in FLOATS and not _is_int8(facts):
            names.append(f"{name} ({facts['layerType']})")
        if facts["outputPrecisions"].partition(",")[0] in FLOATS:
            fused = [(one, kinds.get(one, "")) for one in facts["originalLayersNames"].split(",") if one != name]
            names += [f"{one} ({kind})" for one, kind in fused if kind and kind not in FREE | RESCALING | LAYERS]
    return tuple(names)


def _working(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each operation of the compiled graph but those on constants: its name and what OpenVINO says of it."""
    constants: set[str] = set()
    for operation, facts in _compiled(path):
        kind, name = facts.get("layerType", ""), operation.get_friendly_name()
        sources = {value.get_node().get_friendly_name() for value in operation.input_values()}
        if kind in CONSTANT or (sources and sources <= constants):
            constants.add(name)
        elif kind and kind not in ENDS:
            yield name, facts


def _is_int8(facts: dict[str, str]) -> bool:
    return facts["primitiveType"].upper().endswith("I8")


def _compiled(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Each operation of the compiled graph, and what OpenVINO says about it."""
    import openvino

    _check(path)
    compiled = openvino.Core().compile_model(path, "CPU", _options(1))
    for operation in compiled.get_runtime_model().get_ordered_ops():
        yield operation, {key: value.astype(str) for key, value in operation.get_rt_info().items()}


def _round_before_sums(model: Any) -> None:
    """Rounds what a convolution adds to a sum to multiples of its scale, in front of its FakeQuantize.

    OpenVINO computes convolution, FakeQuantize, sum and FakeQuantize in one kernel and leaves the first rounding out:
    one sum in five is a step off then. An explicit rounding stays, in the same kernel.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        readers = list(node.output(0).get_target_inputs()) if node.get_type_name() == "FakeQuantize" else []
        if len(readers) != 1 or readers[0].get_node().get_type_name() != "Add" or not _is_of_convolution(node):
            continue
        low, high = (float(limit.get_node().data.item()) for limit in node.input_values()[3:])
        step = (high - low) / (node.get_attributes()["levels"] - 1)
        steps = opset13.multiply(node.input_value(0), np.float32(1 / step))
        rounded = opset13.multiply(opset13.round(steps, "half_to_even"), np.float32(step))
        node.input(0).replace_source_output(rounded.output(0))


def _keep_reduced_axes(model: Any) -> None:
    """Puts a Squeeze behind every maximum and minimum over axes that does not keep them.

    OpenVINO 2026.4 gives wrong values where such a reduction and the FakeQuantize behind it become one kernel.
    """
    from openvino import opset13

    makers = {"ReduceMax": opset13.reduce_max, "ReduceMin": opset13.reduce_min}
    for node in model.get_ordered_ops():
        if (make := makers.get(node.get_type_name())) and not node.get_attributes()["keep_dims"]:
            values, axes = node.input_values()
            kept = make(values, axes, keep_dims=True)
            kept.set_friendly_name(node.get_friendly_name())
            squeezed = opset13.squeeze(kept, axes).output(0)
            for reader in node.output(0).get_target_inputs():
                if reader.get_node().get_type_name() != "Result":  # the network's output keeps its name
                    reader.replace_source_output(squeezed)


def _round_limits(model: Any) -> None:
    """Brings the limits of a Clamp to multiples of the scale behind it, which changes nothing that FakeQuantize gives.

    Where the values in front of it are quantized alike, OpenVINO leaves that FakeQuantize out, and limits as they were
    would stay unrounded.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        readers = list(node.output(0).get_target_inputs()) if node.get_type_name() == "Clamp" else []
        steps = {_step_of(reader.get_node()) for reader in readers}
        if len(steps) != 1 or (step := steps.pop()) is None:
            continue
        given = node.get_attributes()
        low, high = (float(given[end]) for end in ("min", "max"))
        low, high = (round(limit / step) * step if abs(limit / step) < LEVELS else limit for limit in (low, high))
        clamped = opset13.clamp(node.input_value(0), low, high)
        clamped.set_friendly_name(node.get_friendly_name())
        for reader in readers:
            reader.replace_source_output(clamped.output(0))


def _pad_before_averages(model: Any) -> None:
    """Keeps the zeros around a map apart from its average pooling, by an operation between the two.

    OpenVINO 2026.4 averages integers with zeros, where its zero point stands for zero, and makes one operation of
    padding and pooling where nothing is between them.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "AvgPool":
            continue
        given, source = node.get_attributes(), node.input_value(0)
        before, after = (list(map(int, given[side])) for side in ("pads_begin", "pads_end"))
        if source.get_node().get_type_name() == "Pad":
            padded, quantized = source, _quantized_behind(source.get_node().input_value(0).get_node())
        elif any(before + after) and not given["exclude-pad"]:
            padded = opset13.pad(source, [0, 0, *before], [0, 0, *after], "constant", np.float32(0))
            quantized = _quantized_behind(source.get_node())
        else:
            continue
        if quantized is None:
            apart = opset13.maximum(padded, np.float32(np.finfo(np.float32).min))
        else:
            apart = opset13.fake_quantize(padded, *quantized.input_values()[1:], quantized.get_attributes()["levels"])
        none, rounding = [0] * len(before), "floor" if given["rounding_type"] == "floor" else "ceil"
        pooled = opset13.avg_pool(apart, given["strides"], none, none, given["kernel"], True, rounding)
        pooled.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(pooled.output(0))


def _quantized_behind(node: Any) -> Any | None:
    """The FakeQuantize whose values a node gives, moved or not; None where there is none."""
    while node.get_type_name() in MOVES:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "FakeQuantize" else None


def _bias_every_layer(model: Any) -> None:
    """Adds a bias to linear layers of vectors that have none: a hundredth of the step of their integer sums.

    OpenVINO 2026.4 computes small batches of such layers in a row in one kernel. Where a layer has no
    bias, that kernel takes its integer sums for floats. No sum is rounded otherwise by this but one on the verge.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.output(0).get_partial_shape().rank.get_length() != VECTORS:
            continue
        readers = list(node.output(0).get_target_inputs())
        step, scales = _step_of(node.input_value(0).get_node()), _scales_of(node.input_value(1).get_node())
        if (
            step is None
            or scales is None
            or any(one.get_node().get_type_name() in ("Add", "Result") for one in readers)
        ):
            continue
        biased = opset13.add(node, np.float32(VERGE * step) * scales.reshape(1, -1).astype(np.float32)).output(0)
        for reader in readers:
            reader.replace_source_output(biased)


def _store_halves(model: Any) -> None:
    """Stores large constants in float16, behind a Convert, whose values are all those of float16: no value changes."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.data.dtype != np.float32 or node.data.size < HALVED_FROM:
            continue
        with np.errstate(over="ignore"):
            halves = node.data.astype(np.float16)
        if (halves.astype(np.float32) == node.data).all():
            cast = opset13.convert(opset13.constant(halves), "f32").output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(cast)


def _step_of(node: Any) -> float | None:
    """The scale of what a FakeQuantize gives."""
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high = (float(limit.get_node().data.item()) for limit in node.input_values()[3:])
    return (high - low) / (int(node.get_attributes()["levels"]) - 1)


def _scales_of(node: Any) -> np.ndarray | None:
    """The scales of integer weights behind Convert and Multiply."""
    if node.get_type_name() != "Multiply" or _constant(node.input_value(0).get_node()) is None:
        return None
    return _constant(node.input_value(1).get_node())


def _is_of_convolution(node: Any) -> bool:
    """Whether a value is that of a convolution, with its bias and activation."""
    node = node.input_value(0).get_node()
    while node.get_type_name() in ("Add", "Clamp", "Relu"):
        node = node.input_value(0).get_node()
    return node.get_type_name() in ("Convolution", "GroupConvolution")


def quantization_parameters(path: Path) -> QuantizationParameters:
    """The integer weights, scales and zero points that the file holds.

    Weights stand there as int8 behind Convert and Multiply, rows of tables behind a Gather, too, those of one position
    and channel as float32; ranges of activations as FakeQuantize, by their limits.
    """
    import openvino

    _check(path)
    weights, floats, activations = [], [], set()
    for operation in openvino.Core().read_model(path).get_ordered_ops():
        inputs = [value.get_node() for value in operation.input_values()]
        if operation.get_type_name() == "FakeQuantize":
            low, high = (float(limit.data.item()) for limit in inputs[3:])
            scale = (high - low) / (operation.get_attributes()["levels"] - 1)
            activations.add((scale, round(-low / scale) - 128))
        elif operation.get_type_name() == "Multiply" and inputs[0].get_type_name() == "Convert":
            integers, scales = (_constant(value) for value in inputs)
            if integers is not None and scales is not None and integers.dtype == np.int8:
                axis = int(np.argmax(scales.shape)) if scales.ndim else 0  # a transposed weight is turned back
                weights.append(Weight(np.moveaxis(integers, axis, 0), scales.reshape(-1)))
        elif operation.get_type_name() in ("Convolution", "GroupConvolution"):
            floats += [one.data for one in inputs if one.get_type_name() == "Constant" and one.data.dtype == np.float32]
    return QuantizationParameters(tuple(weights), tuple(floats), frozenset(activations), tolerance=ROUNDING)


def _constant(node: Any) -> np.ndarray | None:
    """The constant that a node gives as another type, or by rows that are read from it; None where there is none."""
    while node.get_type_name() in ("Convert", "Gather", "Unsqueeze", "Reshape"):
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _options(threads: int) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def _check(path: Path) -> None:
    for part in (path, path.with_suffix(".bin")):
        if not part.is_file():
            raise UserError(f"{part}: no such file (an OpenVINO model is an .xml and a .bin side by side)")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _refuses(mode: Mode, activation_bits: int, group_size: int) -> Refusal | None:
    if group_size:
        return Refusal("groups of weights", "group_size = 0")
    if mode in ("weight_only", "float16"):
        return None
    refusal = only_static_int8(mode, activation_bits, group_size)
    return refusal._replace(nearest='mode = "weight_only" or "static"') if refusal and mode == "dynamic" else refusal


OPENVINO = Runtime(
    name="openvino",
    title="OpenVINO",
    suffix=".xml",
    packages=("openvino",),
    install="openvino==2026.4.1",
    imported="openvino",
    export=export_openvino,
    load=load_openvino,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
    refuses=_refuses,
    uint8_input=True,
    settings=SETTINGS,
    parts=lambda path: (path, path.with_suffix(".bin")),
    may_saturate=lambda path: True,
)
