"""Operations that LiteRT's int8 kernels compute otherwise than the graph: between quantized values they stay float32.

Its converter gives such an operation's input and result one set of quantization parameters, and drops those of the
graph; or its kernel has fixed ones. A composite is what the converter leaves alone; in the finished file its operations
stand among the others.
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.runtimes.lowering import DEQUANTIZE, MOVING, QUANTIZE, is_operation

aten = torch.ops.aten
ISLANDS = {
    aten.avg_pool1d.default, aten.avg_pool2d.default, aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default,
    aten.upsample_linear1d.vec, aten.upsample_linear1d.default, aten.elu.default,
}  # fmt: skip
"""Whose input and result the converter gives the same quantization parameters."""
FIXED = {aten.softmax.int, aten.log_softmax.int}
"""Whose int8 kernels have one set of quantization parameters for all results."""
COMPOSITE = "distiq.float32"


class _Island(nn.Module):
    """An operation as a composite of LiteRT's; all of its arguments but tensors are fixed."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__()
        self.operation: Any = node.target
        self.places = [place for place, one in enumerate(node.args) if isinstance(one, fx.Node)]
        self.rest, self.named = [None if isinstance(one, fx.Node) else one for one in node.args], dict(node.kwargs)

    def forward(self, *tensors: Tensor) -> Tensor:
        from litert_torch.hlfb import StableHLOCompositeBuilder

        composite = StableHLOCompositeBuilder(COMPOSITE)
        marked = composite.mark_inputs(*tensors)
        arguments = list(self.rest)
        for place, tensor in zip(self.places, marked if len(tensors) > 1 else [marked], strict=True):
            arguments[place] = tensor
        return composite.mark_outputs(self.operation(*arguments, **self.named))


def with_islands(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with each such operation as a composite, in place; as it is where its outputs are integers, too.

    Such a graph is for files of integers alone, where nothing may be float32: a value lands a step beside there.
    """
    if all(is_operation(one, DEQUANTIZE) for one in graph.graph.output_node().all_input_nodes):
        return graph
    for node in list(graph.graph.nodes):
        is_fixed = node.target in FIXED and _comes_from_integers(node.all_input_nodes[0])
        if not (node.target in ISLANDS or is_fixed) or not _goes_to_integers(node):
            continue
        name = f"{node.name}_island"
        graph.add_submodule(name, _Island(node))
        with graph.graph.inserting_before(node):
            made = graph.graph.call_module(name, tuple(one for one in node.args if isinstance(one, fx.Node)))
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _comes_from_integers(source: fx.Node) -> bool:
    while source.target in MOVING:
        source = source.all_input_nodes[0]
    return is_operation(source, DEQUANTIZE)


def _goes_to_integers(node: fx.Node) -> bool:
    return any(
        is_operation(user, QUANTIZE) or (user.target in MOVING and _goes_to_integers(user)) for user in node.users
    )


def inline_composites(model: Any) -> None:
    """Puts the operations of composites among those of a LiteRT model's first graph, in place."""
    from ai_edge_litert import schema_py_generated as schema

    graph, inlined = model.subgraphs[0], []
    for operation in graph.operators:
        if model.operatorCodes[operation.opcodeIndex].builtinCode == schema.BuiltinOperator.STABLEHLO_COMPOSITE:
            inlined += _opened(graph, operation, model.subgraphs[operation.builtinOptions2.decompositionSubgraphIndex])
        else:
            inlined.append(operation)
    graph.operators = inlined
    del model.subgraphs[1:]


def _opened(graph: Any, composite: Any, inside: Any) -> list[Any]:
    """The operations of a composite's graph, which read and give tensors of the graph that it stands in."""
    outside = dict(zip(inside.inputs, composite.inputs, strict=True))
    outside |= dict(zip(inside.outputs, composite.outputs, strict=True))
    for number, tensor in enumerate(inside.tensors):
        if number not in outside:
            graph.tensors.append(tensor)
            outside[number] = len(graph.tensors) - 1
    opened = []
    for operation in inside.operators:
        moved = copy.copy(operation)
        moved.inputs, moved.outputs = (
            [outside.get(one, one) for one in side] for side in (operation.inputs, operation.outputs)
        )
        opened.append(moved)
    return opened
