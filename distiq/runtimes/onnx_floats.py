"""Converts an ONNX graph with float16, bfloat16 or float64 weights to float32, so that its layers can be quantized.

On a CPU ONNX Runtime computes most operations of float16 in float32 anyway, with casts around each.
"""

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.models.onnx_file import every_node, subgraphs_of

OTHERS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
LEAST = 64  # values of a constant that is a weight: smaller ones are factors, or say how sizes are worked out
TYPE_ATTRIBUTES = {"to", "dtype", "output_datatype"}


def with_floats(model: ModelProto) -> None:
    """Makes such weights float32, in place, and all that is computed with them; inputs and outputs keep their types."""
    held = {tensor.data_type for tensor in _tensors(model.graph) if _size(tensor) >= LEAST}
    kinds = held & OTHERS
    if not kinds:
        return
    for tensor in _tensors(model.graph):
        if tensor.data_type in kinds:
            values, name = numpy_helper.to_array(tensor), tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype("float32"), name))
    for node in every_node(model.graph):
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        if graph is not model.graph:
            for value in (*graph.input, *graph.output):
                if value.type.tensor_type.elem_type in kinds:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
    _keep_types(model.graph, kinds)


def _keep_types(graph: GraphProto, kinds: set[int]) -> None:
    """Casts behind the inputs and in front of the outputs that have one of these types."""
    before, behind, renamed = list[NodeProto](), list[NodeProto](), dict[str, str]()
    for value in graph.input:
        if value.type.tensor_type.elem_type in kinds:
            renamed[value.name] = f"{value.name}/float32"
            before.append(helper.make_node("Cast", [value.name], [renamed[value.name]], to=TensorProto.FLOAT))
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        if kind in kinds:
            renamed.setdefault(value.name, f"{value.name}/float32")
            behind.append(helper.make_node("Cast", [renamed[value.name]], [value.name], to=kind))
    for node in every_node(graph):
        for values in (node.input, node.output):
            values[:] = [renamed.get(name, name) for name in values]
    for inner in _graphs(graph):
        for value in inner.output if inner is not graph else ():
            value.name = renamed.get(value.name, value.name)
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs_of(node):
            yield from _graphs(inner)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for one in _graphs(graph):
        yield from one.initializer
        for node in one.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _size(tensor: TensorProto) -> int:
    size = 1
    for length in tensor.dims:
        size *= length
    return size
