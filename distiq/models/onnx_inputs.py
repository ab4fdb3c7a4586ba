"""ONNX files of texts that take a mask beside token numbers, as transformers' exporters write them, with one input."""

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from distiq.files import write_atomically

TOKENS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"


def one_input(path: Path, folder: Path, pad: int) -> Path:
    """The file itself, or a copy in `folder` that takes token numbers alone and works out its mask from them.

    A copy is made where the inputs are `input_ids` and `attention_mask`, with or without `token_type_ids`: a token is
    masked where it is the padding, and segments are all 0. Any other file is left for its reader to judge.

    Args:
        pad: the padding token's number.
    """
    if path.suffix != ".onnx":
        return path
    try:
        proto = onnx.load(str(path))
    except Exception:  # the reader says what is wrong with it
        return path
    held = {tensor.name for tensor in proto.graph.initializer}
    names = {entry.name for entry in proto.graph.input} - held
    if not {TOKENS, MASK} <= names <= {TOKENS, MASK, SEGMENTS}:
        return path
    _take_tokens_alone(proto, pad)
    target = folder / path.name
    write_atomically(target, proto.SerializeToString())
    return target


def _take_tokens_alone(proto: ModelProto, pad: int) -> None:
    graph = proto.graph
    types = {entry.name: entry.type.tensor_type.elem_type for entry in graph.input}
    constants = {"padding": pad, "masked": 0, "read": 1}
    kind = helper.tensor_dtype_to_np_dtype(types[TOKENS])
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, kind), f"{MASK}/{name}"))
    nodes = [
        helper.make_node("Equal", [TOKENS, f"{MASK}/padding"], [f"{MASK}/is_padding"]),
        helper.make_node("Where", [f"{MASK}/is_padding", f"{MASK}/masked", f"{MASK}/read"], [f"{MASK}/integers"]),
        helper.make_node("Cast", [f"{MASK}/integers"], [MASK], to=types[MASK]),
    ]
    if SEGMENTS in types:
        nodes += [
            helper.make_node("Sub", [TOKENS, TOKENS], [f"{SEGMENTS}/zeros"]),
            helper.make_node("Cast", [f"{SEGMENTS}/zeros"], [SEGMENTS], to=types[SEGMENTS]),
        ]
    others = [entry for entry in graph.input if entry.name not in (MASK, SEGMENTS)]
    del graph.input[:]
    graph.input.extend(others)
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
