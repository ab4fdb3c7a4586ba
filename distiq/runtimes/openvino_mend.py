"""Rewrites an OpenVINO graph so that kernels compute it correctly: in place, and without a change of any value."""

from typing import Any

import numpy as np

from distiq.numerics import HALVED_FROM

VECTORS = 2  # axes of a batch of vectors
VERGE = 0.01  # of the step of integer sums
LEVELS = 2**16  # a limit that many steps away has no effect
AFFINE = {"Add", "Multiply", "Subtract"}
MOVES = {"MaxPool", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"}


def round_before_sums(model: Any) -> None:
    """Rounds what a convolution adds to a sum to multiples of its scale, in front of its FakeQuantize.

    OpenVINO computes convolution, FakeQuantize, sum and FakeQuantize in one kernel and skips the first rounding, so one
    sum in five is off by a step. An explicit rounding is kept, in the same kernel.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        readers = list(node.output(0).get_target_inputs()) if node.get_type_name() == "FakeQuantize" else []
        if len(readers) != 1 or readers[0].get_node().get_type_name() != "Add" or not _is_of_convolution(node):
            continue
        step: Any = _step_of(node)
        steps = opset13.multiply(node.input_value(0), np.float32(1 / step))
        rounded = opset13.multiply(opset13.round(steps, "half_to_even"), np.float32(step))
        node.input(0).replace_source_output(rounded.output(0))


def keep_reduced_axes(model: Any) -> None:
    """Puts a Squeeze behind every maximum and minimum over axes that does not keep them.

    OpenVINO 2026.4 gives wrong values where such a reduction and the FakeQuantize behind it become one kernel.
    """
    from openvino import opset13

    makers = {"ReduceMax": opset13.reduce_max, "ReduceMin": opset13.reduce_min}
    for node in model.get_ordered_ops():
        if (make := makers.get(node.get_type_name())) and not node.get_attributes()["keep_dims"]:
            values, axes = node.input_values()
            kept = make(values, axes, keep_dims=True)
            kept.set_friendly_name(node.get_friendly_name())
            squeezed = opset13.squeeze(kept, axes).output(0)
            for reader in node.output(0).get_target_inputs():
                if reader.get_node().get_type_name() != "Result":  # the network's output keeps its name
                    reader.replace_source_output(squeezed)


def round_limits(model: Any) -> None:
    """Brings the limits of a Clamp to multiples of the scale behind it, which changes nothing that FakeQuantize gives.

    Where the values in front of it are quantized alike, OpenVINO leaves that FakeQuantize out, and limits as they were
    would stay unrounded.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        readers = list(node.output(0).get_target_inputs()) if node.get_type_name() == "Clamp" else []
        steps = {_step_of(reader.get_node()) for reader in readers}
        if len(steps) != 1 or (step := steps.pop()) is None:
            continue
        given = node.get_attributes()
        low, high = (float(given[end]) for end in ("min", "max"))
        low, high = (round(limit / step) * step if abs(limit / step) < LEVELS else limit for limit in (low, high))
        clamped = opset13.clamp(node.input_value(0), low, high)
        clamped.set_friendly_name(node.get_friendly_name())
        for reader in readers:
            reader.replace_source_output(clamped.output(0))


def pad_before_averages(model: Any) -> None:
    """Keeps the zeros around a map apart from its average pooling, by an operation between the two.

    OpenVINO 2026.4 pads integers with 0 instead of their zero point when it averages them, and it merges padding and
    pooling into one operation if nothing is between them.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "AvgPool":
            continue
        given, value = node.get_attributes(), node.input_value(0)
        before, after = (list(map(int, given[side])) for side in ("pads_begin", "pads_end"))
        is_padded = value.get_node().get_type_name() == "Pad"
        counts = any(before + after) and not given["exclude-pad"]
        quantized = _quantized_behind(value.get_node().input_value(0).get_node() if is_padded else value.get_node())
        if not is_padded and (not counts or quantized is None):
            continue
        if counts:
            value = opset13.pad(value, [0, 0, *before], [0, 0, *after], "constant", np.float32(0)).output(0)
            before, after = [0] * len(before), [0] * len(after)
        if quantized is None:
            apart = opset13.maximum(value, np.float32(np.finfo(np.float32).min))
        else:
            apart = opset13.fake_quantize(value, *quantized.input_values()[1:], quantized.get_attributes()["levels"])
        rounding = "floor" if given["rounding_type"] == "floor" else "ceil"
        alone = bool(given["exclude-pad"]) or counts
        pooled = opset13.avg_pool(apart, given["strides"], before, after, given["kernel"], alone, rounding)
        pooled.set_friendly_name(node.get_friendly_name())
        pooled.output(0).set_names(node.output(0).get_names())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(pooled.output(0))


def _quantized_behind(node: Any) -> Any | None:
    """The FakeQuantize whose values a node gives, moved or not; None where there is none."""
    while node.get_type_name() in MOVES:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "FakeQuantize" else None


def bias_every_layer(model: Any) -> None:
    """Adds a bias to linear layers of vectors that have none: a hundredth of the step of their integer sums.

    OpenVINO 2026.4 runs consecutive layers of this kind in one kernel for small batches. Where a layer has no bias,
    that kernel mistakes its integer sums for floats. The added bias changes the rounding only of sums close to a tie.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.output(0).get_partial_shape().rank.get_length() != VECTORS:
            continue
        readers = list(node.output(0).get_target_inputs())
        step, scales = _step_of(node.input_value(0).get_node()), _scales_of(node.input_value(1).get_node())
        if (
            step is None
            or scales is None
            or any(one.get_node().get_type_name() in ("Add", "Result") for one in readers)
        ):
            continue
        biased = opset13.add(node, np.float32(VERGE * step) * scales.reshape(1, -1).astype(np.float32)).output(0)
        for reader in readers:
            reader.replace_source_output(biased)


def part_scales(model: Any) -> None:
    """Writes x as sign(x) |x| between FakeQuantizes of vectors with only constant sums and products between them.

    OpenVINO 2026.4 folds the constants into the limits of the second one; if a linear layer precedes the first, its
    kernel then gives arbitrary values for a small batch. Operations that only move values do not separate the two.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or node.output(0).get_partial_shape().rank.get_length() != VECTORS:
            continue
        reader = node.input(0)
        while reader.get_source_output().get_node().get_type_name() in AFFINE:
            operands = reader.get_source_output().get_node().inputs()
            computed = [one for one in operands if not _is_constant(one.get_source_output().get_node())]
            if len(computed) != 1:
                break
            reader = computed[0]
        source = reader.get_source_output()
        if source.get_node().get_type_name() == "FakeQuantize":
            same = opset13.multiply(opset13.sign(source), opset13.abs(source))
            reader.replace_source_output(same.output(0))


def store_halves(model: Any) -> None:
    """Stores large constants in float16, behind a Convert, if that represents all of their values exactly."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.data.dtype != np.float32 or node.data.size < HALVED_FROM:
            continue
        with np.errstate(over="ignore"):
            halves = node.data.astype(np.float16)
        if (halves.astype(np.float32) == node.data).all():
            cast = opset13.convert(opset13.constant(halves), "f32").output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(cast)


def _step_of(node: Any) -> float | None:
    """The scale of what a FakeQuantize gives."""
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high = (float(limit.get_node().data.item()) for limit in node.input_values()[3:])
    return (high - low) / (int(node.get_attributes()["levels"]) - 1)


def _scales_of(node: Any) -> np.ndarray | None:
    """The scales of integer weights behind Convert and Multiply."""
    if node.get_type_name() != "Multiply" or constant_of(node.input_value(0).get_node()) is None:
        return None
    return constant_of(node.input_value(1).get_node())


def _is_constant(node: Any) -> bool:
    """Whether a node gives what no input changes."""
    inputs = node.input_values()
    return all(_is_constant(one.get_node()) for one in inputs) if inputs else node.get_type_name() == "Constant"


def _is_of_convolution(node: Any) -> bool:
    """Whether a value is that of a convolution, with its bias and activation."""
    node = node.input_value(0).get_node()
    while node.get_type_name() in ("Add", "Clamp", "Relu"):
        node = node.input_value(0).get_node()
    return node.get_type_name() in ("Convolution", "GroupConvolution")


def constant_of(node: Any) -> np.ndarray | None:
    """The constant that a node gives as another type, or by rows that are read from it; None where there is none."""
    while node.get_type_name() in ("Convert", "Gather", "Unsqueeze", "Reshape"):
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else None
