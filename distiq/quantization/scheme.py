"""What a quantized graph looks like: bits, granularity, and how ranges are found."""

from dataclasses import dataclass
from typing import Literal

from distiq.errors import UserError
from distiq.recipe.quantize import INTEGER_IO_LACKS, Mode, attention_lacks, impossible

REDUCED_BITS = 7  # two products of 255 * 63 fit into 16 bits, two of 255 * 127 do not
RoundingMethod = Literal["nearest", "gptq", "adaround", "brecq"]
RangeMethod = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]

LEARNED = {"adaround": "AdaRound", "brecq": "BRECQ with QDrop"}


@dataclass(frozen=True)
class Scheme:
    """An integer scheme: symmetric weights, a scale for each output channel or group; per-tensor affine activations.

    Args:
        weight_bits: 8 is what runtimes have kernels for; fewer are stored and computed as 8.
        activation_bits: 8; of a static scheme also 16, symmetric, for which LiteRT, TFLM and C have kernels, and 4, for
            which no runtime has: simulated alone, and no file is written.
        mode: where activations are quantized. "static": everywhere, from calibration. "dynamic": at the inputs of
            linear layers, computed for each batch, so that a sample's output depends slightly on the others; all
            other layers are as in "weight_only". "weight_only": nowhere; weights are stored as integers and computed
            with as float32. In these two, tables of embeddings have 8 bits. "float16": nothing is an integer; weights
            are rounded to half precision and computed with as float32; rounding and ranges mean nothing.
        group_size: weight-only, 4 bits and fewer: how many inputs of a linear layer share a scale, if its width is a
            multiple of that; 0 means one scale for each output.
        rounding: each weight to the nearest integer, or all of a layer together so that its output on the
            calibration samples changes least: in closed form ("gptq"), with the biases corrected, or learned
            ("adaround"); or all of a block together so that the block's output changes least ("brecq", with QDrop).
        iterations: steps in which "adaround" learns each layer and "brecq" each block.
        rounding_start: what the learned ones begin with: "gptq", whose scales and biases they keep, or "nearest", as
            in their papers.
        equalize: move scales between neighbouring layers, and from normalizations into the layers that read them, so
            that no channel widens the range that it shares; the float network stays the same.
        correct_biases: add to each bias the mean error of its layer's output; "gptq" does so as well.
        ranges: how a range is read from what calibration saw: the range of least mean squared error ("mse"), its
            extremes ("minmax"), the share `percentile` of it, the range of least divergence ("entropy"), or a moving
            average of the batches' extremes ("moving_average").
        float_modules: paths of modules that stay in float32, with all that is in them.
        percentile: for "percentile", the share of values that is kept, in percent.
        layer_bits: weight bits of single layers by module path, in place of `weight_bits`.
        reduce_range: at most 7 bits for the weights of every layer in which a kernel could add two products in 16 bits,
            so that x86 CPUs without VNNI give the same integers. That is every layer with two weights or more per
            output channel: the largest weight of a channel becomes +-127, and next to it even a weight of 2 is too
            much. The bound depends on the scale, not on the current weights, so it survives rounding and training.
        integer_io: static, 8 bits: the network's input and output are quantized, too, so that a file can take and give
            integers; else the last layer's result is float32.
        symmetric_activations: static: values that lie on both sides of zero have a zero point of 0, as some
            accelerators want it; others begin or end at zero.
        wide_modules: static: paths of modules whose activations, in and out, have 16 bits.
        attention: static: products of two activations, as in attention, are quantized, too: symmetrically where values
            lie on both sides of zero, as kernels want it there.
    """

    weight_bits: Literal[2, 3, 4, 6, 7, 8] = 8
    activation_bits: Literal[4, 8, 16] = 8
    ranges: RangeMethod = "mse"
    percentile: float = 99.99
    rounding: RoundingMethod = "nearest"
    iterations: int = 300
    rounding_start: Literal["nearest", "gptq"] = "gptq"
    equalize: bool = False
    correct_biases: bool = False
    layer_bits: tuple[tuple[str, int], ...] = ()
    float_modules: tuple[str, ...] = ()
    reduce_range: bool = False
    mode: Mode = "static"
    group_size: int = 0
    integer_io: bool = False
    attention: bool = False
    symmetric_activations: bool = False
    wide_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UserError where no such scheme can be."""
        if why := impossible(self.mode, self.weight_bits, self.activation_bits, self.group_size, self.reduce_range):
            raise UserError(f"Scheme: {why}")
        if self.mode != "static" and (self.equalize or self.correct_biases):
            raise UserError(
                f'Scheme: mode = "{self.mode}" quantizes no activations that scales or biases could be moved for;'
                ' nearest: rounding = "gptq"'
            )
        if self.integer_io and (self.mode != "static" or self.activation_bits != 8):
            raise UserError(f"Scheme: {INTEGER_IO_LACKS}")
        if self.wide_modules and (self.mode != "static" or self.integer_io):
            what = "integer_io = true" if self.integer_io else f'mode = "{self.mode}"'
            raise UserError(
                f"Scheme: wide_modules are for static schemes with float32 at both ends, not for {what}; nearest:"
                ' mode = "static" without integer_io'
            )
        if why := attention_lacks(self.attention, self.mode, self.reduce_range):
            raise UserError(f"Scheme: {why}")
        if self.mode != "static" and self.rounding in LEARNED:
            raise UserError(
                f'Scheme: rounding = "{self.rounding}" is for static schemes, not for mode = "{self.mode}"; nearest:'
                ' rounding = "gptq"'
            )

    @property
    def in_float(self) -> bool:
        """Whether runtimes compute in float32 (16 bits: all but LiteRT, TFLM and C), so that files are no faster."""
        return self.mode in ("weight_only", "float16") or self.activation_bits == 16

    def bits_of(self, path: str) -> int:
        """The weight bits of the layer at a module path, before its range is reduced."""
        return dict(self.layer_bits).get(path, self.weight_bits)

    @property
    def closed_form(self) -> bool:
        """Whether weights pass through the closed form, which corrects the biases."""
        return self.rounding == "gptq" or (self.rounding != "nearest" and self.rounding_start == "gptq")

    def bits_of_table(self, path: str) -> int:
        """The bits of the table of embeddings at a module path."""
        return self.bits_of(path) if self.mode == "static" else dict(self.layer_bits).get(path, 8)

    def __str__(self) -> str:
        share = f" {self.percentile:g} %" if self.ranges == "percentile" else ""
        rounding = ", closed-form rounding" if self.closed_form else ""
        if self.rounding in ("adaround", "brecq"):
            rounding += f", {LEARNED[self.rounding]} in {self.iterations} steps"
        equalized = ", equalized" if self.equalize else ""
        corrected = ", biases corrected" if self.correct_biases and not self.closed_form else ""
        kept = f", {' and '.join(self.float_modules)} in float32" if self.float_modules else ""
        bits = "/".join(str(bits) for bits in sorted({self.weight_bits, *dict(self.layer_bits).values()}))
        reduced = ", reduced range" if self.reduce_range else ""
        grouped = f" in groups of {self.group_size}" if self.group_size else ""
        able = " but in LiteRT, TFLM and C" if self.activation_bits == 16 else ""
        plain = f", computed in float32{able}: no speed is claimed" if self.in_float else ""
        plain += ", simulated alone" if self.activation_bits == 4 else ""
        logits = ", int8 logits" if self.integer_io else ""
        widened = f", {' and '.join(self.wide_modules)} with 16-bit activations" if self.wide_modules else ""
        symmetric = ", symmetric activations" if self.symmetric_activations else ""
        products = ", attention in int8" if self.attention and self.activation_bits == 8 else ""
        cures = f"{symmetric}{widened}{products}{equalized}{corrected}{rounding}{reduced}{logits}{kept}{plain}"
        match self.mode:
            case "static":
                return f"static W{bits}A{self.activation_bits}, {self.ranges}{share}{cures}"
            case "dynamic":
                return f"dynamic W{bits}A8 linear layers, int8 tables{cures}"
            case "float16":
                return f"float16 weights{kept}{plain}"
            case "weight_only":
                return f"weight-only W{bits}{grouped}, int8 tables{cures}"
