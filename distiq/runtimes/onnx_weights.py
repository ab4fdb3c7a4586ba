"""Passes over the stored weights of an ONNX file: layout, look-ups, narrow types, products that read them."""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distiq.runtimes.onnx_graph import DQ, DYNAMIC_Q, consumers_of, drop_dead_ends, initializers, raise_opset, value_of

SMALLEST_PACKED = 128  # weights: fewer are not worth a node
CONTRIB = "com.microsoft"
FLOAT32_PRODUCTS = 1  # accuracy_level of MatMulNBits; left out, ONNX Runtime may quantize its input to int8


def transpose_stored_weights(graph: GraphProto) -> None:
    """Integer weights that are transposed when the file runs are stored so: kernels fuse with a DQ at the product."""
    constants = initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        source = producers.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or source.op_type != DQ or source.input[0] not in constants:
            continue
        weight = numpy_helper.to_array(constants[source.input[0]])
        order = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
        axis = next((attribute.i for attribute in source.attribute if attribute.name == "axis"), 1)
        name = f"{source.input[0]}_transposed"
        if name not in constants:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.transpose(order)), name))
            constants[name] = graph.initializer[-1]
        turned = helper.make_node(DQ, [name, *source.input[1:]], list(node.output), axis=order.index(axis))
        graph.node.insert(list(graph.node).index(node), turned)
        graph.node.remove(node)


def look_up_integers(graph: GraphProto) -> None:
    """Gathers the integer rows of an embedding table before scaling; else each run would dequantize the whole table."""
    constants = initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    axis = "embedding_last_axis"
    for number, node in enumerate(list(graph.node)):
        source = producers.get(node.input[0]) if node.op_type == "Gather" else None
        if source is None or source.op_type != DQ or source.input[0] not in constants:
            continue
        table, scales = source.input[:2]
        zero_points = value_of(constants, source.input[2]) if len(source.input) > 2 else None
        assert zero_points is None or not zero_points.any(), "tables are symmetric"
        if axis not in constants:
            graph.initializer.append(numpy_helper.from_array(np.array([-1]), axis))
            constants[axis] = graph.initializer[-1]
        rows, floats, steps, column = (f"embedding_{number}_{part}" for part in ("rows", "floats", "steps", "column"))
        position = list(graph.node).index(node)
        replacement = [
            helper.make_node("Gather", [table, node.input[1]], [rows], axis=0),
            helper.make_node("Cast", [rows], [floats], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scales, node.input[1]], [steps], axis=0),
            helper.make_node("Unsqueeze", [steps, axis], [column]),
            helper.make_node("Mul", [floats, column], list(node.output)),
        ]
        for offset, made in enumerate(replacement):
            graph.node.insert(position + offset, made)
        graph.node.remove(node)


def sum_integer_rows(graph: GraphProto) -> None:
    """The sum of an embedding's rows over the tokens, each times its scale, becomes a product with the scales.

    Rows are then read as integers, cast, and summed in one pass, where Mul and ReduceSum would write them twice more.
    """
    constants, consumers = initializers(graph), consumers_of(graph)
    producers = {name: node for node in graph.node for name in node.output}
    outputs = {output.name for output in graph.output}
    for node in list(graph.node):
        scaled = producers.get(node.input[0]) if node.op_type == "ReduceSum" and len(node.input) == 2 else None
        if scaled is None or scaled.op_type != "Mul" or scaled.output[0] in outputs:
            continue
        rows, column = (producers.get(name) for name in scaled.input)
        if rows is None or rows.op_type != "Cast" or column is None or column.op_type != "Unsqueeze":
            continue
        integers, scales = (producers.get(one.input[0]) for one in (rows, column))
        if any(one is None or one.op_type != "Gather" or one.input[0] not in constants for one in (integers, scales)):
            continue
        assert integers is not None
        assert scales is not None
        if integers.input[1] != scales.input[1] or len(constants[scales.input[0]].dims) != 1:
            continue  # no table and the scales of its rows
        axes, keeps = value_of(constants, node.input[1]), next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        rank = _rank(graph, scales.input[1])
        is_over_tokens = axes is not None and rank is not None and [one % (rank + 1) for one in axes] == [rank - 1]
        if not is_over_tokens or keeps or len(consumers[scaled.output[0]]) > 1:
            continue
        name, place = scaled.output[0], list(graph.node).index(node)
        second_last = f"{name}_axis"
        graph.initializer.append(numpy_helper.from_array(np.array([-2]), second_last))
        made = [
            helper.make_node("Unsqueeze", [column.input[0], second_last], [f"{name}_scales"]),
            helper.make_node("MatMul", [f"{name}_scales", rows.output[0]], [f"{name}_sum"], node.name),
            helper.make_node("Squeeze", [f"{name}_sum", second_last], list(node.output)),
        ]
        for offset, one in enumerate(made):
            graph.node.insert(place + offset, one)
        graph.node.remove(node)
    drop_dead_ends(graph)


def _rank(graph: GraphProto, name: str) -> int | None:
    """The number of dimensions of a value, where the graph says it, or what it is a cast or reshaped form of does."""
    for value in (*graph.input, *graph.value_info):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    constants = initializers(graph)
    producers = {output: node for node in graph.node for output in node.output}
    made = producers.get(name)
    if made is not None and made.op_type == "Cast":
        return _rank(graph, made.input[0])
    shape = producers.get(made.input[1]) if made is not None and made.op_type == "Reshape" else None
    if shape is None or shape.op_type != "Concat":
        return None
    sizes = [producers.get(part) for part in shape.input if part not in constants]
    is_known = all(node is not None and _has_one_value(node) for node in sizes)
    return (
        len(shape.input)
        if is_known and all(constants[one].dims == [1] for one in shape.input if one in constants)
        else None
    )


def _has_one_value(node: NodeProto) -> bool:
    """Whether it gives the size of a single dimension."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "Shape" and ends.get("end", 0) - ends.get("start", 0) == 1


def pack_narrow_weights(proto: ModelProto) -> None:
    """Integer weights between -8 and 7 are stored as INT4, two in a byte, and cast to int8.

    ONNX Runtime folds the cast when it loads the file, so it computes with its int8 kernels as before.
    """
    graph = proto.graph
    constants = initializers(graph)
    readers = [node for node in graph.node if node.op_type in (DQ, "Cast", "MatMulInteger")]
    weights = {name for node in readers for name in node.input[:2] if name in constants}
    for name in sorted(weights):
        values = value_of(constants, name)
        if values is None or values.dtype != np.int8 or values.size < SMALLEST_PACKED:
            continue
        if values.min() < -8 or values.max() > 7:
            continue
        nibbles = np.append(values.ravel(), np.zeros(values.size % 2, np.int8)).astype(np.uint8) & 15
        packed = nibbles[0::2] | nibbles[1::2] << 4
        tensor = TensorProto(
            name=f"{name}_i4", data_type=TensorProto.INT4, dims=values.shape, raw_data=packed.tobytes()
        )
        graph.initializer.append(tensor)
        graph.node.insert(0, helper.make_node("Cast", [tensor.name], [f"{name}_i8"], to=TensorProto.INT8))
        for node in readers:
            node.input[:] = [f"{name}_i8" if one == name else one for one in node.input]
        raise_opset(proto)


def multiply_groups(proto: ModelProto) -> None:
    """Turns products with 4-bit weights and a scale per group of inputs into MatMulNBits, which unpacks on the fly.

    The weights stand as DQ -> Reshape to (O, I) -> Transpose, or a Gemm that transposes.
    """
    graph = proto.graph
    constants = initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        source = producers.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if source is not None and source.op_type == "Transpose":
            source = producers.get(source.input[0])
        pair = producers.get(source.input[0]) if source is not None and source.op_type == "Reshape" else None
        if source is None or pair is None or pair.op_type != DQ or pair.input[0] not in constants:
            continue
        integers, shape = value_of(constants, pair.input[0]), value_of(constants, source.input[1])
        assert integers is not None
        assert shape is not None
        size, (outputs, inputs) = integers.shape[1], shape.tolist()
        nibbles = (integers + 8).astype(np.uint8).reshape(outputs, inputs // size, size)
        name = f"{pair.input[0]}_groups"
        if name not in constants:
            graph.initializer.append(numpy_helper.from_array(nibbles[..., 0::2] | nibbles[..., 1::2] << 4, name))
            constants[name] = graph.initializer[-1]
        bias = node.input[2:3] if node.op_type == "Gemm" else []
        product = helper.make_node(
            "MatMulNBits",
            [node.input[0], name, pair.input[1], *(["", "", *bias] if bias else [])],
            list(node.output),
            name=node.name,
            domain=CONTRIB,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=size,
            accuracy_level=FLOAT32_PRODUCTS,
        )
        graph.node.insert(list(graph.node).index(node), product)
        graph.node.remove(node)
        if all(entry.domain != CONTRIB for entry in proto.opset_import):
            proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    drop_dead_ends(graph)


def multiply_dynamically_quantized(graph: GraphProto) -> None:
    """A product of a dynamically quantized batch and integer weights becomes MatMulInteger and what scales its result.

    ONNX Runtime fuses these, the quantization and the bias into one kernel; in QDQ form only where there is no bias.
    """
    constants = initializers(graph)
    producers = {name: node for node in graph.node for name in node.output}
    for number, node in enumerate(list(graph.node)):
        pairs = [producers.get(name) for name in node.input[:2]] if node.op_type in ("MatMul", "Gemm") else []
        if len(pairs) < 2 or any(pair is None or pair.op_type != DQ for pair in pairs):
            continue
        values, weights = pairs
        assert values is not None
        assert weights is not None
        made = producers.get(values.input[0])
        if made is None or made.op_type != DYNAMIC_Q:
            continue
        weight, (batch, step, zero_point) = weights.input[0], made.output
        if node.op_type == "Gemm":  # torch's transposes its weights
            integers = value_of(constants, weight)
            assert integers is not None
            weight = f"{weight}_turned"
            if weight not in constants:
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(integers.T), weight))
                constants[weight] = graph.initializer[-1]
        sums, floats, scale, product = (f"dynamic_{number}_{part}" for part in ("sums", "floats", "scale", "product"))
        bias = node.input[2] if len(node.input) > 2 else ""
        replacement = [
            helper.make_node("MatMulInteger", [batch, weight, zero_point], [sums]),
            helper.make_node("Cast", [sums], [floats], to=TensorProto.FLOAT),
            helper.make_node("Mul", [step, weights.input[1]], [scale]),
            helper.make_node("Mul", [floats, scale], [product] if bias else list(node.output)),
            *([helper.make_node("Add", [product, bias], list(node.output))] if bias else []),
        ]
        position = list(graph.node).index(node)
        for offset, one in enumerate(replacement):
            graph.node.insert(position + offset, one)
        graph.node.remove(node)
    drop_dead_ends(graph)


def dequantize_when_loaded(graph: GraphProto, readers: set[str] | None) -> None:
    """Integer weights of float32 layers become float32 by Cast and Mul, which ONNX Runtime folds when it loads a file.

    A DQ would be computed at each run, or be fused to a product whose input would be quantized to int8, too.

    Args:
        readers: operations whose weights are meant; None for all.
    """
    constants, consumers = initializers(graph), consumers_of(graph)
    for node in list(graph.node):
        if node.op_type != DQ or node.input[0] not in constants:
            continue
        if readers is not None and not {user.op_type for user in consumers.get(node.output[0], [])} <= readers:
            continue
        scale = value_of(constants, node.input[1])
        assert scale is not None
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        shape = [1] * len(constants[node.input[0]].dims)
        shape[axis] = scale.size
        floats, shaped = f"{node.output[0]}_floats", f"{node.output[0]}_scale"
        graph.initializer.append(numpy_helper.from_array(scale.reshape(shape), shaped))
        position = list(graph.node).index(node)
        graph.node.insert(position, helper.make_node("Cast", [node.input[0]], [floats], to=TensorProto.FLOAT))
        graph.node.insert(position + 1, helper.make_node("Mul", [floats, shaped], list(node.output)))
        graph.node.remove(node)
