"""Schemes of quantization: what there is of them, and the rungs that lead there."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distiq.recipe.part import Part
from distiq.recipe.target import TargetName
from distiq.recipe.training import QATSettings

Mode = Literal["static", "dynamic", "weight_only", "float16"]
NARROW_BITS = 4
GROUP_SIZES = (0, 16, 32, 64, 128, 256)
INTEGER_IO_LACKS = (
    "integer_io = true needs 8-bit inputs and logits, which only static schemes have; take mode ="
    ' "static" and activation_bits = 8, or set it to false'
)


def attention_lacks(attention: bool, mode: Mode, reduce_range: bool) -> str:
    """Why products within attention cannot be quantized; empty where they can, or need not."""
    if attention and mode != "static":
        return f'attention = true, but mode = "{mode}" has no calibrated ranges of activations; set it to false'
    if attention and reduce_range:
        return (
            "attention = true multiplies activations with activations, whose integers use all 8 bits, so reduce_range ="
            " true could not promise the same predictions on other CPUs; set one of the two to false"
        )
    return ""


def impossible(mode: Mode, weight_bits: int, activation_bits: int, group_size: int, reduce_range: bool) -> str:
    """Why there is no such scheme, and the nearest that there is; empty where there is one."""
    of_integers = {"weight_bits": weight_bits != 8, "activation_bits": activation_bits != 8,
                   "group_size": bool(group_size), "reduce_range": reduce_range}  # fmt: skip
    if mode == "float16" and (names := [name for name, is_set in of_integers.items() if is_set]):
        return f'{names[0]} is of integers, and mode = "float16" has none; leave it out'
    if activation_bits != 8 and mode != "static":
        nearest = 'mode = "static"' if mode == "dynamic" else "leave activation_bits out"
        what = "8-bit activations" if mode == "dynamic" else "float32 activations"
        return f'activation_bits = {activation_bits}, but mode = "{mode}" has {what}; nearest: {nearest}'
    if group_size not in GROUP_SIZES:
        size = min(GROUP_SIZES, key=lambda size: abs(size - group_size))
        return f"group_size = {group_size}: kernels have {', '.join(map(str, GROUP_SIZES))}; nearest: {size}"
    if group_size and mode != "weight_only":
        return (
            f'group_size = {group_size}, but mode = "{mode}" multiplies integers, which share one scale in an output'
            ' channel; nearest: mode = "weight_only", or group_size = 0'
        )
    if group_size and weight_bits > NARROW_BITS:
        return (
            f"group_size = {group_size} is for weights of 4 bits and fewer; at {weight_bits} bits a scale for each"
            " output channel is fine enough; nearest: weight_bits = 4, or group_size = 0"
        )
    if reduce_range and (weight_bits < 8 or activation_bits < 8):
        narrow = f"weight_bits = {weight_bits}" if weight_bits < 8 else f"activation_bits = {activation_bits}"
        return (
            f"reduce_range = true changes nothing at {narrow}: such sums fit into 16 bits already; leave one of the two"
            " out"
        )
    if reduce_range and (mode == "weight_only" or activation_bits == 16):
        return "reduce_range = true, but this scheme multiplies in float32, where nothing saturates; set it to false"
    return ""


class QuantizeSettings(Part):
    """The rungs of the ladder, in the order in which they are tried, and quantization-aware training."""

    rungs: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="the ways to make an int8 file, in the order in which they are tried (docs/quantization.md lists"
        " them); unset: those of the mode, in the order of their cost",
    )
    mode: Mode = Field(
        "static",
        description='"static": int8 throughout, ranges from calibration; "dynamic": linear layers in int8, ranges of'
        ' each batch; "weight_only": integer weights, computed in float32; "float16": weights in half precision,'
        " computed in float32. Tables of embeddings are int8 in all but the last",
    )
    target: TargetName = Field(
        "",
        description='an accelerator whose compiler is to take the file: "ethos-u", "qnn", "coreml", "rknn"; what it'
        " lacks is refused before training, by operator",
    )
    weight_bits: Literal[2, 3, 4, 6, 7, 8] = Field(
        8, description="of every layer; 4 and fewer are stored as 4 bits and computed as 8"
    )
    activation_bits: Literal[8, 16] = Field(
        8,
        description="static: 16 is for values of wide range, computed by LiteRT, TFLM and C in integers (int16 x"
        " int8), by ONNX Runtime in float32: no faster than that",
    )
    wide_modules: tuple[str, ...] = Field(
        (),
        description="static: student modules whose activations have 16 bits, the others 8: those that `distiq diagnose`"
        " finds sensitive (LiteRT, TFLM, C99, ONNX Runtime); the rung `wide_layers` finds them by itself",
    )
    group_size: int = Field(
        0, description="weight_only, 4 bits: inputs of a linear layer that share a scale; 0: a scale for each output"
    )
    reduce_range: bool = Field(
        False,
        description="7-bit weights where sums of two products could leave 16 bits: the same predictions on x86 CPUs"
        " without VNNI",
    )
    attention: bool = Field(
        False,
        description="static: products within attention in int8, too: faster in ONNX Runtime, OpenVINO, LiteRT and"
        " ExecuTorch, slower in Inductor",
    )
    percentile: float = Field(
        99.99, gt=50, le=100, description="share of the activations kept by that rung, in percent"
    )
    float_modules: tuple[str, ...] | None = Field(
        None,
        description='student modules that stay in float32, such as ["frontend"]; unset: a front-end that int8 harms',
    )
    fall_back: bool = Field(
        True,
        description="where int8 measured slower than float32: deliver another runtime's or rung's file that is faster,"
        " else the float32 student, if the budget allows; false delivers int8 and says so",
    )
    learn_ranges: bool = Field(
        False,
        description="static, quantization-aware training: scales of activations are learned, too (LSQ); meant for"
        " narrow weights",
    )
    training: QATSettings = Field(default_factory=QATSettings)

    @model_validator(mode="after")
    def _the_scheme_can_be(self) -> Self:
        if why := impossible(self.mode, self.weight_bits, self.activation_bits, self.group_size, self.reduce_range):
            raise ValueError(why)
        if why := attention_lacks(self.attention, self.mode, self.reduce_range):
            raise ValueError(why)
        if self.learn_ranges and self.mode != "static":
            raise ValueError(
                f'learn_ranges = true, but mode = "{self.mode}" has no calibrated ranges of activations; nearest:'
                ' mode = "static", or leave learn_ranges out'
            )
        return self

    @model_validator(mode="after")
    def _rungs_differ(self) -> Self:
        if self.rungs is not None and len(set(self.rungs)) < len(self.rungs):
            raise ValueError(f"rungs = {list(self.rungs)} names a rung twice; name each once")
        if self.training.precision != "float32":
            raise ValueError(
                f'training.precision = "{self.training.precision}" cannot hold 8-bit integers and their scales exactly;'
                ' take "float32"'
            )
        return self
