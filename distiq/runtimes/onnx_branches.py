"""The branches of `If` as graphs like any other: their values have names of their own, and can be seen from outside."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.runtimes.onnx_graph import initializers

OUTSIDE = "outside"
SHARED_FROM = 256  # values of a constant: of a smaller one the name is as long


def branches_of(graph: GraphProto) -> Iterator[tuple[NodeProto, str, GraphProto]]:
    """Each branch with its `If` and the name of its attribute."""
    for node in graph.node:
        if node.op_type == "If":
            for attribute in node.attribute:
                yield node, attribute.name, attribute.g


def every_graph(graph: GraphProto) -> Iterator[GraphProto]:
    """The branches within a graph, the innermost first, then the graph itself."""
    for _, _, branch in branches_of(graph):
        yield from every_graph(branch)
    yield graph


def name_branches(graph: GraphProto, constants: Collection[str] = ()) -> None:
    """Gives the values that branches produce unique names; values from outside are read through an Identity.

    Args:
        constants: names of the constants of the enclosing graphs.
    """
    constants = {*constants, *initializers(graph)}
    for node, side, branch in branches_of(graph):
        prefix = f"{node.name}/{side}"
        made = {name for inner in branch.node for name in inner.output if name} | set(initializers(branch))
        read = {name for inner in branch.node for name in inner.input if name} | {one.name for one in branch.output}
        captured = sorted(read - made - constants)
        _rename(branch, {name: f"{prefix}/{name}" for name in (*made, *captured)})
        for place, name in enumerate(captured):
            branch.node.insert(place, helper.make_node("Identity", [name], [f"{prefix}/{name}"], f"{prefix}/{name}"))
        for number, inner in enumerate(branch.node):
            inner.name = f"{prefix}/{number}/{inner.name or inner.op_type}"
        name_branches(branch, constants)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for output in graph.output:
        output.name = names.get(output.name, output.name)
    del graph.value_info[:]
    for node in graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                _rename(inner, names)


def share_constants(graph: GraphProto) -> None:
    """Stores large constants that several branches hold only once, under unique names in the graph around them."""
    branches = [branch for branch in every_graph(graph) if branch is not graph]
    held = {_content(tensor): tensor.name for tensor in graph.initializer if _is_large(tensor)}
    often = Counter(_content(tensor) for branch in branches for tensor in branch.initializer if _is_large(tensor))
    for branch in branches:
        for tensor in [one for one in branch.initializer if _is_large(one)]:
            content = _content(tensor)
            if content not in held and often[content] > 1:
                held[content] = tensor.name
                graph.initializer.append(tensor)
            if content in held:
                branch.initializer.remove(tensor)
                _rename(branch, {tensor.name: held[content]})


def _is_large(tensor: TensorProto) -> bool:
    return bool(np.prod(tensor.dims) >= SHARED_FROM)


def _content(tensor: TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    return tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()


def exposed(graph: GraphProto, needed: Collection[str]) -> dict[str, str]:
    """Lets the branches of a graph give some of their float32 values to it, in place.

    A branch that does not produce a value returns an empty tensor in its place.

    Returns:
        what the values are called in the graph, by their names in the branch.
    """
    names = {name: name for node in graph.node for name in node.output if name in needed}
    for node in [node for node in graph.node if node.op_type == "If"]:
        branches = [(attribute.g, exposed(attribute.g, needed)) for attribute in node.attribute]
        for name in dict.fromkeys(one for _, inside in branches for one in inside):
            for branch, inside in branches:
                result = inside[name] if name in inside else _empty(branch, name)
                branch.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
            names[name] = f"{name}/{OUTSIDE}"
            node.output.append(names[name])
    return names


def _empty(branch: GraphProto, name: str) -> str:
    value = numpy_helper.from_array(np.zeros(0, np.float32))
    result = f"{branch.name}/{name}/none"
    branch.node.append(helper.make_node("Constant", [], [result], result, value=value))
    return result
