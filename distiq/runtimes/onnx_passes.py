"""The passes over an ONNX file that torch has written, after which ONNX Runtime computes in integers throughout."""

import ast
from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.runtimes.onnx_graph import (
    DQ,
    DYNAMIC_Q,
    Q,
    consumers_of,
    drop_dead_ends,
    initializers,
    raise_opset,
    value_of,
)
from distiq.runtimes.onnx_kept import float_constants, keep_float_layers
from distiq.runtimes.onnx_moves import move_integers
from distiq.runtimes.onnx_weights import (
    dequantize_when_loaded,
    look_up_integers,
    multiply_dynamically_quantized,
    multiply_groups,
    pack_narrow_weights,
    sum_integer_rows,
    transpose_stored_weights,
)
from distiq.runtimes.uint8_input import Uint8Input, take_uint8

DEFAULTS: dict[tuple[str, str], object] = {
    ("Conv", "auto_pad"): b"NOTSET", ("Conv", "group"): 1, ("Conv", "dilations"): 1, ("Conv", "strides"): 1,
    ("Conv", "pads"): 0, ("Gemm", "alpha"): 1.0, ("Gemm", "beta"): 1.0, ("Gemm", "transA"): 0,
    ("Reshape", "allowzero"): 0,
}  # fmt: skip
FREE = {Q, DQ, DYNAMIC_Q, "Cast", "CastLike", "Constant", "ConstantOfShape", "Expand", "Flatten", "Identity", "Reshape",
        "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"}  # fmt: skip
"""Nodes that compute nothing: conversions, constants, shapes, and views of a tensor. All others compute."""
WIDE_PRODUCTS = {"MatMul"}  # the others stay DQ: ONNX Runtime would quantize their float weights behind a Q itself
RECURRENT_WEIGHTS = {"Split"}  # into gates, in front of an LSTM, which is computed in float32


def rewrite(proto: ModelProto, named: Sequence[str], uint8_input: Uint8Input | None, for_openvino: bool) -> None:
    """All passes in their order, in place; see `export_onnx`."""
    graph = proto.graph
    _name_after_modules(graph, named)
    _drop_annotations(proto)
    _restore_global_pooling(graph)
    types = {node.op_type for node in graph.node}
    if Q in types:
        _fold_padding(graph)
        _drop_needless_clips(graph)
        _drop_repeated_quantization(graph)
        transpose_stored_weights(graph)
        look_up_integers(graph)
        sum_integer_rows(graph)
        dequantize_when_loaded(graph, RECURRENT_WEIGHTS)
        _store_activations_unsigned(graph)
        if for_openvino:
            _drop_zero_points_of_weights(graph)
        else:
            move_integers(graph)
            keep_float_layers(graph, float_constants(graph))
        if is_wide(graph):
            dequantize_when_loaded(graph, WIDE_PRODUCTS)
            raise_opset(proto)
        else:
            _store_last_bias_as_integers(graph)
        if not for_openvino:
            pack_narrow_weights(proto)
    elif DQ in types:
        transpose_stored_weights(graph)
        look_up_integers(graph)
        sum_integer_rows(graph)
        drop_dead_ends(graph)
        if for_openvino:
            _drop_zero_points_of_weights(graph)
        else:
            multiply_groups(proto)
            multiply_dynamically_quantized(graph)
            dequantize_when_loaded(graph, None)
            pack_narrow_weights(proto)
    if uint8_input is not None:
        take_uint8(graph, uint8_input, as_integers=not for_openvino)  # a FakeQuantize of OpenVINO reads floats
    drop_dead_ends(graph)
    _drop_default_attributes(graph)
    _shorten_names(graph)


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


def _replace_input(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
    for output in graph.output:
        assert output.name != old


def _restore_global_pooling(graph: GraphProto) -> None:
    """A mean over height and width is a GlobalAveragePool, which runtimes have integer kernels for."""
    constants = initializers(graph)
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2:
            continue
        axes = value_of(constants, node.input[1])
        keep = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        if axes is not None and keep and sorted(axes.tolist()) in ([2, 3], [-2, -1]):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def _drop_needless_clips(graph: GraphProto) -> None:
    """Removes a Relu or Clip whose result is quantized to a range with the same limits: quantizing clips."""
    constants, given = initializers(graph), {output.name for output in graph.output}
    consumers = consumers_of(graph)
    for node in list(graph.node):
        if node.op_type not in ("Relu", "Clip") or node.output[0] in given:
            continue
        behind = consumers.get(node.output[0], [])
        if behind and all(user.op_type == Q and _saturates(node, user, constants) for user in behind):
            _replace_input(graph, node.output[0], node.input[0])
            graph.node.remove(node)


def _saturates(clip: NodeProto, quantize: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether the clip's limits are the values of the smallest and the largest integer, or beyond them."""
    scale, zero_point = value_of(constants, quantize.input[1]), value_of(constants, quantize.input[2])
    if scale is None or zero_point is None or scale.size != 1:
        return False
    low: float | None = 0.0
    high: float | None = None
    if clip.op_type == "Clip":
        limits = [value_of(constants, name) if name else None for name in clip.input[1:]] + [None, None]
        low, high = (None if limit is None else float(limit) for limit in limits[:2])
    integers = np.iinfo(zero_point.dtype)

    def integer_of(value: float) -> float:
        return float(np.rint(value / float(scale)) + int(zero_point))

    return (low is None or integer_of(low) <= integers.min) and (high is None or integer_of(high) >= integers.max)


def _drop_repeated_quantization(graph: GraphProto) -> None:
    """Removes Q -> DQ behind DQ -> Reshape-like when the values are quantized by the same parameters already."""
    producers = {name: node for node in graph.node for name in node.output}
    consumers = consumers_of(graph)
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
    constants, consumers = initializers(graph), consumers_of(graph)
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        amounts, chain = value_of(constants, pad.input[1]), [pad]
        for kind in (Q, DQ, "Conv"):
            users = consumers.get(chain[-1].output[0], [])
            if len(users) == 1 and users[0].op_type == kind:
                chain.append(users[0])
        mode = next((helper.get_attribute_value(entry) for entry in pad.attribute if entry.name == "mode"), b"constant")
        value = value_of(constants, pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
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
        behind_pair = any(node.op_type == DQ and node.output[0] == pad.input[0] for node in graph.node)
        (convolution if behind_pair else chain[1]).input[0] = pad.input[0]  # the graph's input is quantized here


def _store_activations_unsigned(graph: GraphProto) -> None:
    """int8 activations become uint8: zero point + 128, the same values. Weights, which are initializers, stay int8."""
    constants = initializers(graph)
    moved: dict[str, str] = {}
    stored = set(constants)  # weights, and what is made of them alone
    for node in list(graph.node):
        if all(name in stored for name in node.input):
            stored.update(node.output)
        if node.op_type not in (Q, DQ) or node.input[0] in stored:
            continue
        zero_point = value_of(constants, node.input[2])
        if zero_point is None or zero_point.dtype != np.int8:
            continue
        name = moved.setdefault(node.input[2], f"{node.input[2]}_u8")
        if name not in constants:
            shifted = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            graph.initializer.append(numpy_helper.from_array(shifted, name))
            constants[name] = graph.initializer[-1]
        node.input[2] = name


def _drop_zero_points_of_weights(graph: GraphProto) -> None:
    """Weights are quantized symmetrically: without a zero point it is 0."""
    constants = initializers(graph)
    for node in graph.node:
        if node.op_type == DQ and node.input[0] in constants and len(node.input) > 2:
            zero_point = value_of(constants, node.input[2])
            if zero_point is not None and not zero_point.any():
                del node.input[2]


def _store_last_bias_as_integers(graph: GraphProto) -> None:
    """The bias of a Gemm whose result stays float32 is quantized as the accumulator is: int32 of scale s_x * s_w.

    ONNX Runtime does so itself for layers whose result is quantized; only with it does this one run in integers.
    """
    constants = initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    consumers = consumers_of(graph)
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        pair = [producers.get(name) for name in node.input[:2]]
        if any(user.op_type == Q for user in consumers.get(node.output[0], [])) or not all(
            source is not None and source.op_type == DQ for source in pair
        ):
            continue
        scales = [value_of(constants, source.input[1]) for source in pair]  # type: ignore[union-attr]
        bias = value_of(constants, node.input[2])
        if bias is None or any(scale is None for scale in scales):
            continue
        scale = (scales[0] * scales[1]).astype(np.float32)  # type: ignore[operator]
        name = node.input[2]
        integers = np.clip(np.rint(bias / scale), -(2**31), 2**31 - 1).astype(np.int32)
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}_i32"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        pair_node = helper.make_node(
            DQ, [f"{name}_i32", f"{name}_scale"], [f"{name}_dequantized"], axis=0 if scale.size > 1 else None
        )
        node.input[2] = f"{name}_dequantized"
        graph.node.insert(position, pair_node)


def is_wide(graph: GraphProto) -> bool:
    """Whether activations have 16 bits, for which there are no integer kernels."""
    constants = initializers(graph)
    zero_points = (constants.get(node.input[2]) for node in graph.node if node.op_type == Q)
    return any(one is not None and one.data_type == TensorProto.INT16 for one in zero_points)


def _drop_default_attributes(graph: GraphProto) -> None:
    """Removes attributes that say what ONNX takes for granted, and the axis of pairs that have one scale."""
    constants = initializers(graph)
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
    short = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    taken, constants = set(short), {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name not in short:
                fresh = f"{'c' if name in constants else 'v'}{len(short)}"
                short[name] = f"{fresh}_" if fresh in taken else fresh
    for number, node in enumerate(graph.node):
        module = f"{node.name}/" if node.name else ""
        node.name = "" if node.op_type in FREE else f"{module}{node.op_type.lower()}_{number}"
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
