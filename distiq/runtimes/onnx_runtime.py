"""ONNX Runtime: everything that touches it. Export, loading, running node by node, what a file holds.

The int8 file holds the same scales and integer weights as the PT2E graph. Activations are stored as uint8 instead of
int8 with the zero point moved by 128: the same values, and the type that its x86 kernels are written for.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distiq.device import run as runner
from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.models.from_onnx import files_of_onnx
from distiq.models.signature import INPUT, OUTPUT, Predict, Signature, Tensors, TensorSpec, by_name, in_order
from distiq.runtimes.onnx_export import to_onnx
from distiq.runtimes.onnx_graph import DQ, initializers, value_of
from distiq.runtimes.onnx_half import store_halves
from distiq.runtimes.onnx_passes import rewrite
from distiq.runtimes.onnx_read import FUSED_INTEGERS, float_operations, operations, quantization_parameters, work
from distiq.runtimes.onnx_session import open_session, session_options
from distiq.runtimes.runtime import FileOptions, Runtime

MULTIPLYING = {"Conv", "Gemm", "MatMul"}
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
    proto = to_onnx(model, example)
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
    """Renames a file's inputs and outputs, in order, to match a file that it replaces."""
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
    calls = runner.BoundCalls(open_session(path, threads, options))

    def predict(inputs: Tensors) -> Tensors:
        arrays = [one.numpy() for one in in_order(inputs, calls.inputs, str(path))]
        return by_name([torch.from_numpy(one) for one in calls(arrays)], calls.outputs)

    return predict


class FrontEnd(NamedTuple):
    """An audio file split in two: its front-end, and the network behind it.

    frames: waveforms (B, T) of any length from `window` on -> (B, bands, frames), one frame every `hop` samples.
    network: as many frames as the whole file makes of its clips -> its output.
    """

    window: int
    hop: int
    frames: Callable[[Tensor], Tensor]
    network: Callable[[Tensor], Tensor]


def split_front_end(path: Path, threads: int = 1) -> FrontEnd | None:
    """Splits an .onnx file after its front-end; None if it has none that stays in float32 under its name."""
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
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )


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
