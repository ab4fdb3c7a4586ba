"""Operations that LiteRT's int8 kernels compute differently from the graph: between quantized values they stay float32.

LiteRT's converter gives such an operation's input and result one set of quantization parameters, and drops those of the
graph; or the kernel has fixed ones. So each becomes a composite, which the converter leaves alone; in the finished file
the composite's operations are inlined among the others.
"""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from distiq.runtimes.lowering import CARRYING, DEQUANTIZE, MOVING, QUANTIZE, WEIGHT_DEQUANTIZE, is_fixed, is_operation

aten = torch.ops.aten
SAME = {
    *MOVING, *CARRYING, aten.amax.default, aten.amin.default, aten.cat.default, aten.channel_shuffle.default,
    aten.constant_pad_nd.default, aten.flip.default, aten.max_pool1d.default, aten.max_pool2d.default,
    aten.maximum.default, aten.minimum.default, aten.pad.default, aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default, aten.repeat.default, aten.roll.default, aten.squeeze.dims, aten.stack.default,
    aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default,
}  # fmt: skip
"""What the converter gives the quantization parameters of its result to, and to what it reads."""
KERNELS = SAME | {
    aten.abs.default, aten.add.Tensor, aten.bmm.default, aten.clamp.default, aten.clamp_max.default,
    aten.clamp_min.default, aten.conv1d.default, aten.conv2d.default, aten.embedding.default, aten.exp.default,
    aten.fill.Tensor, aten.gelu.default, aten.hardsigmoid.default, aten.hardswish.default, aten.hardtanh.default,
    aten.linear.default, aten.matmul.default, aten.mean.dim, aten.mul.Tensor, aten.neg.default, aten.prelu.default,
    aten.relu.default, aten.relu6.default, aten.rsub.Scalar, aten.sigmoid.default, aten.silu.default, aten.sub.Tensor,
    aten.tanh.default,
}  # fmt: skip
"""What has an integer kernel that gives the graph's values, each on quantization parameters of its own. Others have
none, parts of them have (of an ELU, a selection that gives its input and result the same ones), or they have one of
less precision: XNNPACK's leaky ReLU multiplies by eight bits."""
FIXED = {aten.softmax.int, aten.log_softmax.int}
"""Whose int8 kernels have one set of quantization parameters for all results."""
POOLING = {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
OPERANDS = 2  # of an operation, before its bias
COMPOSITE = "distiq.float32"


class _Place(NamedTuple):
    """Where a tensor stands among an operation's arguments."""

    number: int


class _Island(nn.Module):
    """An operation as a composite of LiteRT's; all of its arguments but tensors are fixed."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__()
        places = {source: _Place(number) for number, source in enumerate(node.all_input_nodes)}
        self.operation: Any = node.target
        self.arguments: Any = _mapped((node.args, dict(node.kwargs)), fx.Node, lambda source: places[source])

    def forward(self, *sources: Any) -> Tensor:
        """sources: what the operation reads, in order; sizes among them stay outside of the composite."""
        from litert_torch.hlfb import StableHLOCompositeBuilder

        composite = StableHLOCompositeBuilder(COMPOSITE)
        tensors = [one for one in sources if isinstance(one, Tensor)]
        marked = composite.mark_inputs(*tensors)
        rest = iter(marked if len(tensors) > 1 else [marked])
        read = [next(rest) if isinstance(one, Tensor) else one for one in sources]
        arguments, named = _mapped(self.arguments, _Place, lambda place: read[place.number])
        return composite.mark_outputs(self.operation(*arguments, **named))


class _Same(nn.Module):
    """A composite that gives what it reads."""

    def forward(self, values: Tensor) -> Tensor:
        from litert_torch.hlfb import StableHLOCompositeBuilder

        composite = StableHLOCompositeBuilder(COMPOSITE)
        return composite.mark_outputs(composite.mark_inputs(values))


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with everything of type `kind` passed through `change`."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(one, kind, change) for key, one in value.items()}
    return [_mapped(one, kind, change) for one in value] if isinstance(value, list | tuple) else value


def with_islands(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with each such operation as a composite, in place; as it is where its outputs are integers, too.

    Such a graph is for files of integers alone, where nothing may be float32: a value lands a step beside there.
    """
    _read_apart(graph)
    _keep_requantizing(graph)
    has_integer_outputs = all(is_operation(one, DEQUANTIZE) for one in graph.graph.output_node().all_input_nodes)
    for node in [] if has_integer_outputs else list(graph.graph.nodes):
        if not _is_island(node):
            continue
        name = f"{node.name}_island"
        graph.add_submodule(name, _Island(node))
        with graph.graph.inserting_before(node):
            made = graph.graph.call_module(name, tuple(node.all_input_nodes))
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _read_apart(graph: fx.GraphModule) -> None:
    """Gives each consumer its own dequantize node: the converter gets the layout of shared values wrong."""
    for node in list(graph.graph.nodes):
        for reader in list(node.users)[1:] if is_operation(node, DEQUANTIZE) else []:
            with graph.graph.inserting_before(node):
                reader.replace_input_with(node, graph.graph.node_copy(node))


def _keep_requantizing(graph: fx.GraphModule) -> None:
    """Puts a composite between 16 and 8 bits: the converter would drop a mere requantization."""
    for node in list(graph.graph.nodes):
        source: Any = node.args[0] if is_operation(node, QUANTIZE) else None
        if source is None or not is_operation(source, DEQUANTIZE) or source.args[5] == node.args[5]:
            continue
        graph.add_submodule(f"{node.name}_kept", _Same())
        with graph.graph.inserting_before(node):
            node.replace_input_with(source, graph.graph.call_module(f"{node.name}_kept", (source,)))


def _is_island(node: fx.Node) -> bool:
    parameters = _quantized_behind(node)
    if not parameters or not node.all_input_nodes or is_operation(node, DEQUANTIZE) or _is_size(node):
        return False
    if any(user.target is operator.getitem for user in node.users) or any(map(_is_weight, node.all_input_nodes)):
        return False
    if node.target in FIXED:
        return _comes_from_integers(node.all_input_nodes[0])
    if node.target in SAME:
        return any(_is_changed(one, parameters) for one in node.all_input_nodes)
    if node.target in KERNELS:
        operands = [] if node.target is aten.embedding.default else node.all_input_nodes[:OPERANDS]
        return any(map(_is_float_constant, operands))
    return not _is_global(node)


def _is_size(node: fx.Node) -> bool:
    """Whether it gives a size of a tensor, or what Python makes of such."""
    return node.target is aten.sym_size.int or not isinstance(node.target, torch._ops.OpOverload)


def _is_weight(node: fx.Node) -> bool:
    return is_operation(node, WEIGHT_DEQUANTIZE)


def _is_float_constant(node: fx.Node) -> bool:
    """Whether it gives several values that no input changes and nothing quantized: the converter would, by itself.

    Those of a table become integers behind the rows that are read, as in the graph.
    """
    value = node.meta.get("val")
    is_exact = isinstance(value, Tensor) and (value.numel() == 1 or not value.is_floating_point())
    return not is_exact and is_fixed(node)


def _is_global(node: fx.Node) -> bool:
    """Whether it is pooling to one value, which is a mean."""
    return node.target in POOLING and math.prod(torch.tensor(node.args[1]).flatten().tolist()) == 1


def _quantized_behind(node: fx.Node) -> set[Any]:
    """The quantization parameters that a node's values get, through operations that keep them."""
    parameters: set[Any] = set()
    for user in node.users:
        if is_operation(user, QUANTIZE):
            parameters.add(user.args[1:])
        elif user.target in SAME:
            parameters |= _quantized_behind(user)
    return parameters


def _is_changed(source: fx.Node, parameters: set[Any]) -> bool:
    """Whether quantization parameters that are handed on to a source would change what it gives."""
    if is_operation(source, DEQUANTIZE):
        return parameters != {source.args[1:]}
    return source.op in ("call_function", "call_module") and len(source.users) > 1


def _comes_from_integers(source: fx.Node) -> bool:
    while source.target in SAME:
        source = source.all_input_nodes[0]
    return is_operation(source, DEQUANTIZE)


def inline_composites(model: Any) -> None:
    """Puts the operations of composites among those of a LiteRT model's first graph, in place."""
    from ai_edge_litert import schema_py_generated as schema

    graph, inlined = model.subgraphs[0], []
    instead: dict[int, int] = {}  # of what a composite gives as it has read it
    for operation in graph.operators:
        operation.inputs = [instead.get(int(one), int(one)) for one in operation.inputs]
        if model.operatorCodes[operation.opcodeIndex].builtinCode == schema.BuiltinOperator.STABLEHLO_COMPOSITE:
            inside = model.subgraphs[operation.builtinOptions2.decompositionSubgraphIndex]
            inlined += _opened(graph, operation, inside, instead)
        else:
            inlined.append(operation)
    graph.operators = inlined
    if not any(_reads_subgraph(operation) for operation in inlined):
        del model.subgraphs[1:]


def _reads_subgraph(operation: Any) -> bool:
    """Whether an operation refers to another graph of the file, such as the sum in a reduction over windows."""
    both = operation.builtinOptions, operation.builtinOptions2
    return any(name.lower().endswith("subgraphindex") for one in both if one is not None for name in vars(one))


def _opened(graph: Any, composite: Any, inside: Any, instead: dict[int, int]) -> list[Any]:
    """The operations of a composite's graph, rewired to the tensors of the surrounding graph.

    `instead` receives, for each result that none of these operations produces, the tensor to read in its place.
    """
    made = {int(one) for operation in inside.operators for one in operation.outputs}
    outside = dict(zip(inside.inputs, composite.inputs, strict=True))
    results = list(zip(inside.outputs, composite.outputs, strict=True))
    outside |= {inner: outer for inner, outer in results if int(inner) in made}
    for number, tensor in enumerate(inside.tensors):
        if number not in outside:
            graph.tensors.append(tensor)
            outside[number] = len(graph.tensors) - 1
    instead |= {int(outer): int(outside[inner]) for inner, outer in results if int(inner) not in made}
    opened = []
    for operation in inside.operators:
        moved = copy.copy(operation)
        moved.inputs, moved.outputs = (
            [outside.get(one, one) for one in side] for side in (operation.inputs, operation.outputs)
        )
        opened.append(moved)
    return opened
