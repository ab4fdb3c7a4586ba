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
from distiq.recipe.quantize import Mode
from distiq.runtimes.onnx_runtime import export_onnx
from distiq.runtimes.openvino_mend import (
    bias_every_layer,
    constant_of,
    keep_reduced_axes,
    pad_before_averages,
    part_scales,
    round_before_sums,
    round_limits,
    store_halves,
)
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
FREE = {"Broadcast", "Convert", "FakeQuantize", "Reorder", "Reshape", "ShapeOf", "Squeeze", "Transpose", "Unsqueeze"}
"""What computes nothing: conversions, shapes, layouts, and views of a tensor. All else computes."""
LAYERS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}
"""Whose kernels say themselves what they compute in; the network's last layer has another name there."""
RESCALING = {"Add", "Multiply", "Subtract"}  # a bias, and integers on their way to floats, within a kernel
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
                    # Otherwise OpenVINO quantizes the inputs of layers with integer weights to int8, unasked.
                    converted.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
                round_before_sums(converted)
                keep_reduced_axes(converted)
                pad_before_averages(converted)
                round_limits(converted)
                bias_every_layer(converted)
                part_scales(converted)
                if options.half:
                    store_halves(converted)
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

    Includes operations of the file that are fused at the end of another one's kernel, where that returns floats.
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
            integers, scales = (constant_of(value) for value in inputs)
            if integers is not None and scales is not None and integers.dtype == np.int8:
                axis = int(np.argmax(scales.shape)) if scales.ndim else 0  # a transposed weight is turned back
                weights.append(Weight(np.moveaxis(integers, axis, 0), scales.reshape(-1)))
        elif operation.get_type_name() in ("Convolution", "GroupConvolution"):
            floats += [one.data for one in inputs if one.get_type_name() == "Constant" and one.data.dtype == np.float32]
    return QuantizationParameters(tuple(weights), tuple(floats), frozenset(activations), tolerance=ROUNDING)


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
