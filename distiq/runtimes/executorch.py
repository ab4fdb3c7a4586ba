"""ExecuTorch: everything that touches it. XNNPACK runs the .pte files.

The reference graph is lowered as it is, but for layers whose result stays float32 (the last one): see
`lowering.with_float_outputs`.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError, first_line
from distiq.files import write_atomically
from distiq.models.signature import (
    INPUT,
    OUTPUT,
    Positional,
    Predict,
    Signature,
    Tensors,
    TensorSpec,
    by_name,
    concatenated,
    in_order,
    positional,
)
from distiq.models.slices import cut_by_slices
from distiq.models.trace import trace
from distiq.runtimes.lowering import (
    RANGE_COLUMNS,
    float_copy,
    is_quantized,
    with_float_outputs,
    with_float_rows_as_maps,
    with_float_weights,
    with_hard_tanh,
)
from distiq.runtimes.runtime import FileOptions, QuantizationParameters, Runtime, Weight
from distiq.runtimes.silence import silence

aten = torch.ops.aten
LARGEST_BATCH = 32
"""Memory for the values between operators is planned for so many samples; a larger batch is split."""
CHAR = 1  # of ExecuTorch's ScalarType: int8
TYPES = {1: torch.int8, 3: torch.int32, 4: torch.int64, 6: torch.float32, 11: torch.bool}  # of its ScalarType
NAMES_METHOD = "distiq_names"
"""A method of the program without inputs: the names of inputs and outputs, as bytes of JSON."""
CONVOLUTION_AXES = 4
JSON_STEP = 1e-6  # what flatc leaves of a scale
FREE = {"XNNConvert", "XNNStaticReshape", "XNNStaticTranspose"}
"""What computes nothing within XNNPACK: conversions, and views of a tensor. All else computes."""
FREE_OUTSIDE = ("executorch_prim", "quantized_decomposed::", "dim_order_ops::", "aten::sym_size", "aten::view_copy",
                "aten::permute_copy", "aten::transpose_copy", "aten::squeeze_copy", "aten::unsqueeze_copy",
                "aten::expand_copy", "aten::alias_copy", "aten::detach_copy", "aten::clone", "aten::full")  # fmt: skip
"""The same of what runs outside, by the beginnings of names."""
FLOATS = {5, 6, 7, 15}  # of ExecuTorch's ScalarType: float16, float32, float64, bfloat16


def export_executorch(model: nn.Module, example: Tensors, path: Path, _options: FileOptions) -> None:
    """Writes a .pte file for batches of one to `LARGEST_BATCH`. example: inputs (B, ...).

    Raises:
        UserError: an operation has no form in ExecuTorch, or the program does not run.
    """
    try:
        with silence(), torch.no_grad():
            content = _converted(model, example)
    except Exception as error:  # the lowering raises many kinds
        raise UserError(f"{path}: ExecuTorch cannot convert this network: {first_line(error)}") from error
    try:
        _Loaded(path, content, 1)(example)
    except (UserError, RuntimeError) as error:  # it lowers what it has no kernel for, such as 3-D convolutions
        names = ", ".join(dict.fromkeys(_outside(_read(content)[0]))) or "none"
        said = first_line(error)
        said = said if isinstance(error, UserError) else f"{path}: ExecuTorch cannot run this file: {said}"
        raise UserError(f"{said}; operations outside XNNPACK: {names}; take another runtime") from error
    write_atomically(path, content)


def _converted(model: nn.Module, example: Tensors) -> bytes:
    """A program; layers with integer weights for which XNNPACK has no kernel hold them dequantized, in float32.

    These are transposed convolutions with several groups or with one dimension.
    """
    if not is_quantized(model):
        return bytes(_lowered(positional(float_copy(model), example)).to_executorch().buffer)
    assert isinstance(model, fx.GraphModule)
    fusing, in_float = with_hard_tanh(model), set[str]()
    while True:
        graph = with_float_outputs(with_float_weights(fusing, partial(_reads, names=in_float)), choosing=True)
        lowered = _lowered(positional(with_float_rows_as_maps(graph), example))
        left = _integer_weights(lowered.exported_program()) - in_float
        if not left:
            return bytes(lowered.to_executorch().buffer)
        in_float |= left


def _reads(layer: fx.Node, names: Collection[str]) -> bool:
    """Whether a layer's integer weights are stored under one of these names."""
    weight: Any = layer.args[1] if layer.op == "call_function" and len(layer.args) > 1 else None
    stored: Any = weight.args[0] if isinstance(weight, fx.Node) and weight.args else None
    return isinstance(stored, fx.Node) and str(stored.target) in names


def _integer_weights(program: Any) -> set[str]:
    """The names of the weights that a lowered program dequantizes outside of XNNPACK, for which it has no operation."""
    stored = {**program.graph_signature.inputs_to_buffers, **program.graph_signature.inputs_to_parameters}
    nodes = [node for node in program.graph.nodes if "dequantize_per_channel" in str(node.target)]
    return {stored[node.args[0].name].rpartition(".")[2] for node in nodes if node.args and node.args[0].name in stored}


class _Pool:
    """XNNPACK's pool of threads, one for the process. A method is bound to the pool that it was loaded with."""

    number = 0

    @classmethod
    def resize(cls, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib

        if portable_lib._threadpool_get_thread_count() != threads:
            with silence():
                portable_lib._unsafe_reset_threadpool(threads)
            cls.number += 1


class _Loaded:
    """A program's method; it is loaded again when the pool of threads is another."""

    def __init__(self, path: Path, content: bytes, threads: int) -> None:
        self.path, self.content, self.threads = path, content, threads
        self.load()

    def load(self) -> None:
        from executorch.runtime import Runtime

        _Pool.resize(self.threads)
        with silence():
            self.program = Runtime.get().load_program(self.content)
            self.method: Any = self.program.load_method("forward")
        self.signature = _signature(self.program, self.method)
        self.largest = self.method.metadata.input_tensor_meta(0).sizes()[0]
        self.pool = _Pool.number

    def __call__(self, inputs: Tensors) -> Tensors:
        _Pool.resize(self.threads)
        if self.pool != _Pool.number:
            self.load()
        tensors = in_order(inputs, [one.name for one in self.signature.inputs], str(self.path))
        parts = zip(*(one.contiguous().split(self.largest) for one in tensors), strict=True)
        results = [self.run(part) for part in parts]
        return results[0] if len(results) == 1 else concatenated(results)

    def run(self, inputs: Sequence[Tensor]) -> Tensors:
        try:
            # The next call writes over a result.
            results = [one.clone() for one in self.method.execute(list(inputs))]
        except RuntimeError as error:
            shapes, first = ", ".join(str(tuple(one.shape)) for one in inputs), first_line(error)
            raise UserError(f"{self.path}: ExecuTorch cannot run this file on an input of {shapes}: {first}") from error
        return by_name(results, [one.name for one in self.signature.outputs])


def load_executorch(path: Path, threads: int = 1, _options: Mapping[str, str] = MappingProxyType({})) -> Predict:
    """A `predict` that runs the file.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with silence():
        import executorch.runtime  # noqa: F401  it prints about the CPU
    try:
        return _Loaded(path, path.read_bytes(), threads)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: ExecuTorch cannot load this file: {first_line(error)}") from error


def signature(path: Path) -> Signature:
    """What the file takes and gives; the batch may be smaller than the one that is planned for."""
    loaded = load_executorch(path)
    assert isinstance(loaded, _Loaded)
    return loaded.signature


def _signature(program: Any, method: Any) -> Signature:
    """The format has no tensor names: names other than the default ones are stored in a separate constant."""
    about = method.metadata
    inputs = [about.input_tensor_meta(number) for number in range(about.num_inputs())]
    outputs = [about.output_tensor_meta(number) for number in range(about.num_outputs())]
    names: tuple[Sequence[str], Sequence[str]] = _usual_names("input", inputs), _usual_names("output", outputs)
    if NAMES_METHOD in program.method_names:
        names = json.loads(bytes(program.load_method(NAMES_METHOD).execute([])[0].tolist()))
    return Signature(*(_specs(*pair) for pair in zip(names, (inputs, outputs), strict=True)))


def _usual_names(what: str, metas: Sequence[Any]) -> list[str]:
    return [{"input": INPUT, "output": OUTPUT}[what]] if len(metas) == 1 else [f"{what}_{n}" for n in range(len(metas))]


def _specs(names: Sequence[str], metas: Sequence[Any]) -> tuple[TensorSpec, ...]:
    pairs = zip(names, metas, strict=True)
    return tuple(
        TensorSpec(name, (-1, *meta.sizes()[1:]), TYPES.get(meta.dtype(), torch.float32)) for name, meta in pairs
    )


def operations(path: Path) -> dict[str, dict[str, int]]:
    """How many operations of each kind produce each type; outside of XNNPACK, only those that compute floats."""
    program, parts, _ = _read(path.read_bytes())
    types = {name: Counter({"float32": count}) for name, count in Counter(_outside(program)).items()}
    for kind, result in _steps(parts):
        name = "int8" if "int8" in result else result.removeprefix("xnn_datatype_").replace("fp32", "float32")
        types.setdefault(kind.removeprefix("XNN"), Counter())[name] += 1
    return {kind: dict(counts) for kind, counts in sorted(types.items())}


def float_operations(path: Path) -> tuple[str, ...]:
    """The operations that compute in floating point, outside of XNNPACK and inside, as "name (type)"."""
    program, parts, _ = _read(path.read_bytes())
    names = [f"{name} (outside XNNPACK)" for name in _outside(program)]
    for part in parts:
        for number, (kind, result) in enumerate(_steps([part])):
            if kind not in FREE and result in ("xnn_datatype_fp32", "xnn_datatype_fp16"):
                names.append(f"{number} ({kind.removeprefix('XNN').lower()})")
    return tuple(names)


def _outside(program: Any) -> list[str]:
    """The calls outside of XNNPACK that compute floats, in order."""
    plan = program.execution_plan[0]
    calls = [
        one.instr_args for chain in plan.chains for one in chain.instructions if hasattr(one.instr_args, "op_index")
    ]
    names = []
    for call in calls:
        name = plan.operators[call.op_index].name
        types = {getattr(plan.values[place].val, "scalar_type", None) for place in call.args}
        if types & FLOATS and not name.startswith(FREE_OUTSIDE):
            names.append(name)
    return names


def _steps(parts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each operation's kind and the type that it computes in, that of its first result, in XNNPACK's names."""
    for part in parts:
        kinds, widened = {value["id_out"]: value["datatype"] for value, _ in _values(part)}, _with_range_columns(part)
        for node in part["xnodes"]:
            sides = node["xnode_union"]
            result = next(value for key, value in sides.items() if key in ("output_id", "output1_id"))
            multiplies_integers = sides.get("filter_id") in widened
            yield node["xnode_union_type"], kinds[sides["input1_id"] if multiplies_integers else result]


def quantization_parameters(path: Path) -> QuantizationParameters:
    """The integer weights, scales and zero points that the file holds."""
    program, parts, named = _read(path.read_bytes())
    weights, floats, activations = _tables(program), [], set()
    for part in parts:
        widened, transposed = _with_range_columns(part), _groups_of_transposed(part)
        stored = [named.get(entry["named_key"], b"") for entry in part["constant_data"]]
        for value, quantization in _values(part):
            data = stored[value["constant_buffer_idx"]]
            if value["datatype"] == "xnn_datatype_qint8" and not data:
                activations.add((quantization["scale"], quantization["zero_point"]))
            elif value["datatype"] == "xnn_datatype_qcint8":
                array = np.frombuffer(data, np.int8).reshape(value["dims"])
                array = array[:, :-RANGE_COLUMNS] if value["id_out"] in widened else array
                scales = np.frombuffer(stored[quantization["scale_buffer_idx"]], np.float32)
                weights.append(Weight(_channels_first(array, quantization["channel_dim"]), scales))
            elif value["datatype"] == "xnn_datatype_fp32" and data and len(value["dims"]) > 1:
                array = np.frombuffer(data, np.float32).reshape(value["dims"])
                floats += [array, *(_channels_first(array, axis) for axis in (0, 3) if array.ndim == CONVOLUTION_AXES)]
                floats.append(_by_output_of_group(array, transposed.get(value["id_out"], 1)))
    return QuantizationParameters(tuple(weights), tuple(floats), frozenset(activations), tolerance=JSON_STEP)


def _tables(program: Any) -> list[Weight]:
    """Tables of embeddings, which are read outside of XNNPACK: each constant of int8 has its scales behind it."""
    tensors = [entry.val for entry in program.execution_plan[0].values if hasattr(entry.val, "data_buffer_idx")]
    held = {one.data_buffer_idx: (one, program.constant_buffer[one.data_buffer_idx].storage) for one in tensors}
    tables = []
    for number, (tensor, data) in held.items():
        if number and tensor.scalar_type == CHAR and len(tensor.sizes) == 2 and number + 1 in held:
            integers = np.frombuffer(bytes(data), np.int8)[: math.prod(tensor.sizes)].reshape(tensor.sizes)
            scales = np.frombuffer(bytes(held[number + 1][1]), np.float32)[: tensor.sizes[0]]
            tables.append(Weight(integers, scales, is_multiplied=False))
    return tables


def _with_range_columns(part: dict[str, Any]) -> set[int]:
    """The weights of linear layers that multiply integers, whose scale comes from each row, and give float32."""
    kinds = {value["id_out"]: value["datatype"] for value, _ in _values(part)}
    layers = [node["xnode_union"] for node in part["xnodes"] if node["xnode_union_type"] == "XNNFullyConnected"]
    return {layer["filter_id"] for layer in layers if kinds[layer["input1_id"]] == "xnn_datatype_qdint8"}


def _groups_of_transposed(part: dict[str, Any]) -> dict[int, int]:
    """The groups of the transposed convolutions that read a weight, by its number."""
    layers = [node["xnode_union"] for node in part["xnodes"] if node["xnode_union_type"] == "XNNConvTranspose2d"]
    return {layer["filter_id"]: layer["groups"] for layer in layers}


def _by_output_of_group(array: np.ndarray, groups: int) -> np.ndarray:
    """A convolution's (O, H, W, I / groups) as (O / groups, I, H, W)."""
    if array.ndim != 4:
        return array
    parts = array.reshape(groups, -1, *array.shape[1:])  # (G, O / G, H, W, I / G)
    return parts.transpose(1, 0, 4, 2, 3).reshape(parts.shape[1], -1, *array.shape[1:3])


def _lowered(network: Positional) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.exir.operator.util import _QUANT_PRIMITIVES
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    # The example's batch decides which branches the trace takes, and memory is planned for what those branches allow.
    largest = tuple(_repeated(one, LARGEST_BATCH) for one in network.inputs)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    exported = trace(replace(network, inputs=largest), [{0: batch} for _ in largest])
    cut_by_slices(exported.graph)
    exported = constant_prop_pass(exported, {aten.embedding.default, aten.full.default, *_QUANT_PRIMITIVES})
    named = {} if network.has_usual_names else {NAMES_METHOD: _as_bytes([network.input_names, network.output_names])}
    return to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=named or None)


def _as_bytes(names: Any) -> Tensor:
    return torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8)


def _repeated(example: Tensor, count: int) -> Tensor:
    return example.repeat(-(-count // len(example)), *[1] * (example.ndim - 1))[:count].contiguous()


def _read(content: bytes) -> tuple[Any, list[dict[str, Any]], dict[str, bytes]]:
    """The program, the graphs that it hands to XNNPACK, and its named data."""
    with silence():
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(content)
    parts = [_xnnpack_graph(bytes(entry.data)) for entry in file.program.backend_delegate_data]
    store = file.named_data
    named = {key: bytes(store.buffers[entry.buffer_index]) for key, entry in store.pte_data.items()} if store else {}
    return file.program, parts, named


def _xnnpack_graph(data: bytes) -> dict[str, Any]:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(data[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(_get_schema_bytes())
        (folder / "graph.bin").write_bytes(data[header.flatbuffer_offset :][: header.flatbuffer_size])
        _flatc_decompile(name, str(folder / "schema.fbs"), str(folder / "graph.bin"), ["--raw-binary"])
        text = (folder / "graph.json").read_text()
    return json.loads(text.replace(": inf", ": Infinity").replace(": -inf", ": -Infinity"))


def _values(part: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every tensor of a graph with its quantization, which is empty for a float one."""
    for value in part["xvalues"]:
        union = value["xvalue_union"]
        yield union.get("tensor_value", union), union.get("quant_params", {})


def _channels_first(array: np.ndarray, output_axis: int) -> np.ndarray:
    """(O, H, W, I), or (1, H, W, O) of a depthwise layer, as (O, I, H, W)."""
    if array.ndim != CONVOLUTION_AXES:
        return array
    return array.transpose(0, 3, 1, 2) if output_axis == 0 else array.transpose(3, 0, 1, 2)


EXECUTORCH = Runtime(
    name="executorch",
    title="ExecuTorch",
    suffix=".pte",
    packages=("executorch",),
    install="executorch==1.5.1",
    imported="executorch.runtime",
    export=export_executorch,
    load=load_executorch,
    signature=signature,
    quantization_parameters=quantization_parameters,
    operations=operations,
    float_operations=float_operations,
)
