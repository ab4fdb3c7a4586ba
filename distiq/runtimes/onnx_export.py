"""A network as an ONNX model, by torch.onnx."""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from onnx import ModelProto, TensorProto, helper
from onnxscript import ir, opset20
from onnxscript.optimizer import optimize_ir
from torch import nn

from distiq.errors import UserError, first_line
from distiq.models.layout import dynamic_shapes, for_longer, free_dimensions, plain_copy
from distiq.models.recurrent import bilstm
from distiq.models.signature import Positional, Tensors, each, positional
from distiq.models.trace import FROZEN, copied, why_untraced
from distiq.numerics import dynamic_fake_quantize
from distiq.runtimes.onnx_session import quiet

LARGEST_WRITTEN = 64  # values of a constant that is written out although a formula of fewer numbers would give it


def to_onnx(model: nn.Module, example: Tensors) -> ModelProto:
    is_graph = isinstance(model, torch.fx.GraphModule)
    network = positional(model, each(plain_copy, example)) if is_graph else copied(model, example)
    free = free_dimensions(network)
    try:
        return _exported(network, free)
    except Exception as error:  # torch.onnx raises many kinds
        cause = error.__cause__ or error
        if FROZEN not in str(cause):
            raise UserError(f"the network cannot be exported to ONNX: {first_line(cause)}") from error
        if (longer := for_longer(free)) == free:
            raise UserError(why_untraced(cause, network, dynamic_shapes(network, free))) from error
    try:
        return _exported(network, longer)
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError(why_untraced(cause, network, dynamic_shapes(network, longer))) from error


def _exported(network: Positional, free: Sequence[dict[int, Any]]) -> ModelProto:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.module,
            network.inputs,
            input_names=network.input_names,
            output_names=network.output_names,
            dynamo=True,
            dynamic_shapes=dynamic_shapes(network, free),
            verbose=False,
            optimize=False,
            custom_translation_table={
                dynamic_fake_quantize._opoverload: _dynamic_fake_quantize,
                bilstm._opoverload: _bilstm,
                torch.ops.aten.avg_pool1d.default: partial(_average, 1),
                torch.ops.aten.avg_pool2d.default: partial(_average, 2),
            },
        )
        assert program is not None
        optimize_ir(program.model, should_fold=_folds)
        return _with_names(program.model_proto, network.output_names)


def _dynamic_fake_quantize(x: Any) -> Any:
    """`distiq.numerics.dynamic_fake_quantize` in ONNX."""
    integers, scale, zero_point = opset20.DynamicQuantizeLinear(x)
    return opset20.DequantizeLinear(integers, scale, zero_point)


def _bilstm(vectors: Any, lengths: Any, weights: Sequence[Any]) -> Any:
    """`distiq.models.recurrent.bilstm` in ONNX, whose gates stand in another order and whose batch comes second."""
    op: Any = opset20  # its types know no lists of numbers
    ordered = []
    for weight in weights:
        gate, forget, cell, out = op.Split(weight, num_outputs=4)
        ordered.append(op.Concat(gate, out, forget, cell, axis=0))
    inputs, states, own, other = (
        op.Concat(*(op.Unsqueeze(ordered[place], [0]) for place in (first, first + 4)), axis=0) for first in range(4)
    )
    hidden_states, _, _ = op.LSTM(
        op.Transpose(vectors, perm=[1, 0, 2]),
        inputs,
        states,
        op.Concat(own, other, axis=1),
        op.Cast(lengths, to=TensorProto.INT32),
        direction="bidirectional",
        hidden_size=weights[1].shape[1],
    )
    return op.Reshape(op.Transpose(hidden_states, perm=[2, 0, 1, 3]), [0, 0, -1])  # (L, 2, B, H) before


def _average(
    axes: int,
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average pooling in ONNX as runtimes compute it rightly; torch.onnx leaves `divisor_override` out.

    ONNX Runtime's integer kernels divide a window that extends past the edge by its full size; so the padding's zeros
    become part of the map, and positions beyond them are not counted.
    """
    kernel, pads = (list(each) * (axes // len(each)) for each in (kernel_size, padding))
    strides = list(stride) * (axes // len(stride)) if stride else kernel
    op: Any = opset20
    if ceil_mode and any(pads) and count_include_pad:
        sizes = zip(x.shape[-axes:], kernel, strides, pads, strict=True)
        if any((math.ceil((size + 2 * pad - window) / step)) * step >= size + pad for size, window, step, pad in sizes):
            raise ValueError("an average over padding alone; leave ceil_mode out, or take a smaller padding")
        x = op.Pad(x, op.Constant(value_ints=[0, 0, *pads, 0, 0, *pads]))
        pads = [0] * axes
    if ceil_mode and divisor_override:
        raise ValueError("ceil_mode and divisor_override together; leave one of the two out")
    whole = int(any(pads) and (count_include_pad or divisor_override is not None))
    means = op.AveragePool(
        x, kernel_shape=kernel, strides=strides, pads=[*pads, *pads], ceil_mode=int(ceil_mode), count_include_pad=whole
    )
    if divisor_override is None:
        return means
    return op.Mul(means, op.Constant(value_float=math.prod(kernel) / divisor_override))


def _with_names(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """Gives every output its name: the exporter keeps only one name for a value that is returned twice."""
    graph = proto.graph
    if [output.name for output in graph.output] == list(names):
        return proto
    given = {one.name for one in graph.input}
    values = {one.name: one.name if one.name in given else f"{one.name}_value" for one in graph.output}
    for node in graph.node:
        node.input[:] = [values.get(name, name) for name in node.input]
        node.output[:] = [values.get(name, name) for name in node.output]
    for output, name in zip(graph.output, names, strict=True):
        if output.name != name or name not in given:
            graph.node.append(helper.make_node("Identity", [values[output.name]], [name]))
        output.name = name
    return proto


def _folds(node: ir.Node) -> bool | None:
    """Leaves weights that are a formula of a few numbers to the runtime, which computes them when it loads the file.

    Written out, the Fourier basis of an audio front-end would be many times as large as the network behind it.
    """
    shapes = [value.shape for value in (*node.outputs[:1], *node.inputs) if value is not None]
    if any(shape is None for shape in shapes) or node.op_type == "Expand":  # a bias of zeros, which goes altogether
        return None
    written, *read = (math.prod(shape.numpy()) for shape in shapes if shape is not None)
    return False if written > max(LARGEST_WRITTEN, sum(read)) else None
