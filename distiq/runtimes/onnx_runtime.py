"""ONNX Runtime: everything that touches it. Export, the passes over the exported file, loading, what stays in float.

The int8 file holds the same scales and integer weights as the PT2E graph. Activations are stored as uint8 instead of
int8 with the zero point moved by 128: the same grid, and the type that its x86 kernels are written for.
"""

import ast
import copy
import logging
import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import ir
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.models.layout import free_dimensions, make_contiguous
from distiq.runtimes.lowering import Entry, Grids, Weight
from distiq.runtimes.pixels import Pixels, take_pixels

INPUT, OUTPUT = "input", "logits"
LARGEST_WRITTEN = 64  # values of a constant that a formula of fewer would give
COMPUTING = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul", "Sub", "Div", "Log",
             "Clip", "Relu", "GlobalAveragePool", "AveragePool", "ReduceMean", "Concat", "Sigmoid",
             "HardSigmoid", "HardSwish", "Pad"}  # fmt: skip
DEFAULTS: dict[tuple[str, str], object] = {
    ("Conv", "auto_pad"): b"NOTSET", ("Conv", "group"): 1, ("Conv", "dilations"): 1, ("Conv", "strides"): 1,
    ("Conv", "pads"): 0, ("Gemm", "alpha"): 1.0, ("Gemm", "beta"): 1.0, ("Gemm", "transA"): 0,
    ("Reshape", "allowzero"): 0,
}  # fmt: skip
Q, DQ = "QuantizeLinear", "DequantizeLinear"
MULTIPLYING = {"Conv", "Gemm", "MatMul"}
FUSED_INTEGERS = {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"}
CHUNK = 32  # samples whose values between the nodes are held at a time
SMALLEST_PACKED = 128  # weights: fewer are not worth a node
PACKING_OPSET = 21  # the first with INT4


def export_onnx(
    model: nn.Module,
    example: Tensor,
    path: Path,
    named: Sequence[str] = (),
    pixels: Pixels | None = None,
    for_openvino: bool = False,
) -> None:
    """Writes a float model, or the PT2E reference graph of a quantized one, as an ONNX file with a dynamic batch.

    Args:
        example: (B, ...) input, B >= 2.
        named: module paths; what computes in them carries the path in its name, as "frontend/conv_3".
        pixels: the file takes uint8 images and normalizes them so.
        for_openvino: without INT4, and without zero points of weights, though ONNX Runtime fuses a Gemm only with them:
            OpenVINO keeps some of them as subtractions and computes those layers in float32.

    Raises:
        UserError: an operation has no ONNX form; the message names it.
    """
    proto = _to_onnx(model, example)
    graph = proto.graph
    _name_after_modules(graph, named)
    _drop_annotations(proto)
    _restore_global_pooling(graph)
    if any(node.op_type == Q for node in graph.node):
        _fold_padding(graph)
        _drop_needless_clips(graph)
        _drop_repeated_grids(graph)
        _transpose_stored_weights(graph)
        _look_up_integers(graph)
        _store_activations_unsigned(graph)
        if for_openvino:
            _drop_zero_points_of_weights(graph)
        _store_last_bias_as_integers(graph)
        if not for_openvino:
            _pack_narrow_weights(proto)
    if pixels is not None:
        take_pixels(graph, pixels, on_grid=not for_openvino)  # OpenVINO wants a float input in front of a grid
    _drop_dead_ends(graph)
    _drop_default_attributes(graph)
    _shorten_names(graph)
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString())


def load_onnx(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """A `predict` that runs the file: inputs (B, ...) of its type -> its first output.

    Raises:
        UserError: the file is missing or damaged, or takes more than one input.
    """
    session = _session(path, threads)
    name, output = _only_input(session, path).name, session.get_outputs()[0].name

    def predict(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run([output], {name: inputs.contiguous().numpy()})[0])

    return predict


class Integers(NamedTuple):
    """What a DequantizeLinear reads: integers, and the scale and zero point of their grid."""

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
    session = _session(path, 1)
    name, output = _only_input(session, path).name, session.get_outputs()[0].name
    proto = onnx.load(str(path))
    nodes, constants = proto.graph.node, _initializers(proto.graph)
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
                known = values[bias] if bias in values else _value(constants, bias) if bias else None
                attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
                factor, weight = (integers[source] for source in node.input[:2])
                result = compute(IntegerLayer(node.op_type, attributes, factor, weight, known))
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
    known = [constants[name] for name in dict.fromkeys(node.input) if name in constants]
    graph = helper.make_graph([node], "node", inputs, outputs, known)
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return onnxruntime.InferenceSession(model.SerializeToString(), _options(1), providers=["CPUExecutionProvider"])


def entry(path: Path) -> Entry:
    """What the file takes."""
    found = _only_input(_session(path, 1), path)
    types = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32,
             "tensor(uint8)": torch.uint8, "tensor(int8)": torch.int8}  # fmt: skip
    if found.type not in types:
        raise UserError(f"{path}: its input is {found.type}; distiq feeds {', '.join(types)}")
    return Entry(tuple(size if isinstance(size, int) else -1 for size in found.shape), types[found.type])


def _only_input(session: Any, path: Path) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UserError(f"{path}: takes {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), not one")
    return inputs[0]


def float_operations(path: Path) -> tuple[str, ...]:
    """The computing operations that ONNX Runtime leaves in float32 in a quantized file, as "name (type)".

    Read from the graph after ONNX Runtime's own optimization, so it is what runs here.
    """
    import onnxruntime

    options = _options(1)
    optimized = path.with_suffix(".optimized.onnx.partial")
    options.optimized_model_filepath = str(optimized)
    # Without the last level, which changes layouts alone and takes the nodes' names.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        with _quiet():
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        proto = onnx.load(str(optimized))
    finally:
        optimized.unlink(missing_ok=True)
    return tuple(f"{node.name} ({node.op_type})" for node in proto.graph.node if node.op_type in COMPUTING)


def operation_counts(path: Path) -> Counter[str]:
    """How many nodes of each type the file holds."""
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def grids(path: Path) -> Grids:
    """The integer weights and grids that the file holds; activations are uint8, narrow weights INT4 behind a cast.

    A table of embeddings is read row by row, its scales by the same numbers; a transposed weight is turned back.
    """
    graph = onnx.load(str(path)).graph
    constants = _initializers(graph)
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            narrow = _value(constants, node.input[0])
            assert narrow is not None
            constants[node.output[0]] = numpy_helper.from_array(narrow.astype(np.int8), node.output[0])
    weights, activations = [], set()
    tables: dict[str, dict[bool, np.ndarray]] = {}
    for node in graph.node:
        stored = _value(constants, node.input[0]) if node.input else None
        if node.op_type == "Gather" and stored is not None and stored.dtype in (np.int8, np.float32):
            tables.setdefault(node.input[1], {})[stored.dtype == np.int8] = stored
        if node.op_type not in (Q, DQ) or len(node.input) < 2:
            continue
        scale = _value(constants, node.input[1])
        assert scale is not None
        if stored is None:
            zero_point = _value(constants, node.input[2])
            assert zero_point is not None
            activations.add((float(scale), int(zero_point) - 128))
        elif stored.dtype == np.int8:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1 if scale.ndim else 0)
            weights.append(Weight(np.moveaxis(stored, axis, 0), scale))
    weights += [Weight(pair[True], pair[False], is_table=True) for pair in tables.values() if len(pair) == 2]
    return Grids(tuple(weights), (), frozenset(activations))


def _options(threads: int):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _session(path: Path, threads: int):  # type: ignore[no-untyped-def]
    import onnxruntime

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        return onnxruntime.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise UserError(f"{path}: ONNX Runtime cannot load this file: {error}") from error


def _to_onnx(model: nn.Module, example: Tensor) -> ModelProto:
    if not isinstance(model, torch.fx.GraphModule):
        model = make_contiguous(copy.deepcopy(model).cpu().eval())
    example = example.clone(memory_format=torch.contiguous_format)
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamo=True,
                dynamic_shapes=(free_dimensions(example),),
                verbose=False,
                optimize=False,
            )
            assert program is not None
            optimize_ir(program.model, should_fold=_folds)
            return program.model_proto
    except Exception as error:  # torch.onnx raises many kinds
        cause = error.__cause__ or error
        raise UserError(f"the network cannot be exported to ONNX: {str(cause).splitlines()[0]}") from error


def _folds(node: ir.Node) -> bool | None:
    """Leaves weights that are a formula of a few numbers to the runtime, which computes them when it loads the file.

    Written out, the Fourier basis of an audio front-end would be many times as large as the network behind it.
    """
    shapes = [value.shape for value in (*node.outputs[:1], *node.inputs) if value is not None]
    if any(shape is None for shape in shapes) or node.op_type == "Expand":  # a bias of zeros, which goes altogether
        return None
    written, *read = (math.prod(shape.numpy()) for shape in shapes if shape is not None)
    return False if written > max(LARGEST_WRITTEN, sum(read)) else None


class _quiet:
    """Holds back what torch.onnx logs while it exports."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)


def _name_after_modules(graph: GraphProto, paths: Sequence[str]) -> None:
    """Gives every node the path among `paths` of the module that it comes from, or no name."""
    for node in graph.node:
        scopes = next((item.value for item in node.metadata_props if item.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = ast.literal_eval(scopes)
        node.name = next((path for path in paths if path in modules), "")


def _drop_annotations(proto: ModelProto) -> None:
    """Stack traces and module names are three quarters of the file that torch writes for a small network."""
    graph = proto.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    del proto.metadata_props[:]
    graph.doc_string = proto.doc_string = ""
    proto.producer_name, proto.producer_version = "distiq", ""


def _initializers(graph: GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _value(constants: dict[str, TensorProto], name: str) -> np.ndarray | None:
    return numpy_helper.to_array(constants[name]) if name in constants else None


def _consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _replace_input(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
    for output in graph.output:
        assert output.name != old


def _restore_global_pooling(graph: GraphProto) -> None:
    """A mean over height and width is a GlobalAveragePool, which runtimes have integer kernels for."""
    constants = _initializers(graph)
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2:
            continue
        axes = _value(constants, node.input[1])
        keep = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        if axes is not None and keep and sorted(axes.tolist()) in ([2, 3], [-2, -1]):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _drop_needless_clips(graph: GraphProto) -> None:
    """Removes a Relu or Clip whose result is put on a grid that saturates at the same ends: the grid is the clip."""
    constants = _initializers(graph)
    consumers = _consumers(graph)
    for node in list(graph.node):
        if node.op_type not in ("Relu", "Clip"):
            continue
        behind = consumers.get(node.output[0], [])
        if behind and all(user.op_type == Q and _saturates(node, user, constants) for user in behind):
            _replace_input(graph, node.output[0], node.input[0])
            graph.node.remove(node)


def _saturates(clip: NodeProto, quantize: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether every value beyond the clip's ends falls on the grid's ends, as the clip's ends themselves do."""
    scale, zero_point = _value(constants, quantize.input[1]), _value(constants, quantize.input[2])
    if scale is None or zero_point is None or scale.size != 1:
        return False
    low: float | None = 0.0
    high: float | None = None
    if clip.op_type == "Clip":
        ends = [_value(constants, name) if name else None for name in clip.input[1:]] + [None, None]
        low, high = (None if end is None else float(end) for end in ends[:2])
    limits = np.iinfo(zero_point.dtype)

    def on_grid(value: float) -> float:
        return float(np.rint(value / float(scale)) + int(zero_point))

    return (low is None or on_grid(low) <= limits.min) and (high is None or on_grid(high) >= limits.max)


def _drop_repeated_grids(graph: GraphProto) -> None:
    """Removes Q -> DQ behind DQ -> Reshape-like when it repeats the grid that the values are on already."""
    producers = {name: node for node in graph.node for name in node.output}
    consumers = _consumers(graph)
    for node in list(graph.node):
        if node.op_type != Q:
            continue
        source = producers.get(node.input[0])
        if source is None or source.op_type != DQ or list(source.input[1:]) != list(node.input[1:]):
            continue
        for user in consumers.get(node.output[0], []):
            for position, name in enumerate(user.input):
                if name == node.output[0]:
                    user.input[position] = source.input[0]
        graph.node.remove(node)


def _fold_padding(graph: GraphProto) -> None:
    """A zero padding in front of a convolution goes into the convolution: alone it would be computed in float32."""
    constants, consumers = _initializers(graph), _consumers(graph)
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        amounts, chain = _value(constants, pad.input[1]), [pad]
        for wanted in (Q, DQ, "Conv"):
            users = consumers.get(chain[-1].output[0], [])
            if len(users) == 1 and users[0].op_type == wanted:
                chain.append(users[0])
        mode = next((helper.get_attribute_value(entry) for entry in pad.attribute if entry.name == "mode"), b"constant")
        value = _value(constants, pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
        if amounts is None or len(chain) < 4 or mode != b"constant" or value is None or value.any():
            continue
        axes = len(amounts) // 2
        outer, inner = amounts.reshape(2, axes)[:, :2], amounts.reshape(2, axes)[:, 2:]
        convolution = chain[-1]
        own = next((entry for entry in convolution.attribute if entry.name == "pads"), None)
        automatic = any(entry.name == "auto_pad" and entry.s != b"NOTSET" for entry in convolution.attribute)
        if outer.any() or (amounts < 0).any() or automatic:
            continue
        pads = inner.flatten() + (np.array(own.ints) if own is not None else 0)
        if own is not None:
            convolution.attribute.remove(own)
        convolution.attribute.append(helper.make_attribute("pads", [int(amount) for amount in pads]))
        convolution.input[0] = pad.input[0]


def _transpose_stored_weights(graph: GraphProto) -> None:
    """Integer weights that are transposed when the file runs are stored so: kernels fuse with a DQ at the product."""
    constants = _initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        source = producers.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or source.op_type != DQ or source.input[0] not in constants:
            continue
        weight = numpy_helper.to_array(constants[source.input[0]])
        order = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
        axis = next((attribute.i for attribute in source.attribute if attribute.name == "axis"), 1)
        name = f"{source.input[0]}_transposed"
        if name not in constants:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.transpose(order)), name))
            constants[name] = graph.initializer[-1]
        turned = helper.make_node(DQ, [name, *source.input[1:]], list(node.output), axis=order.index(axis))
        graph.node.insert(list(graph.node).index(node), turned)
        graph.node.remove(node)


def _look_up_integers(graph: GraphProto) -> None:
    """A row of an embedding's integer table is read, then scaled; else the whole table became float at each run."""
    constants = _initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    axis = "embedding_last_axis"
    for number, node in enumerate(list(graph.node)):
        source = producers.get(node.input[0]) if node.op_type == "Gather" else None
        if source is None or source.op_type != DQ or source.input[0] not in constants:
            continue
        table, scales = source.input[:2]
        zero_points = _value(constants, source.input[2]) if len(source.input) > 2 else None
        assert zero_points is None or not zero_points.any(), "tables are symmetric"
        if axis not in constants:
            graph.initializer.append(numpy_helper.from_array(np.array([-1]), axis))
            constants[axis] = graph.initializer[-1]
        rows, floats, steps, column = (f"embedding_{number}_{part}" for part in ("rows", "floats", "steps", "column"))
        position = list(graph.node).index(node)
        replacement = [
            helper.make_node("Gather", [table, node.input[1]], [rows], axis=0),
            helper.make_node("Cast", [rows], [floats], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scales, node.input[1]], [steps], axis=0),
            helper.make_node("Unsqueeze", [steps, axis], [column]),
            helper.make_node("Mul", [floats, column], list(node.output)),
        ]
        for offset, made in enumerate(replacement):
            graph.node.insert(position + offset, made)
        graph.node.remove(node)


def _store_activations_unsigned(graph: GraphProto) -> None:
    """int8 activations become uint8: zero point + 128, the same grid. Weights, which are initializers, stay int8."""
    constants = _initializers(graph)
    moved: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type not in (Q, DQ) or node.input[0] in constants:
            continue
        zero_point = _value(constants, node.input[2])
        if zero_point is None or zero_point.dtype != np.int8:
            continue
        name = moved.setdefault(node.input[2], f"{node.input[2]}_u8")
        if name not in constants:
            shifted = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            graph.initializer.append(numpy_helper.from_array(shifted, name))
            constants[name] = graph.initializer[-1]
        node.input[2] = name


def _drop_zero_points_of_weights(graph: GraphProto) -> None:
    """Grids of weights are symmetric: without a zero point it is 0."""
    constants = _initializers(graph)
    for node in graph.node:
        if node.op_type == DQ and node.input[0] in constants and len(node.input) > 2:
            zero_point = _value(constants, node.input[2])
            if zero_point is not None and not zero_point.any():
                del node.input[2]


def _store_last_bias_as_integers(graph: GraphProto) -> None:
    """The bias of a Gemm whose result stays float32 goes on the accumulator's grid: int32 of scale s_x * s_w.

    ONNX Runtime does so itself for layers whose result is quantized; only with it does this one run in integers.
    """
    constants = _initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    consumers = _consumers(graph)
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        pair = [producers.get(name) for name in node.input[:2]]
        if any(user.op_type == Q for user in consumers.get(node.output[0], [])) or not all(
            source is not None and source.op_type == DQ for source in pair
        ):
            continue
        scales = [_value(constants, source.input[1]) for source in pair]  # type: ignore[union-attr]
        bias = _value(constants, node.input[2])
        if bias is None or any(scale is None for scale in scales):
            continue
        scale = (scales[0] * scales[1]).astype(np.float32)  # type: ignore[operator]
        name = node.input[2]
        integers = np.clip(np.rint(bias / scale), -(2**31), 2**31 - 1).astype(np.int32)
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}_i32"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        pair_node = helper.make_node(
            DQ, [f"{name}_i32", f"{name}_scale"], [f"{name}_grid"], axis=0 if scale.size > 1 else None
        )
        node.input[2] = f"{name}_grid"
        graph.node.insert(position, pair_node)


def _pack_narrow_weights(proto: ModelProto) -> None:
    """Integer weights between -8 and 7 are stored as INT4, two in a byte, and cast to int8.

    ONNX Runtime folds the cast when it loads the file, so it computes with its int8 kernels as before.
    """
    graph = proto.graph
    constants = _initializers(graph)
    weights = {node.input[0] for node in graph.node if node.op_type == DQ and node.input[0] in constants}
    for name in sorted(weights):
        values = _value(constants, name)
        if values is None or values.dtype != np.int8 or values.size < SMALLEST_PACKED:
            continue
        if values.min() < -8 or values.max() > 7:
            continue
        nibbles = np.append(values.ravel(), np.zeros(values.size % 2, np.int8)).astype(np.uint8) & 15
        packed = nibbles[0::2] | nibbles[1::2] << 4
        tensor = TensorProto(
            name=f"{name}_i4", data_type=TensorProto.INT4, dims=values.shape, raw_data=packed.tobytes()
        )
        graph.initializer.append(tensor)
        graph.node.insert(0, helper.make_node("Cast", [tensor.name], [f"{name}_i8"], to=TensorProto.INT8))
        for node in graph.node:
            if node.op_type == DQ and node.input[0] == name:
                node.input[0] = f"{name}_i8"
        for entry in proto.opset_import:
            if entry.domain == "":
                entry.version = max(entry.version, PACKING_OPSET)


def _drop_dead_ends(graph: GraphProto) -> None:
    """Removes nodes and constants that nothing reads."""
    wanted = {output.name for output in graph.output}
    while True:
        read = wanted | {name for node in graph.node for name in node.input}
        dead = [node for node in graph.node if not any(name in read for name in node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in read:
            graph.initializer.remove(tensor)


def _drop_default_attributes(graph: GraphProto) -> None:
    """Removes attributes that say what ONNX takes for granted, and the axis of pairs that have one scale."""
    constants = _initializers(graph)
    for node in graph.node:
        for attribute in list(node.attribute):
            value = helper.get_attribute_value(attribute)
            default = DEFAULTS.get((node.op_type, attribute.name))
            one_scale = node.op_type in (Q, DQ) and node.input[1] in constants and not constants[node.input[1]].dims
            if (
                value == default
                or (isinstance(value, list) and value == [default] * len(value))
                or (one_scale and attribute.name == "axis")
            ):
                node.attribute.remove(attribute)


def _shorten_names(graph: GraphProto) -> None:
    """Layers keep readable names; the values between them get short ones, which matters in a file of 100 KB."""
    short: dict[str, str] = {INPUT: INPUT, OUTPUT: OUTPUT, "": ""}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name not in short:
                short[name] = f"{'c' if name in constants else 'v'}{len(short)}"
    for number, node in enumerate(graph.node):
        module = f"{node.name}/" if node.name and node.op_type in COMPUTING else ""
        node.name = f"{module}{node.op_type.lower()}_{number}" if node.op_type in COMPUTING else ""
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]


MEMORY_PROBE_SECONDS = 120
MEMORY_PROBE = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
shape = [int(size) for size in sys.argv[2:]]

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew: what the imports took is not the model's
before = memory("VmRSS")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
kind = {"tensor(int64)": numpy.int64, "tensor(uint8)": numpy.uint8}.get(entry.type, numpy.float32)
session.run(None, {entry.name: numpy.zeros(shape, kind)})
print(memory("VmHWM") - before)
"""


def peak_memory_bytes(path: Path, shape: tuple[int, ...]) -> int | None:
    """What loading the file and running one batch of `shape` adds to a fresh process's peak memory.

    None where the system does not tell: elsewhere than on Linux, and in containers that hide a part of /proc.
    """
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-c", MEMORY_PROBE, str(path), *map(str, shape)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEMORY_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout) if done.returncode == 0 else None
