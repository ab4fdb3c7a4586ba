"""A file that takes uint8 pixels and normalizes them itself, so that no device can do it otherwise.

Where the input's quantization has one step for each pixel value, as for full-range images of one channel, the pixel is
its integer: the file reads it as it is, and nothing is computed. Elsewhere the file begins with the normalization in
float32, the same three operations in the same order as before.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

LEVELS = np.arange(256)
MODULE = "pixels"
"""What the names of the normalization's operations begin with."""


class Uint8Input(NamedTuple):
    """What images of uint8 become before the network: (pixel / 255 - mean) / std, for each channel."""

    mean: Sequence[float]
    std: Sequence[float]

    def normalized(self) -> np.ndarray:
        """Every pixel value, as each channel's input: (C, 256) float32."""
        mean, std = (np.array(values, np.float32).reshape(-1, 1) for values in self)
        return (LEVELS.astype(np.float32) / np.float32(255) - mean) / std

    def are_integers_of(self, scale: np.ndarray, zero_point: np.ndarray) -> bool:
        """Whether every pixel value, once normalized, is quantized to the integer 0..255 of the same value."""
        integers = np.rint(self.normalized() / scale) + zero_point
        return bool((np.clip(integers, 0, 255) == LEVELS).all())


def take_uint8(graph: GraphProto, uint8_input: Uint8Input, as_integers: bool = True) -> None:
    """Makes uint8 pixels the graph's input, in place of normalized float32.

    Args:
        as_integers: read pixels as the input's quantized integers where they are.
    """
    entry = graph.input[0]
    entry.type.tensor_type.elem_type = TensorProto.UINT8
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = [node for node in graph.node if entry.name in node.input]
    if as_integers and all(_is_identity(node, constants, uint8_input) for node in readers):
        for quantize in readers:
            _read_instead(graph, quantize.output[0], entry.name)
            graph.node.remove(quantize)
        return
    _read_instead(graph, entry.name, f"{MODULE}_normalized")
    shape = (1, -1, 1, 1)
    for name, values in (("scale", [255.0]), *zip(("mean", "std"), uint8_input, strict=True)):
        tensor = np.array(values, np.float32).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(tensor, f"{MODULE}_{name}"))
    steps = [
        helper.make_node("Cast", [entry.name], [f"{MODULE}_floats"], name=MODULE, to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{MODULE}_floats", f"{MODULE}_scale"], [f"{MODULE}_shares"], name=MODULE),
        helper.make_node("Sub", [f"{MODULE}_shares", f"{MODULE}_mean"], [f"{MODULE}_centred"], name=MODULE),
        helper.make_node("Div", [f"{MODULE}_centred", f"{MODULE}_std"], [f"{MODULE}_normalized"], name=MODULE),
    ]
    for position, node in enumerate(steps):
        graph.node.insert(position, node)


def _is_identity(node: NodeProto, constants: dict[str, np.ndarray], uint8_input: Uint8Input) -> bool:
    """Whether a node quantizes pixels, once normalized, to themselves."""
    if node.op_type != "QuantizeLinear":
        return False
    scale, zero_point = (constants[name] for name in node.input[1:3])
    return zero_point.dtype == np.uint8 and uint8_input.are_integers_of(scale, zero_point)


def _read_instead(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
