"""read_onnx(): a float32 ONNX file as a network that trains, traces and exports like any other.

A layer with weights becomes the `torch.nn` layer that it is, under the path that its weight's name gives (files written
by PyTorch keep "layer1.0.conv1.weight") or its node's name. Batch norm behind a layer is folded into it, constants are
computed once. Arithmetic on shapes is done on Python's numbers, so that the batch stays free in a traced graph.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import Tensor, nn

from distiq.errors import UserError, first_line
from distiq.models.onnx_file import open_onnx
from distiq.models.onnx_layers import LAYERS, fold_batch_norm
from distiq.models.onnx_operations import EXPORT_AGAIN, OPERATIONS
from distiq.models.signature import Tensors, by_name, call, in_order, split, tensors_of

TRIED_ROWS = 3
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
    """The nodes of an ONNX file, run in their order; its layers are its submodules.

    It takes its only input, or several by name, and gives its only output, or a dict of several.

    `fixed_length` says that token numbers keep the length that the file states; see `free_dimensions`.
    """

    fixed_length = False

    def __init__(self, entries: Sequence[str], results: Sequence[str]) -> None:
        super().__init__()
        self.entries = tuple(entries)
        self.results = {name: name for name in results}  # name of an output -> the value that it is
        self.steps: list[Step] = []
        self.constants: dict[str, str] = {}  # name in the file -> name of the parameter or buffer

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> Any:
        values: dict[str, Any] = {name: getattr(self, own) for name, own in self.constants.items()}
        given = named if inputs is None else inputs
        values |= zip(self.entries, in_order(given, self.entries, "the network"), strict=True)
        for step in self.steps:
            results = self.run(step, values)
            for name in step.last_read:
                del values[name]
            values |= results
        return by_name([values[own] for own in self.results.values()], list(self.results))

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


def read_onnx(path: Path, example: Tensors | None = None, logits: bool = False) -> OnnxNetwork:
    """The network of a float32 file, in eval mode; its weights can be trained.

    Args:
        example: (1, ...) inputs, on which the file is tried; without them, zeros of the shapes that the file states.
        logits: leave out a Softmax at the end of the only output.

    Raises:
        UserError: the file is missing or damaged, is quantized, has other inputs, leaves the shape of a sample open,
            holds an operation or attribute that distiq does not read, or mixes the samples of a batch.
    """
    path = Path(path)
    proto = open_onnx(path)
    try:
        return _Reader(proto, example).network(logits)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except FAILURES as error:
        raise UserError(f"{path}: distiq reads no network from this graph: {first_line(error)}") from error


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
    files = [path.parent / name for name in sorted(set(outside)) if (path.parent / name).is_file()]
    return [path, *(file for file in files if file.resolve().is_relative_to(path.parent.resolve()))]


class _Reader:
    """Reads the nodes in their order, beside a sample that says the shapes of all values."""

    def __init__(self, proto: ModelProto, example: Tensors | None) -> None:
        graph = proto.graph
        self.opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.constants: dict[str, Any] = {tensor.name: _constant(tensor) for tensor in graph.initializer}
        inputs = [entry for entry in graph.input if entry.name not in self.constants]
        names, self.outputs = [entry.name for entry in inputs], [output.name for output in graph.output]
        if not names or not self.outputs:
            raise UserError(f"has {len(names)} inputs and {len(self.outputs)} outputs; {EXPORT_AGAIN}")
        examples = [None] * len(names) if example is None else in_order(example, names, "the file")
        self.nodes = _in_order(list(graph.node), {*self.constants, *names})
        self.alias: dict[str, str] = {}
        self.origin: dict[str, str] = {}  # of a constant that is computed, such as a transposed weight
        self.layer_behind: dict[str, nn.Module] = {}
        self.readers = Counter(name for node in self.nodes for name in node.input) + Counter(self.outputs)
        self.module = OnnxNetwork(names, self.outputs)
        self.samples, self.fixed_batch = _samples(inputs, examples)
        self.values: dict[str, Any] = dict(self.samples)

    @torch.no_grad()
    def network(self, logits: bool) -> OnnxNetwork:
        maker = {name: node for node in self.nodes for name in node.output}
        last = maker.get(self.outputs[0]) if logits and len(self.outputs) == 1 else None
        if last is not None and last.op_type == "Softmax":
            self.nodes.remove(last)
            self.module.results[self.outputs[0]] = last.input[0]
        for number, node in enumerate(self.nodes):
            title = f'{node.op_type} "{node.name or node.output[0]}"'
            if node.domain not in ("", "ai.onnx"):
                raise UserError(f"{title} is of {node.domain}, not of ONNX itself; {EXPORT_AGAIN}")
            try:
                self._node(node, title, number)
            except UserError as error:
                text = str(error)
                raise UserError(text if text.startswith(title) else f"{title}: {text}") from error
        self.module.results = {name: self.alias.get(own, own) for name, own in self.module.results.items()}
        for name, own in self.module.results.items():
            if own in self.constants:
                raise UserError(f'the output "{name}" does not depend on the input')
            if own not in self.values:
                raise UserError(f'no operation makes its output "{name}"; {EXPORT_AGAIN}')
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
            self.constants[node.output[0]] = _written(attributes)
            return
        if node.op_type in ("Identity", "Dropout"):
            self._rename(node.output[0], inputs[0])
            return
        if not inputs or (node.op_type not in OPERATIONS and node.op_type not in LAYERS):
            can = ", ".join(sorted({*OPERATIONS, *LAYERS, "Constant", "Dropout", "Identity"}))
            raise UserError(f"{title} is no operation that distiq reads; it reads {can}. To go on, {EXPORT_AGAIN}")
        if self._folds(node.op_type, inputs, attributes, node.output[0]):
            return
        layer = self._weights(node.op_type, inputs, attributes)
        if layer is not None:
            self._layer(node, title, number, *layer, attributes)
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
        return None if not name else self.constants[name] if name in self.constants else Value(name)

    def _rename(self, name: str, source: Any) -> None:
        if isinstance(source, Value):
            self.alias[name] = source.name
            self.readers[source.name] += self.readers[name] - 1
        else:
            self.constants[name] = source

    def _folds(self, op: str, inputs: list[Any], attributes: dict[str, Any], output: str) -> bool:
        """Whether a batch norm or a bias went into the layer that alone it reads."""
        at = 1 if op == "Add" and not isinstance(inputs[0], Value) else 0
        source = inputs[at]
        if not isinstance(source, Value) or self.readers[source.name] != 1 or source.name not in self.layer_behind:
            return False
        layer = self.layer_behind[source.name]
        if op == "BatchNormalization" and all(isinstance(item, Tensor) for item in inputs[1:]):
            fold_batch_norm(layer, *inputs[1:], **attributes)
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
            self.constants |= {name: _plain(item) for name, item in self.module.run(step, {}).items()}
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
        kept = {*self.module.results.values(), *self.module.constants}
        for number, step in enumerate(self.module.steps):
            done = tuple(name for name, at in last.items() if at == number and name not in kept)
            self.module.steps[number] = step._replace(last_read=done)

    def _try(self) -> None:
        """Refuses a network that does not compute every sample by itself."""
        rows = by_name([_tried(sample) for sample in self.samples.values()], list(self.samples))
        try:
            together, alone = call(self.module, rows), [call(self.module, row) for row in split(rows, 1)]
        except UserError as error:
            fixed = f"the file is fixed to batches of {self.fixed_batch}: " if self.fixed_batch else ""
            raise UserError(f"{error}; {fixed}{EXPORT_AGAIN}, with a dynamic batch") from error
        for whole, *rows_of_it in zip(tensors_of(together), *map(tensors_of, alone), strict=True):
            same = whole.ndim > 0 and len(whole) == TRIED_ROWS and all(len(row) == 1 for row in rows_of_it)
            allowed = 1e-4 * float(whole.abs().max())
            if not same or not torch.allclose(whole, torch.cat(rows_of_it), rtol=1e-3, atol=allowed):
                raise UserError(
                    f"does not compute each sample of a batch by itself; {EXPORT_AGAIN}, with a dynamic batch"
                )


def _in_order(nodes: list[NodeProto], given: set[str]) -> list[NodeProto]:
    """The nodes, each behind those that it reads; ONNX wants it so, but some tools put theirs at the end.

    Args:
        given: the names of input and constants.
    """
    made, ordered, waiting = set(given), list[NodeProto](), nodes
    while waiting:
        later = []
        for node in waiting:
            if made.issuperset(filter(None, node.input)):
                ordered.append(node)
                made.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            missing = next(name for name in later[0].input if name and name not in made)
            raise UserError(f'{later[0].op_type} "{later[0].name}" reads "{missing}", which nothing makes')
        waiting = later
    return ordered


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


def _tried(sample: Tensor) -> Tensor:
    """Rows that differ, of tokens one that is repeated."""
    shape = (TRIED_ROWS, *sample.shape[1:])
    if not sample.is_floating_point():
        return sample[:1].expand(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _samples(
    entries: Sequence[onnx.ValueInfoProto], examples: Sequence[Tensor | None]
) -> tuple[dict[str, Tensor], int]:
    """Samples by the inputs' names, all of one batch, and the batch of the file, 0 if it is free."""
    pairs = [_sample(entry, example) for entry, example in zip(entries, examples, strict=True)]
    batch = max(batch for _, batch in pairs)
    return {
        entry.name: sample[:batch] if batch else sample for entry, (sample, _) in zip(entries, pairs, strict=True)
    }, batch


def _sample(entry: onnx.ValueInfoProto, example: Tensor | None) -> tuple[Tensor, int]:
    """Zeros (B, ...) of the input's form, of tokens the example's, and the batch of the file, 0 if it is free."""
    tensor = entry.type.tensor_type
    types: dict[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.INT64: torch.int64}
    if tensor.elem_type not in types:
        type_name = TensorProto.DataType.Name(tensor.elem_type)
        raise UserError(f'the input "{entry.name}" is {type_name}; distiq reads networks of FLOAT (or INT64 tokens)')
    sizes = [max(size.dim_value, 0) for size in tensor.shape.dim]  # 0 where it is open, which some write as -1
    batch, *stated = sizes or [0]
    if example is None:
        if not stated or min(stated) < 1:
            raise UserError(f'the input "{entry.name}" leaves the shape of a sample open: {stated}; give an example')
        return torch.zeros((batch or 2, *stated), dtype=types[tensor.elem_type]), batch
    shape = tuple(example.shape[1:])
    fits = len(shape) == len(stated) and all(want in (0, size) for want, size in zip(stated, shape, strict=True))
    if sizes and not fits:
        own_shape = ", ".join(str(size or "any") for size in stated)
        raise UserError(f"takes samples of shape ({own_shape}), the data has {shape}")
    if example.dtype == types[tensor.elem_type] == torch.int64:  # not padding alone, which some networks divide by
        return example[:1].expand(batch or 2, *shape).clone(), batch
    return torch.zeros((batch or 2, *shape), dtype=types[tensor.elem_type]), batch
