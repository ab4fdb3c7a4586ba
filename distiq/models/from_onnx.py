"""read_onnx(): a float32 ONNX file as a network that trains, traces and exports like any other.

A layer with weights becomes the `torch.nn` layer that it is, under the path that its weight's name gives (files written
by PyTorch keep "layer1.0.conv1.weight") or its node's name. Batch norm behind a layer is folded into it, constants are
computed once. Arithmetic on shapes is done on Python's numbers, so that the batch stays free in a traced graph.
"""

import inspect
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.inliner
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import Tensor, nn

from distiq.errors import UserError

TRIED_ROWS = 3
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
             "ConvInteger", "MatMulInteger"}  # fmt: skip
EXPORT_AGAIN = (
    "export the network from PyTorch again with torch.onnx.export(model, example, dynamo=True), or give it to a recipe"
    ' as model = "file.py:function"'
)
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


class Value(NamedTuple):
    """What a step reads: a tensor or shape that an earlier step made, or a parameter, by its name in the file."""

    name: str


class Step(NamedTuple):
    """A node: its title, a function or a layer's path, what it reads and makes, what no later one reads."""

    title: str
    run: Callable[..., Any] | str
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]
    last_read: tuple[str, ...] = ()


class OnnxNetwork(nn.Module):
    """The nodes of an ONNX file, run in their order. (B, ...) -> (B, ...); its layers are its submodules."""

    def __init__(self, entry: str) -> None:
        super().__init__()
        self.entry = self.answer = entry
        self.steps: list[Step] = []
        self.constants: dict[str, str] = {}  # name in the file -> name of the parameter or buffer

    def forward(self, inputs: Tensor) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, own) for name, own in self.constants.items()}
        values[self.entry] = inputs
        for step in self.steps:
            results = self.run(step, values)
            for name in step.last_read:
                del values[name]
            values |= results
        return values[self.answer]

    def run(self, step: Step, values: dict[str, Any]) -> dict[str, Any]:
        """What a step makes of the values so far, by name."""
        read = [values[item.name] if isinstance(item, Value) else item for item in step.inputs]
        run = self.get_submodule(step.run) if isinstance(step.run, str) else step.run
        try:
            result = run(*read)
        except UserError as error:
            raise UserError(f"{step.title}: {error}") from error
        except FAILURES as error:
            shapes = ", ".join(str(tuple(item.shape)) for item in read if isinstance(item, Tensor))
            raise UserError(f"{step.title} fails on inputs of shape {shapes}: {error}") from error
        return dict(zip(step.outputs, result if len(step.outputs) > 1 else (result,), strict=True))


def read_onnx(path: Path, example: Tensor | None = None, logits: bool = False) -> OnnxNetwork:
    """The network of a float32 file of one input and one output, in eval mode; its weights can be trained.

    Args:
        example: (1, ...) input, on which the file is tried; without it, zeros of the shape that the file states.
        logits: leave out a Softmax at the end.

    Raises:
        UserError: the file is missing or damaged, is quantized, has more inputs or outputs, leaves the shape of a
            sample open, holds an operation or attribute that distiq does not read, or mixes the samples of a batch.
    """
    path = Path(path)
    proto = _proto(path)
    try:
        return _Reader(proto, example).network(logits)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_onnx(model: str) -> bool:
    """Whether a recipe's `model` names an ONNX file."""
    return model.endswith(".onnx")


def files_of_onnx(path: Path) -> list[Path]:
    """The file, and those beside it that hold its larger weights."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # `read_onnx` says what is wrong with it
        return [path]
    outside = [ExternalDataInfo(tensor).location for tensor in graph.initializer if uses_external_data(tensor)]
    return [path, *(path.parent / name for name in sorted(set(outside)) if (path.parent / name).is_file())]


def _proto(path: Path) -> ModelProto:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        proto = onnx.load(str(path))
        proto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # protobuf's and onnx's kinds share no base
        raise UserError(f"{path}: damaged, or no ONNX file ({str(error).splitlines()[0]}); copy it again") from error
    if not proto.graph.node:
        raise UserError(f"{path}: holds no operations, or is no ONNX file")
    found = sorted({node.op_type for node in proto.graph.node} & QUANTIZED)
    if found:
        raise UserError(
            f"{path}: is quantized already ({', '.join(found)}); give the float32 file that it was made from"
        )
    return proto


class _Reader:
    """Reads the nodes in their order, beside a sample that says the shapes of all values."""

    def __init__(self, proto: ModelProto, example: Tensor | None) -> None:
        graph = proto.graph
        self.nodes = list(graph.node)
        self.opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.known: dict[str, Any] = {tensor.name: _constant(tensor) for tensor in graph.initializer}
        inputs = [entry for entry in graph.input if entry.name not in self.known]
        for what, entries in (("inputs", inputs), ("outputs", graph.output)):
            if len(entries) != 1:
                names = ", ".join(entry.name for entry in entries)
                raise UserError(f"has {len(entries)} {what} ({names}), not one; {EXPORT_AGAIN}")
        self.output = graph.output[0].name
        self.alias: dict[str, str] = {}
        self.origin: dict[str, str] = {}  # of a constant that is computed, such as a transposed weight
        self.layer_behind: dict[str, nn.Module] = {}
        self.readers = Counter(name for node in self.nodes for name in node.input) + Counter([self.output])
        self.module = OnnxNetwork(inputs[0].name)
        self.sample, self.fixed_batch = _sample(inputs[0], example)
        self.values: dict[str, Any] = {inputs[0].name: self.sample}

    @torch.no_grad()
    def network(self, logits: bool) -> OnnxNetwork:
        maker = {name: node for node in self.nodes for name in node.output}
        if logits and self.output in maker and maker[self.output].op_type == "Softmax":
            self.nodes.remove(maker[self.output])
            self.output = maker[self.output].input[0]
        for number, node in enumerate(self.nodes):
            title = f'{node.op_type} "{node.name or node.output[0]}"'
            if node.domain not in ("", "ai.onnx"):
                raise UserError(f"{title} is of {node.domain}, not of ONNX itself; {EXPORT_AGAIN}")
            try:
                self._node(node, title, number)
            except UserError as error:
                text = str(error)
                raise UserError(text if text.startswith(title) else f"{title}: {text}") from error
        self.module.answer = self.alias.get(self.output, self.output)
        if self.module.answer in self.known:
            raise UserError("the output does not depend on the input")
        self._forget()
        self.module.eval()
        self._try()
        return self.module

    def _node(self, node: NodeProto, title: str, number: int) -> None:
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        attributes = {key: tuple(item) if isinstance(item, list) else item for key, item in given.items()}
        inputs = [self._argument(name) for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        if node.op_type == "Constant":
            self.known[node.output[0]] = _written(attributes)
            return
        if node.op_type in ("Identity", "Dropout"):
            self._rename(node.output[0], inputs[0])
            return
        if not inputs or (node.op_type not in OPERATIONS and node.op_type not in LAYERS):
            can = ", ".join(sorted({*OPERATIONS, *LAYERS, "Constant", "Dropout", "Identity"}))
            raise UserError(f"{title} is no operation that distiq reads; it reads {can}. To go on, {EXPORT_AGAIN}")
        if self._folds(node.op_type, inputs, attributes, node.output[0]):
            return
        found = self._weights(node.op_type, inputs, attributes)
        if found is not None:
            self._layer(node, title, number, *found, attributes)
        elif node.op_type in OPERATIONS:
            self._function(node, title, inputs, attributes)
        else:
            raise UserError(f"{title} computes its weights, or has none that varies; {EXPORT_AGAIN}")

    def _weights(self, op: str, inputs: list[Any], attributes: dict[str, Any]) -> tuple[Value, list[Any]] | None:
        """What a layer reads and its weights; None where the node is no layer."""
        source, *weights = inputs[::-1] if op == "Gather" else inputs
        if op not in LAYERS or not isinstance(source, Value) or any(isinstance(item, Value) for item in weights):
            return None
        is_matrix = len(weights) == 1 and isinstance(weights[0], Tensor) and weights[0].ndim == 2
        if op == "Gather" and not (is_matrix and self._is_tensor(source) and not attributes.pop("axis", 0)):
            return None
        return None if op == "MatMul" and not is_matrix else (source, weights)

    def _argument(self, name: str) -> Any:
        """None where an optional input is left out, a constant, or the name of a value."""
        name = self.alias.get(name, name)
        return None if not name else self.known[name] if name in self.known else Value(name)

    def _rename(self, name: str, source: Any) -> None:
        if isinstance(source, Value):
            self.alias[name] = source.name
            self.readers[source.name] += self.readers[name] - 1
        else:
            self.known[name] = source

    def _folds(self, op: str, inputs: list[Any], attributes: dict[str, Any], output: str) -> bool:
        """Whether a batch norm or a bias went into the layer that alone it reads."""
        at = 1 if op == "Add" and not isinstance(inputs[0], Value) else 0
        source = inputs[at]
        if not isinstance(source, Value) or self.readers[source.name] != 1 or source.name not in self.layer_behind:
            return False
        layer = self.layer_behind[source.name]
        if op == "BatchNormalization" and all(isinstance(item, Tensor) for item in inputs[1:]):
            _fold_batch_norm(layer, *inputs[1:], **attributes)
        elif op == "Add" and isinstance(layer, nn.Linear) and layer.bias is None and isinstance(inputs[1 - at], Tensor):
            bias = inputs[1 - at]
            if bias.ndim > 1 or bias.numel() != layer.out_features:
                return False
            layer.bias = nn.Parameter(bias.reshape(-1).clone())
        else:
            return False
        self.alias[output] = source.name
        self.readers[source.name] = self.readers[output]
        return True

    def _layer(
        self, node: NodeProto, title: str, number: int, source: Value, weights: list[Any], attributes: dict[str, Any]
    ) -> None:
        before = self.values[source.name]
        make = _bound(partial(LAYERS[node.op_type], before.shape), weights, attributes)
        padding, layer = make()
        if any(padding):
            padded = f"{node.output[0]}/padded"
            self._add(Step(title, partial(F.pad, pad=padding), (source,), (padded,)))
            source = Value(padded)
        self._add(Step(title, self._place(layer, node, number), (source,), tuple(node.output[:1])))
        self.layer_behind[node.output[0]] = layer

    def _place(self, layer: nn.Module, node: NodeProto, number: int) -> str:
        """Puts a layer at the path that its weight or node is named after; returns the path."""
        weight = node.input[0 if node.op_type == "Gather" else 1]
        weight = self.origin.get(weight, weight)
        name = weight.removesuffix(".weight") if weight.endswith(".weight") else re.sub(r"\W+", "_", node.name)
        parts = re.sub(r"[^\w.]+", "_", name).strip("._").split(".")
        if not all(parts):
            parts = [f"{node.op_type.lower()}_{number}"]
        owner: nn.Module = self.module
        for position, part in enumerate(parts[:-1]):
            child = owner._modules.get(part)
            if child is None:
                child = nn.Module()
                parts[position] = _free(owner, part)
                owner.add_module(parts[position], child)
            owner = child
        parts[-1] = _free(owner, parts[-1])
        owner.add_module(parts[-1], layer)
        return ".".join(parts)

    def _function(self, node: NodeProto, title: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
        if node.op_type == "Split" and len(inputs) < 2 and "split" not in attributes:
            attributes["num_outputs"] = len(node.output)
        ranks = [self.values[item.name].ndim for item in inputs if self._is_tensor(item)]
        if node.op_type == "Softmax" and self.opset < 13:
            if attributes.get("axis", 1) not in (-1, ranks[0] - 1):
                raise UserError(f"a Softmax of opset {self.opset} over several axes; {EXPORT_AGAIN}")
            attributes["axis"] = -1
        if node.op_type == "Reshape" and isinstance(inputs[0], Value) and (free := self._for_any_batch(inputs)):
            inputs[1], attributes["allowzero"] = free, 0
        if node.op_type == "Concat" and self.fixed_batch == 1 and attributes.get("axis"):
            attributes["single"] = tuple(at for at, item in enumerate(inputs) if isinstance(item, Tensor))
        run = _bound(OPERATIONS[node.op_type], inputs, attributes, call=False)
        if not any(isinstance(item, Value) for item in inputs):
            step = Step(title, run, tuple(inputs), tuple(node.output))
            self.origin |= dict.fromkeys(node.output, self.origin.get(node.input[0], node.input[0]))
            self.known |= {name: _plain(item) for name, item in self.module.run(step, {}).items()}
            return
        read = [self._read(item, name, max(ranks, default=1)) for item, name in zip(inputs, node.input, strict=False)]
        self._add(Step(title, run, tuple(read), tuple(node.output)))

    def _is_tensor(self, item: Any) -> bool:
        return isinstance(item, Value) and isinstance(self.values[item.name], Tensor)

    def _for_any_batch(self, inputs: list[Any]) -> tuple[int, ...] | None:
        """A shape that holds the one batch that the file was traced with, alone or times heads, without it."""
        shape = inputs[1] if len(inputs) > 1 else None
        if not self.fixed_batch or not isinstance(shape, tuple) or isinstance(shape, Value) or not shape:
            return None
        if self._is_tensor(inputs[0]) and shape[0] == len(self.values[inputs[0].name]) == self.fixed_batch:
            return (0, *shape[1:])
        return (-1, *shape[1:]) if self.fixed_batch == 1 and -1 not in shape else None

    def _read(self, item: Any, name: str, rank: int) -> Any:
        """What a step holds for an input: a large constant becomes a parameter, one number a number."""
        if not isinstance(item, Tensor):
            return item
        if item.numel() == 1 and item.ndim <= rank:
            return item.item()
        name = self.alias.get(name, name)
        if name not in self.module.constants:
            own = _free(self.module, re.sub(r"\W+", "_", name).strip("_") or "constant")
            if item.is_floating_point():
                self.module.register_parameter(own, nn.Parameter(item.clone()))
            else:
                self.module.register_buffer(own, item.clone())
            self.module.constants[name] = own
            self.values[name] = item
        return Value(name)

    def _add(self, step: Step) -> None:
        self.module.steps.append(step)
        self.values |= self.module.run(step, self.values)

    def _forget(self) -> None:
        """Writes into every step which values it is the last to read."""
        last = {item.name: number for number, step in enumerate(self.module.steps) for item in step.inputs
                if isinstance(item, Value)}  # fmt: skip
        kept = {self.module.answer, *self.module.constants}
        for number, step in enumerate(self.module.steps):
            done = tuple(name for name, at in last.items() if at == number and name not in kept)
            self.module.steps[number] = step._replace(last_read=done)

    def _try(self) -> None:
        """Refuses a network that does not answer every sample by itself."""
        shape = (TRIED_ROWS, *self.sample.shape[1:])
        rows = torch.zeros(shape, dtype=self.sample.dtype)
        if rows.is_floating_point():
            rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            together, alone = self.module(rows), [self.module(row) for row in rows.split(1)]
        except UserError as error:
            fixed = f"the file is fixed to batches of {self.fixed_batch}: " if self.fixed_batch else ""
            raise UserError(f"{error}; {fixed}{EXPORT_AGAIN}, with a dynamic batch") from error
        same = len(together) == TRIED_ROWS and all(len(answer) == 1 for answer in alone)
        allowed = 1e-4 * float(together.abs().max())
        if not same or not torch.allclose(together, torch.cat(alone), rtol=1e-3, atol=allowed):
            raise UserError(f"does not answer each sample of a batch by itself; {EXPORT_AGAIN}, with a dynamic batch")


def _free(owner: nn.Module, name: str) -> str:
    while hasattr(owner, name):
        name += "_"
    return name


def _bound(
    function: Callable[..., Any], inputs: Sequence[Any], attributes: dict[str, Any], call: bool = True
) -> Callable[..., Any]:
    """The function with a node's attributes, and with its inputs if it is to be called without them."""
    try:
        if attributes or not inspect.isbuiltin(function):  # torch's own functions state no signature
            inspect.signature(function).bind(*inputs, **attributes)
    except (TypeError, ValueError) as error:
        raise UserError(f"distiq does not read it in this form ({error}); {EXPORT_AGAIN}") from error
    return partial(function, *(inputs if call else ()), **attributes)


def _constant(tensor: TensorProto) -> Any:
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise UserError(f'the constant "{tensor.name}" cannot be read: {error}') from error
    if array.dtype.kind not in "fiub":
        raise UserError(f'the constant "{tensor.name}" holds {array.dtype}; distiq reads numbers')
    return _plain(torch.from_numpy(np.array(array, dtype=np.float32 if array.dtype.kind == "f" else array.dtype)))


def _plain(value: Any) -> Any:
    """Integers of at most one axis as Python's numbers, which shapes are made of; all else as it is."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.ndim > 1:
        return value
    return tuple(value.tolist()) if value.ndim else value.item()


def _written(attributes: dict[str, Any]) -> Any:
    """The value of a Constant node."""
    ((name, value),) = attributes.items()
    match name:
        case "value":
            return _constant(value)
        case "value_float" | "value_floats":
            return torch.tensor(value)
        case "value_int" | "value_ints":
            return value
    raise UserError(f"a constant given as {name}; distiq reads numbers")


def _sample(entry: onnx.ValueInfoProto, example: Tensor | None) -> tuple[Tensor, int]:
    """Zeros (B, ...) of the input's form, and the batch that the file is fixed to, 0 if it is free."""
    tensor = entry.type.tensor_type
    types: dict[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.INT64: torch.int64}
    if tensor.elem_type not in types:
        found = TensorProto.DataType.Name(tensor.elem_type)
        raise UserError(f'the input "{entry.name}" is {found}; distiq reads networks of FLOAT (or INT64 tokens)')
    sizes = [size.dim_value for size in tensor.shape.dim]  # 0 where it is open
    batch, *stated = sizes or [0]
    if example is None:
        if not stated or min(stated) < 1:
            raise UserError(f'the input "{entry.name}" leaves the shape of a sample open: {stated}; give an example')
        return torch.zeros((batch or 2, *stated), dtype=types[tensor.elem_type]), batch
    shape = tuple(example.shape[1:])
    fits = len(shape) == len(stated) and all(want in (0, size) for want, size in zip(stated, shape, strict=True))
    if sizes and not fits:
        wanted = ", ".join(str(size or "any") for size in stated)
        raise UserError(f"takes samples of shape ({wanted}), the data has {shape}")
    return torch.zeros((batch or 2, *shape), dtype=types[tensor.elem_type]), batch


def _fold_batch_norm(
    layer: nn.Module, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> None:  # fmt: skip
    """Into the weights before it: W s / sigma, (b - mean) s / sigma + bias."""
    if training_mode or not spatial:
        raise UserError(f"a batch norm in training mode; {EXPORT_AGAIN}, in eval mode")
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    factor = (scale.double() / torch.sqrt(variance.double() + epsilon)).view(-1, *[1] * (layer.weight.ndim - 1))
    before = 0.0 if layer.bias is None else layer.bias.double()
    layer.bias = nn.Parameter(((before - mean.double()) * factor.flatten() + bias.double()).float())
    layer.weight.data = (layer.weight.double() * factor).float()


# Layers: the shape of the input, the node's weights and attributes -> padding that stands before it, the layer.
Layer = tuple[tuple[int, ...], nn.Module]


def _convolution(
    shape: torch.Size, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (), pads: Sequence[int] = (), dilations: Sequence[int] = (), group: int = 1,
    auto_pad: bytes = b"NOTSET",
) -> Layer:  # fmt: skip
    axes = weight.ndim - 2
    if axes not in (1, 2):
        raise UserError(f"convolves over {axes} axes; distiq reads 1 and 2")
    strides, dilations = tuple(strides) or (1,) * axes, tuple(dilations) or (1,) * axes
    kernel = tuple(weight.shape[2:])
    begin, end = _padding(shape[2:], kernel, strides, dilations, pads, auto_pad)
    inside = begin if begin == end else (0,) * axes
    kind: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    sizes = (weight.shape[1] * group, weight.shape[0], kernel)
    layer = nn.utils.skip_init(
        kind, *sizes, stride=strides, padding=inside, dilation=dilations, groups=group, bias=bias is not None
    )
    outside = () if begin == end else _pad_order(begin, end)
    return outside, _filled(layer, weight, bias)


def _linear(
    _shape: torch.Size, weight: Tensor, bias: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Layer:  # fmt: skip
    if transA:
        raise UserError(f"multiplies a transposed input; {EXPORT_AGAIN}")
    weight = alpha * (weight if transB else weight.T)
    if bias is not None:
        bias = (beta * bias).reshape(-1).expand(len(weight))
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    return (), _filled(layer, weight, bias)


def _batch_norm(
    shape: torch.Size, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> Layer:  # fmt: skip
    if training_mode or not spatial:
        raise UserError(f"a batch norm in training mode; {EXPORT_AGAIN}, in eval mode")
    kind: Any = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = _filled(kind(len(scale), epsilon, 1 - momentum), scale, bias)
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    return (), layer.eval()


def _layer_norm(
    shape: torch.Size, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Layer:  # fmt: skip
    normalized = shape[axis:]
    layer = nn.LayerNorm(normalized, epsilon, bias=bias is not None)
    return (), _filled(layer, scale.expand(normalized), None if bias is None else bias.expand(normalized))


def _embedding(_shape: torch.Size, table: Tensor) -> Layer:
    return (), nn.Embedding.from_pretrained(table.clone(), freeze=False)


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    layer.weight = nn.Parameter(weight.float().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.float().clone(memory_format=torch.contiguous_format))
    return layer


LAYERS: dict[str, Callable[..., Layer]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "Gather": _embedding,
    "Gemm": _linear,
    "LayerNormalization": _layer_norm,
    "MatMul": _linear,
}


def _padding(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    pads: Sequence[int], auto_pad: bytes,
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """What stands before and behind each axis of an input of these sizes."""
    if auto_pad in (b"NOTSET", b"VALID", b""):
        given = tuple(pads) if pads and auto_pad != b"VALID" else (0,) * (2 * len(kernel))
        return given[: len(kernel)], given[len(kernel) :]
    totals = [
        max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (less, more) if auto_pad == b"SAME_UPPER" else (more, less)


def _pad_order(begin: Sequence[int], end: Sequence[int]) -> tuple[int, ...]:
    """The order of `F.pad`: the last axis first."""
    return tuple(size for pair in reversed(list(zip(begin, end, strict=True))) for size in pair)


# Functions: the node's inputs by position, its attributes by name. Older files give some inputs as attributes.


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A function of two tensors, also for the numbers of shapes."""

    def run(one: Any, other: Any) -> Any:
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            return function(_number(one), _number(other))
        ones, others = (item if isinstance(item, tuple) else (item,) for item in (one, other))
        length = max(len(ones), len(others))
        found = tuple(function(*pair) for pair in zip(_repeated(ones, length), _repeated(others, length), strict=True))
        return found if isinstance(one, tuple) or isinstance(other, tuple) else found[0]

    return run


def _repeated(items: tuple, length: int) -> tuple:
    return items * length if len(items) == 1 else items


def _number(item: Any) -> Any:
    if not isinstance(item, tuple):
        return item
    return item[0] if len(item) == 1 else torch.tensor(item)


def _divide(one: Any, other: Any) -> Any:
    whole = not isinstance(one, Tensor | float) and not isinstance(other, Tensor | float)
    return one // other if whole else one / other


def _sqrt(x: Any) -> Any:
    if isinstance(x, Tensor):
        return torch.sqrt(x)
    return tuple(math.sqrt(item) for item in x) if isinstance(x, tuple) else math.sqrt(x)


def _clip(x: Tensor, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Tensor:
    low, high = (
        None if item is None else float(item) for item in (min if low is None else low, max if high is None else high)
    )
    if low == 0 and high is None:
        return F.relu(x)
    return F.relu6(x) if (low, high) == (0, 6) else torch.clamp(x, low, high)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return F.softmax(x, axis)


def _gelu(x: Tensor, *, approximate: bytes = b"none") -> Tensor:
    return F.gelu(x, approximate=approximate.decode())


def _leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def _global_average_pool(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1) if x.ndim == 4 else x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _average_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (), pads: Sequence[int] = (),
    ceil_mode: int = 0, auto_pad: bytes = b"NOTSET", count_include_pad: int = 0, dilations: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    strides, padding = _pooling(x, kernel_shape, strides, pads, auto_pad, dilations)
    if max(dilations, default=1) > 1:
        raise UserError("averages over dilated windows")
    pool: Any = F.avg_pool1d if len(kernel_shape) == 1 else F.avg_pool2d
    return pool(x, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))


def _max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (), pads: Sequence[int] = (),
    ceil_mode: int = 0, auto_pad: bytes = b"NOTSET", dilations: Sequence[int] = (), storage_order: int = 0,
) -> Tensor:  # fmt: skip
    strides, padding = _pooling(x, kernel_shape, strides, pads, auto_pad, dilations)
    pool: Any = F.max_pool1d if len(kernel_shape) == 1 else F.max_pool2d
    return pool(x, kernel_shape, strides, padding, tuple(dilations) or 1, bool(ceil_mode))


def _pooling(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], auto_pad: bytes,
    dilations: Sequence[int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    ones = (1,) * len(kernel)
    if len(kernel) not in (1, 2):
        raise UserError(f"pools over {len(kernel)} axes; distiq reads 1 and 2")
    strides = tuple(strides) or ones
    begin, end = _padding(x.shape[2:], kernel, strides, tuple(dilations) or ones, pads, auto_pad)
    if begin != end:
        raise UserError(f"pads by {begin} before and {end} behind; distiq reads pooling of equal padding on both sides")
    return strides, begin


def _reduce_mean(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    if not axes and noop_with_empty_axes:
        return x
    return x.mean(tuple(axes) if axes else tuple(range(x.ndim)), keepdim=bool(keepdims))


def _concat(*parts: Any, axis: int, single: Sequence[int] = ()) -> Any:
    """single: which parts are one row for every sample."""
    if all(isinstance(part, tuple) for part in parts):
        return tuple(size for part in parts for size in part)
    rows = next(part.shape[0] for at, part in enumerate(parts) if at not in single)
    given = [part.expand(rows, *part.shape[1:]) if at in single else part for at, part in enumerate(parts)]
    return torch.cat(given, axis)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis % x.ndim != 1:
        raise UserError(f"flattens from axis {axis}, with the batch; distiq reads 1")
    return torch.flatten(x, 1)


def _reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    if not isinstance(x, Tensor):  # numbers of a shape: one of them, or all
        if len(shape) > 1:
            return torch.tensor(x).reshape(shape)
        return (x if isinstance(x, tuple) else (x,)) if shape else _number(x)
    sizes = [x.shape[at] if not allowzero and size is not None and _is_zero(size) else size
             for at, size in enumerate(shape)]  # fmt: skip
    return x.reshape(sizes)


def _is_zero(size: Any) -> bool:
    return isinstance(size, int) and size == 0


def _expand(x: Tensor, shape: tuple) -> Tensor:
    new = len(shape) - x.ndim
    ahead = (1,) * -new
    sizes = [-1 if at >= new and isinstance(size, int) and size == 1 else size for at, size in enumerate(shape)]
    return x.expand(*(-1 for _ in ahead), *sizes)


def _transpose(x: Tensor, *, perm: Sequence[int] = ()) -> Tensor:
    return x.permute(*(perm or range(x.ndim)[::-1]))


def _squeeze(x: Any, axes: Any = None) -> Any:
    if not isinstance(x, Tensor):
        return _number(x)
    for axis in sorted(axis % x.ndim for axis in axes or [at for at, size in enumerate(x.shape) if size == 1])[::-1]:
        x = x.squeeze(axis)
    return x


def _unsqueeze(x: Any, axes: Any) -> Any:
    if not isinstance(x, Tensor):
        return (x,)
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _constant_of_shape(shape: tuple, *, value: TensorProto | None = None) -> Any:
    filling = 0.0 if value is None else numpy_helper.to_array(value).item()
    if len(shape) == 1 and isinstance(filling, int):
        return (filling,) * shape[0]
    return torch.full(shape, filling)


def _where(condition: Any, one: Any, other: Any) -> Any:
    if isinstance(condition, Tensor):
        return torch.where(condition, _number(one), _number(other))
    if not isinstance(condition, tuple):
        return one if condition else other
    ones, others = (_repeated(item if isinstance(item, tuple) else (item,), len(condition)) for item in (one, other))
    return tuple(first if holds else second for holds, first, second in zip(condition, ones, others, strict=True))


def _shape(x: Any, *, start: int = 0, end: int | None = None) -> tuple:
    if not isinstance(x, Tensor):
        return (len(x),) if isinstance(x, tuple) else ()
    return tuple(x.shape)[start:end]


def _gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    if not isinstance(x, Tensor):
        return tuple(x[at] for at in index) if isinstance(index, tuple) else x[index]
    if isinstance(index, tuple):
        return torch.stack([x.select(axis, at) for at in index], axis)
    return x.select(axis, index)


def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    axes = axes or tuple(range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(axes), strict=True):
        if isinstance(x, Tensor) and step == start == -1 and end <= -x.shape[axis]:
            x = x.flip(axis)
        elif isinstance(x, Tensor):
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
        else:
            x = x[start:end:step]
    return x


def _split(x: Tensor, split: Any = None, *, axis: int = 0, num_outputs: int = 1) -> tuple[Tensor, ...]:
    return torch.split(x, list(split) if split else math.ceil(x.shape[axis] / num_outputs), axis)


def _pad(x: Tensor, pads: Any, value: Any = None, axes: Any = None, *, mode: bytes = b"constant") -> Tensor:
    if mode != b"constant":
        raise UserError(f"pads by {mode.decode()}; distiq reads padding with a constant")
    begin, end = [0] * x.ndim, [0] * x.ndim
    for at, axis in enumerate(axes or range(x.ndim)):
        begin[axis], end[axis] = pads[at], pads[at + len(pads) // 2]
    first = next((at for at in range(x.ndim) if begin[at] or end[at]), x.ndim)
    return F.pad(x, _pad_order(begin[first:], end[first:]), value=float(value or 0)) if first < x.ndim else x


def _cast(x: Any, *, to: int, saturate: int = 1) -> Any:
    to_float = to in (TensorProto.FLOAT, TensorProto.DOUBLE)
    if not to_float and to not in (TensorProto.INT64, TensorProto.INT32):
        raise UserError(f"casts to {TensorProto.DataType.Name(to)}; distiq reads networks of FLOAT")
    if isinstance(x, Tensor):
        return x.float() if to_float else x.long()
    if not to_float:
        return x
    return tuple(float(size) for size in x) if isinstance(x, tuple) else float(x)


def _cast_like(x: Any, other: Any) -> Any:
    to_float = other.is_floating_point() if isinstance(other, Tensor) else isinstance(_number(other), float)
    return _cast(x, to=TensorProto.FLOAT if to_float else TensorProto.INT64)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": _elementwise(operator.add),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(operator.eq),
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": F.hardswish,
    "LeakyRelu": _leaky_relu,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": _elementwise(operator.mul),
    "Neg": operator.neg,
    "Pad": _pad,
    "Pow": _elementwise(operator.pow),
    "ReduceMean": _reduce_mean,
    "Relu": F.relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _sqrt,
    "Squeeze": _squeeze,
    "Sub": _elementwise(operator.sub),
    "Tanh": torch.tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
