"""quantize(): post-training quantization of a float network."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from distiq.errors import UserError
from distiq.models.signature import NAMES, Tensors, batch_size, by_name, each, in_order, tensors_of
from distiq.models.weights import in_float32
from distiq.numerics import symmetric_bounds
from distiq.progress import Silent, Watch
from distiq.quantization.equalize import equalize_layers, migrate_outliers
from distiq.quantization.fake_quantize import ActivationFakeQuantize, PerChannelWeightFakeQuantize, only_enabled
from distiq.quantization.graph import bias_fake_quantizers, convert, export_graph, parameter_of, prepare
from distiq.quantization.half import halve
from distiq.quantization.integers import run_in_integers
from distiq.quantization.reconstruction import reconstruct
from distiq.quantization.rounding import correct_biases, round_weights
from distiq.quantization.scheme import Scheme
from distiq.quantization.streaming import KEPT_BYTES, MOST_SAMPLES, chunks_of, few
from distiq.quantization.weights import layer_of

CHUNK = 256


class QuantizedModel(nn.Module):
    """A network with quantized weights and activations, simulated in float32.

    It runs like any module and can be trained (with straight-through gradients). `reference()` is the
    PT2E graph with integer weights, which the runtimes' files are lowered from; both give the same numbers.
    """

    def __init__(self, prepared: fx.GraphModule, scheme: Scheme) -> None:
        super().__init__()
        if scheme.attention and not has_quantized_products(prepared):
            scheme = replace(scheme, attention=False)  # the network has none, so no record should mention it
        self.prepared, self.scheme = prepared, scheme
        self.rounding_samples: int | None = None  # used to round weights or biases, where memory allowed no more
        for parameter in prepared.parameters():
            # Folding batch norm creates biases without gradients, and leaves the norm's parameters behind, unused.
            parameter.requires_grad_(parameter.is_floating_point())

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The network's outputs: a Tensor, or a dict of several by name. Inputs are given by position or by name."""
        input_names, output_names = self.prepared.meta[NAMES]
        if named:
            inputs += tuple(in_order(named, input_names[len(inputs) :], "the quantized network"))
        outputs = self.prepared(*inputs)
        return outputs if isinstance(outputs, Tensor) else by_name(outputs, output_names)

    @torch.no_grad()
    def in_integers(self, inputs: Tensors) -> Any:
        """As `forward`, of one input or of several by name; layers of a static scheme add up integers, as kernels do.

        That differs where a value lies in the middle between two steps: see `integers`.
        """
        input_names, output_names = self.prepared.meta[NAMES]
        ordered = [inputs] if isinstance(inputs, Tensor) else in_order(inputs, input_names, "the quantized network")
        is_static = self.scheme.mode == "static"
        outputs = run_in_integers(self.prepared, *ordered) if is_static else self.prepared(*ordered)
        return outputs if isinstance(outputs, Tensor) else by_name(outputs, output_names)

    def train(self, mode: bool = True) -> "QuantizedModel":
        """Sets the flag alone: batch norm is folded and dropout gone, so the graph is the same in both modes."""
        self.training = mode
        return self

    def reduced_layers(self) -> tuple[str, ...]:
        """Module paths of the layers whose weights have fewer bits so that a sum of two products fits into 16 bits."""
        layers = [
            (layer_of(node.all_input_nodes[0]), self.prepared.get_submodule(str(node.target)))
            for node in self.prepared.graph.nodes
            if node.op == "call_module"
        ]
        return tuple(
            layer
            for layer, module in layers
            if isinstance(module, PerChannelWeightFakeQuantize)
            and module.quant_max < symmetric_bounds(self.scheme.bits_of(layer))[1]
        )

    def reference(self) -> fx.GraphModule:
        """The converted graph; this model is not changed."""
        with torch.no_grad():
            return convert(self.prepared)


def quantize(
    model: nn.Module,
    calibration: Tensors,
    scheme: Scheme | None = None,
    *,
    seed: int = 0,
    watch: Watch | None = None,
) -> QuantizedModel:
    """Post-training quantization of a copy of the model.

    Args:
        model: any number of inputs and outputs, batch first.
        calibration: normalized unlabelled inputs (N, ...), as the network sees them, or a dict by name if it has
            several; a few hundred samples are enough. Schemes that are not static use only their shape, unless the
            rounding of weights needs the samples.
        scheme: int8 with closed-form rounding, the first rung of the ladder, unless given.
        seed: for learned rounding; nothing else uses random numbers. The `watch` sees the steps of the learning.

    Raises:
        UserError: the calibration set is empty or not finite, a weight is not, or the model cannot be traced.
    """
    count = batch_size(calibration)
    if count == 0:
        raise UserError("the calibration set is empty: shapes, and ranges of activations, are read from it")
    for part in tensors_of(calibration):
        if not all(torch.isfinite(chunk).all() for chunk in part.split(CHUNK)):  # as a whole it would be copied
            raise UserError("the calibration set holds NaN or infinite values; remove those samples")
    scheme, model = scheme or Scheme(rounding="gptq"), in_float32(model, type(model).__name__, watch)
    example = each(lambda one: one[:2] if count > 1 else one.repeat(2, *[1] * (one.ndim - 1)), calibration)
    quantized = QuantizedModel(prepare(export_graph(model, example), scheme), scheme)
    if scheme.mode == "float16":
        return _halved(quantized, calibration, watch or Silent())
    if scheme.equalize:
        migrate_outliers(quantized.prepared, calibration)
        equalize_layers(quantized.prepared, calibration)
    if scheme.mode == "static":
        calibrate(quantized, calibration)
    read = most = min(count, MOST_SAMPLES)
    if scheme.rounding == "gptq":
        read = round_weights(quantized.prepared, calibration)
    elif scheme.rounding in ("adaround", "brecq"):
        reconstruct(quantized.prepared, few(calibration, MOST_SAMPLES), scheme, seed, watch)
    elif scheme.correct_biases:
        read = correct_biases(quantized.prepared, calibration)
    if read < most:
        quantized.rounding_samples = read
        (watch or Silent()).note(
            f"weights and biases are rounded by {read} of {count} calibration samples: between two layers the values of"
            f" more take over {KEPT_BYTES >> 20} MB"
        )
    return quantized


def _halved(quantized: QuantizedModel, calibration: Tensors, watch: Watch) -> QuantizedModel:
    """Rounds the weights to float16 and tells which layers its range does not hold."""
    own = quantized.scheme.float_modules
    if beyond := halve(quantized.prepared, calibration, own):
        watch.note(f"stay in float32, since float16's range does not hold their values: {', '.join(beyond)}")
    quantized.scheme = replace(quantized.scheme, float_modules=(*own, *beyond))
    return quantized


def has_quantized_products(prepared: fx.GraphModule) -> bool:
    """Whether two quantized activations are multiplied as matrices anywhere."""
    for_qat = {name for name, module in prepared.named_modules() if isinstance(module, ActivationFakeQuantize)}
    products = [node for node in prepared.graph.nodes if node.target is torch.ops.aten.matmul.default]
    return any(all(str(factor.target) in for_qat for factor in node.args) for node in products)


@torch.no_grad()
def calibrate(quantized: QuantizedModel, calibration: Tensors) -> None:
    """Observes the float network's values for the samples, then sets scales and zero points from them."""
    observers = {module for module in quantized.modules() if not isinstance(module, PerChannelWeightFakeQuantize)}
    with only_enabled(quantized, observers):
        for chunk in chunks_of(quantized.prepared, calibration):
            quantized.prepared(*chunk)
    for fake_quantize in activation_fake_quantizers(quantized):
        fake_quantize.freeze()
    for node, bias_fake_quantize in bias_fake_quantizers(quantized.prepared):
        bias_fake_quantize.freeze(parameter_of(quantized.prepared, node))


def activation_fake_quantizers(quantized: QuantizedModel) -> list[ActivationFakeQuantize]:
    return [module for module in quantized.modules() if isinstance(module, ActivationFakeQuantize)]


def restore(model: nn.Module, example: Tensors, scheme: Scheme, state: dict[str, Tensor]) -> QuantizedModel:
    """The quantized model whose `state_dict()` was saved, from the graph of the float model and the saved values."""
    quantized = QuantizedModel(prepare(export_graph(model, example), scheme), scheme)
    with torch.no_grad():
        for fake_quantize in activation_fake_quantizers(quantized):
            fake_quantize.mode = "simulate"
        for name, module in quantized.named_modules():
            if isinstance(module, PerChannelWeightFakeQuantize) and f"{name}.scale" in state:
                module.fix(state[f"{name}.scale"])
        quantized.load_state_dict(state)
    return quantized
