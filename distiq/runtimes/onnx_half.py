"""Constants of an ONNX file in float16, cast to float32 when the file is loaded: half the size, the same kernels."""

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.numerics import HALVED_FROM, is_halved
from distiq.runtimes.onnx_branches import every_graph


def store_halves(model: ModelProto) -> None:
    """Stores, in place, large constants in float16 if that represents all of their values exactly: none changes."""
    _store(model, lambda values: bool((values.astype(np.float16).astype(np.float32) == values).all()))


def round_to_halves(model: ModelProto) -> None:
    """Rounds the large constants to float16, in place, that are no vectors and within its range."""
    largest = np.finfo(np.float16).max
    _store(model, lambda values: is_halved(values.shape) and bool(np.abs(values).max() <= largest))


def _store(model: ModelProto, fits: Callable[[np.ndarray], bool]) -> None:
    for graph in every_graph(model.graph):
        casts = [_halved(tensor) for tensor in graph.initializer if _is_large(tensor) and _fits(tensor, fits)]
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def _is_large(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= HALVED_FROM


def _fits(tensor: TensorProto, fits: Callable[[np.ndarray], bool]) -> bool:
    with np.errstate(over="ignore"):
        return fits(numpy_helper.to_array(tensor))


def _halved(tensor: TensorProto) -> NodeProto:
    """Stores a constant in float16; returns the cast that gives its float32 values."""
    value, name = numpy_helper.to_array(tensor).astype(np.float16), tensor.name
    tensor.CopyFrom(numpy_helper.from_array(value, f"{name}/float16"))
    return helper.make_node("Cast", [tensor.name], [name], f"{name}/cast", to=TensorProto.FLOAT)
