"""Regions of a graph that quantization treats differently: feature maps, the outputs' tail, nodes among norms."""

import operator
from typing import Any

from torch import Tensor, fx

from distiq.quantization.operations import (
    ACTIVATIONS,
    FEATURE_LAYERS,
    LAYOUT,
    MOVING,
    NORMALIZATIONS,
    POINTWISE,
    POOLING,
    PRODUCTS_OF_TWO,
    SCALING,
    WEIGHTED,
    aten,
)

IN_TAIL = {
    *MOVING, *POOLING, *ACTIVATIONS, *POINTWISE, aten.cat.default, aten.stack.default, aten.softmax.int,
    aten.log_softmax.int, aten.tanh.default, aten.exp.default, aten.softplus.default, aten.split.Tensor,
    aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int, operator.getitem,
}  # fmt: skip
OF_PARTS = {*SCALING, aten.slice.Tensor, aten.select.int, operator.getitem}
"""Operations whose results are computed with when boxes are made of distances, behind the last layers."""


def is_float_tensor(value: object) -> bool:
    fake = value.meta.get("val") if isinstance(value, fx.Node) else None
    return isinstance(fake, Tensor) and fake.is_floating_point()


def constant_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """The nodes that no sample changes, in order: weights and what is computed from them alone."""
    constant: dict[fx.Node, None] = {}
    for node in graph.graph.nodes:
        if node.op not in ("placeholder", "output") and all(source in constant for source in node.all_input_nodes):
            constant[node] = None
    return list(constant)


def data_read(graph: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """The inputs of each node that depend on the samples and are floating-point."""
    constant = set(constant_nodes(graph))
    return {
        node: [source for source in node.all_input_nodes if is_float_tensor(source) and source not in constant]
        for node in graph.graph.nodes
    }


def feature_maps(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes that give feature maps, whose channels lie on axis 1: images, convolutions and what is made of them."""
    maps: set[fx.Node] = set()
    for node, data in data_read(graph).items():
        value: Any = node.meta.get("val")
        if not is_float_tensor(node) or value.ndim < 3 or node.op == "get_attr":
            continue
        is_image = node.op == "placeholder" and value.ndim >= 4
        is_made = bool(data) and all(source in maps and source.meta["val"].ndim == value.ndim for source in data)
        if is_image or node.target in FEATURE_LAYERS or (is_made and node.target not in LAYOUT):
            maps.add(node)
    return maps


def tail(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes behind the last layers: what moves, pools or scales values on their way to the network's outputs.

    A sum of two values belongs to them where both are scaled, or are parts of another value, such as the corners of a
    box: a sum of direct results of layers is computed by integer kernels.
    """
    behind: set[fx.Node] = set()
    for node, data in reversed(data_read(graph).items()):
        of_parts = len(data) == 2 and all(source.target in OF_PARTS for source in data)
        scales = node.target in SCALING and (len(data) == 1 or of_parts)
        is_behind = bool(node.users) and all(user.op == "output" or user in behind for user in node.users)
        if node.op == "call_function" and is_behind and (node.target in IN_TAIL or scales):
            behind.add(node)
    return behind


def enlarged(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes that make a larger map of a layer's result, by moves alone, and give it as an output of the network.

    A last layer may predict several pixels at each position (pixel shuffle), or its map be repeated: that is a multiple
    of what other networks give, and moving bytes takes a fraction of the time that moving floats does.
    """
    data, found = data_read(graph), set()
    for given in graph.graph.output_node().all_input_nodes:
        path, node = [], given
        while node.target in MOVING and len(data[node]) == 1 and len(node.users) == 1:
            path.append(node)
            (node,) = data[node]
        if path and node.target in WEIGHTED and _pixels(given) > _pixels(node) > 0:
            found |= set(path)
    return found


def _pixels(node: fx.Node) -> int:
    """The positions of a feature map; 0 of any other value."""
    value: Any = node.meta["val"]
    return value.shape[2] * value.shape[3] if value.ndim == 4 else 0


def among_norms(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes that compute in float32 since normalizations of rows do, as in transformers: integers would not help.

    These are the normalizations; all that reads them up to the next convolution, with the linear layers, whose results
    cost nothing in float32; what is added to such values; and in a network that has any, all that no convolution made.
    """
    data = data_read(graph)
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    able = {node for node in nodes if node.target not in FEATURE_LAYERS}
    region = {node for node in nodes if node.target in NORMALIZATIONS}
    if not region:
        return region
    made = _made_by_convolutions(graph)
    region |= able - made
    before = -1
    while len(region) != before:
        before = len(region)
        region |= {node for node in nodes if node in able and not region.isdisjoint(data[node])}
        for node in reversed(nodes):
            if node in region and len(data[node]) > 1:
                region |= able.intersection(data[node])
    return region


def _made_by_convolutions(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose data all comes from convolutions or directly from a floating-point input."""
    made: set[fx.Node] = set()
    for node, data in data_read(graph).items():
        is_input = node.op == "placeholder" and is_float_tensor(node)
        if is_input or node.target in FEATURE_LAYERS or (data and all(source in made for source in data)):
            made.add(node)
    return made


def only_multiplied(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values go into softmax and products of two activations alone, which have no use for integers."""
    multiplied: set[fx.Node] = set()
    constant = set(constant_nodes(graph))

    def has_no_use(user: fx.Node) -> bool:
        return user in multiplied or (user.target in PRODUCTS_OF_TWO and constant.isdisjoint(user.all_input_nodes))

    for node in reversed(graph.graph.nodes):
        if node.users and all(map(has_no_use, node.users)):
            multiplied.add(node)
    return multiplied
