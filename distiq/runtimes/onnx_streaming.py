"""A keyword spotter in chunks: an exported ONNX file becomes one with chunk and state in, logits and state out.

It is for networks of a front-end, one convolution over frames and a recurrent unit (`audio_gru`), float or int8, and
computes with the file's own weights and scales. Its states are the samples that the next frame begins with, the frames
that the next convolution reads (its left context), the recurrent unit's state, and how many chunks it has heard.

A network with global pooling has no such form: its output is the mean over a window, whose oldest frames would have to
be subtracted again, and its convolutions pad every window with zeros anew. A running mean as state would cover all
audio since the start. `distiq.bundle.stream` gives the windows' exact logits, with every frame computed once.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.models.signature import INPUT, OUTPUT
from distiq.runtimes.onnx_graph import DQ, initializers
from distiq.runtimes.onnx_session import open_session

CHUNK, STATES = "chunk", ("samples", "frames", "hidden", "heard")
FORM = "distiq_streaming"


class Form(NamedTuple):
    """Sizes of a streaming file.

    Attributes:
        chunk: samples of a chunk: as many hops as the convolution's stride, which make one step of the recurrent unit.
        samples, frames: how many of either are kept from chunk to chunk.
        rows: features of a frame. hidden: width of the recurrent unit.
        bogus: frames before the first sample, which count as padding. silent: chunks that make no step yet.
    """

    chunk: int
    samples: int
    frames: int
    rows: int
    hidden: int
    bogus: int
    silent: int


class Step(NamedTuple):
    """What a chunk gives: logits (B, classes) and the states that the next chunk is given."""

    logits: Tensor
    states: dict[str, Tensor]


class StreamingModel:
    """A streaming file, opened. After every chunk it gives logits for all sound since `start`.

    The logits are those of the whole clip's network at its latest recurrent step that hears no padding behind it;
    `form.silent` chunks come before the first.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.session = open_session(path, threads)
        about = self.session.get_modelmeta().custom_metadata_map
        if FORM not in about:
            raise UserError(f"{path}: this file does not take chunks; make one with export_streaming")
        self.form = Form(**json.loads(about[FORM]))

    def start(self, batch: int = 1) -> dict[str, Tensor]:
        """The states before anything was heard."""
        form = self.form
        shapes = ((batch, form.samples), (batch, form.rows, form.frames), (batch, form.hidden))
        states = dict(zip(STATES, map(torch.zeros, shapes), strict=False))
        return states | {"heard": torch.zeros(batch, 1, dtype=torch.int64)}

    def hear(self, chunk: Tensor, states: dict[str, Tensor]) -> Step:
        """One chunk (B, `form.chunk`) of float32 in -1..1."""
        if chunk.shape[1:] != (self.form.chunk,):
            raise UserError(f"a chunk of {tuple(chunk.shape)}; this file takes (B, {self.form.chunk}) samples")
        feed = {name: value.contiguous().numpy() for name, value in {CHUNK: chunk, **states}.items()}
        logits, *after = map(torch.from_numpy, self.session.run(None, feed))
        return Step(logits, dict(zip(STATES, after, strict=True)))


def export_streaming(file: Path, path: Path) -> Path:
    """Writes the streaming form of an exported .onnx file, float or int8; returns its path.

    Raises:
        UserError: the file is no front-end in float32, one convolution over its frames and one recurrent unit.
    """
    proto = onnx.load(str(file))
    graph = proto.graph
    framing, convolution, recurrent = _parts(graph, file)
    constants = initializers(graph)
    module = framing.name.rpartition("/")[0]
    features = [node for node in graph.node if node.name.startswith(f"{module}/")][-1].output[0]
    form = _form(graph, framing, convolution, recurrent, file)
    nodes = list(graph.node)
    cut, turn = next(n for n, node in enumerate(nodes) if features in node.output) + 1, nodes.index(recurrent) + 1
    last = next(node for node in nodes[turn:] if node.op_type == "Gather").output[0]
    for node in graph.node:
        for number, name in enumerate(node.input):
            if name == features and not node.name.startswith(f"{module}/"):
                node.input[number] = "heard_frames"
            elif name == last:
                node.input[number] = "hidden_after"
    for entry in list(convolution.attribute):
        if entry.name == "pads":
            convolution.attribute.remove(entry)
    recurrent.input[5] = "hidden_before"
    recurrent.output[:] = ["", "hidden_fresh"]
    before, middle, behind = _masks(form, features)
    nodes = [*before, *nodes[:cut], *middle, *nodes[cut:turn], *behind, *nodes[turn:]]
    outputs = [OUTPUT, *(f"{name}_after" for name in STATES)]
    del graph.node[:]
    graph.node.extend(_wanted(nodes, set(outputs)))
    read = {name for node in graph.node for name in node.input}
    made = {**constants, **{tensor.name: tensor for tensor in _constants(form)}}
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in made.items() if name in read)
    _declare(graph, form, outputs)
    proto.metadata_props.add(key=FORM, value=json.dumps(form._asdict()))
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString())
    return path


def _parts(graph: GraphProto, file: Path) -> tuple[NodeProto, NodeProto, NodeProto]:
    """The convolution that makes the frames, the one that reads them, and the recurrent unit."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    recurrent = [node for node in graph.node if node.op_type == "GRU"]
    if len(convolutions) != 2 or len(recurrent) != 1 or "/" not in convolutions[0].name:
        raise UserError(
            f"{file}: only a network of a front-end in float32, one convolution over its frames and one recurrent unit"
            " (audio_gru) takes chunks with a state; others predict windows: distiq predict BUNDLE - --stream"
        )
    return convolutions[0], convolutions[1], recurrent[0]


def _sizes(convolution: NodeProto) -> tuple[int, int, int]:
    """Kernel, stride and padding in front."""
    attributes = {entry.name: list(entry.ints) for entry in convolution.attribute}
    return attributes["kernel_shape"][0], attributes.get("strides", [1])[0], attributes.get("pads", [0])[0]


def _form(graph: GraphProto, framing: NodeProto, convolution: NodeProto, recurrent: NodeProto, file: Path) -> Form:
    (window, hop, _), (kernel, stride, padding) = _sizes(framing), _sizes(convolution)
    constants, stored = (
        initializers(graph),
        {node.output[0]: node.input[0] for node in graph.node if node.op_type == DQ},
    )
    weight = constants[stored.get(convolution.input[1], convolution.input[1])]
    bogus = -(-window // hop) - 1  # frames that begin before the first sample
    if bogus < 1 or kernel < stride:
        raise UserError(f"{file}: its windows do not overlap, so there is no state to keep; export it as it is")
    # The convolution's windows have to begin where those over the whole clip do: at multiples of its stride.
    late = (padding - bogus - (kernel - stride)) % stride
    frames = kernel - stride + late
    hidden = constants[recurrent.input[2]].dims[2]
    silent = (bogus + frames - padding) // stride
    return Form(stride * hop, bogus * hop, frames, weight.dims[1], hidden, bogus, silent)


def _masks(form: Form, features: str) -> tuple[list[NodeProto], list[NodeProto], list[NodeProto]]:
    """What stands before the front-end, between it and the convolution, and behind the recurrent unit."""
    make = helper.make_node
    before = [
        make("Concat", ["samples", CHUNK], [INPUT], axis=1),
        make("Slice", [INPUT, "minus_samples", "end", "one"], ["samples_after"]),
        make("Unsqueeze", ["hidden", "zero"], ["hidden_before"]),
        make("Add", ["heard", "one"], ["heard_more"]),
        make("Min", ["heard_more", "enough"], ["heard_after"]),
    ]
    middle = [
        make("Mul", ["heard", "stride"], ["frames_before"]),
        make("Add", ["frames_before", "offsets"], ["numbers"]),
        make("GreaterOrEqual", ["numbers", "bogus"], ["is_heard"]),
        make("Unsqueeze", ["is_heard", "one"], ["is_heard_frame"]),
        make("Where", ["is_heard_frame", features, "padding"], ["fresh_frames"]),
        make("Concat", ["frames", "fresh_frames"], ["heard_frames"], axis=2),
        make("Slice", ["heard_frames", "minus_frames", "end", "two"], ["frames_after"]),
    ]
    behind = [
        make("Squeeze", ["hidden_fresh", "zero"], ["hidden_stepped"]),
        make("GreaterOrEqual", ["heard", "silent"], ["is_step"]),
        make("Where", ["is_step", "hidden_stepped", "hidden"], ["hidden_after"]),
    ]
    return before, middle, behind


def _constants(form: Form) -> list[TensorProto]:
    hops = form.chunk * form.bogus // form.samples  # of a chunk
    enough = max(form.silent, -(-form.bogus // hops))  # from here on every frame is heard and every chunk is a step
    integers = {
        "minus_samples": [-form.samples], "minus_frames": [-form.frames], "end": [np.iinfo(np.int64).max],
        "zero": [0], "one": [1], "two": [2], "stride": [hops], "offsets": list(range(hops)), "bogus": [form.bogus],
        "silent": [form.silent], "enough": [enough],
    }  # fmt: skip
    padding = numpy_helper.from_array(np.zeros(1, np.float32), "padding")
    return [padding, *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in integers.items())]


def _wanted(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes that compute the outputs, in their order."""
    kept = []
    for node in reversed(nodes):
        if outputs.intersection(filter(None, node.output)):
            kept.append(node)
            outputs |= set(node.input)
    return kept[::-1]


def _declare(graph: GraphProto, form: Form, outputs: list[str]) -> None:
    """Inputs and outputs with their types and shapes."""
    kinds: dict[str, tuple[Any, list]] = {
        CHUNK: (TensorProto.FLOAT, ["batch", form.chunk]),
        "samples": (TensorProto.FLOAT, ["batch", form.samples]),
        "frames": (TensorProto.FLOAT, ["batch", form.rows, form.frames]),
        "hidden": (TensorProto.FLOAT, ["batch", form.hidden]),
        "heard": (TensorProto.INT64, ["batch", 1]),
    }
    logits = graph.output[0]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(helper.make_tensor_value_info(name, *about) for name, about in kinds.items())
    graph.output.append(logits)
    graph.output.extend(
        helper.make_tensor_value_info(name, *kinds[name.removesuffix("_after")]) for name in outputs[1:]
    )
