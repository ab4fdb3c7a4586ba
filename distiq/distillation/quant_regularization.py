"""Terms that make the float student easy to quantize while it is distilled: kurtosis, range, balance, noise.

The error of b bits grows with the square of the range over the spread of the values. So weights should
be spread evenly over their ranges, activations should have no far outliers, the channels of a depthwise layer should
have similar ranges, and the network should tolerate weights that are off by half a step. None of this depends on the
quantization scheme.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from distiq.distillation.hooks import feature_hooks
from distiq.errors import UserError
from distiq.numerics import SMALLEST_SCALE, symmetric_scale
from distiq.recipe.distil import QuantRegularizationSettings
from distiq.tasks.precision import full_precision
from distiq.training.fit import Losses

UNIFORM_KURTOSIS = 1.8
SIGMAS = 4.0
"""So far from its mean a value may lie: the largest of ten thousand normal ones does."""


@full_precision
def kurtosis_loss(weight: Tensor) -> Tensor:
    """(kurtosis - 1.8)^2 of a layer's weights (outputs, ...), each over the largest of its output channel.

    Shkolnik et al. 2020, "Robust quantization: one model to rule them all" (arXiv:2002.07686); 1.8 is
    the kurtosis of the uniform distribution. The paper's ranges span a layer, here an output channel: hence the
    division, without which a network could satisfy the term with scales that batch norm undoes.
    """
    rows = weight.flatten(1)
    values = rows / rows.abs().amax(1, keepdim=True).clamp_min(SMALLEST_SCALE)
    centred = values - values.mean()
    variance = centred.square().mean().clamp_min(SMALLEST_SCALE)
    return (centred.pow(4).mean() / variance.square() - UNIFORM_KURTOSIS).square()


@full_precision
def range_loss(activations: Tensor) -> Tensor:
    """How far each sample's farthest activation lies beyond four standard deviations, squared; mean over (B, ...).

    The margin form of Kundu et al. 2023, "R2 loss: range restriction loss for model compression and quantization"
    (arXiv:2303.08253), on activations in place of weights, and with a margin proportional to their spread: a network
    cannot satisfy it by scaling a layer down and the next one up.
    """
    centred = activations - activations.mean()
    spread = centred.square().mean().clamp_min(SMALLEST_SCALE**2).sqrt()
    return torch.relu(centred.abs().flatten(1).amax(1) / spread - SIGMAS).square().mean()


@full_precision
def balance_loss(weight: Tensor) -> Tensor:
    """1 - the mean over the output channels of their range over the largest one, weights (outputs, ...).

    Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction" (arXiv:1906.04721),
    section 4.1: the precision of a channel in the range of its layer.
    """
    ranges = weight.flatten(1).abs().amax(1)
    return 1 - (ranges / ranges.amax().clamp_min(SMALLEST_SCALE)).mean()


def folded(weight: Tensor, norm: _BatchNorm | None) -> Tensor:
    """The weights (outputs, ...) with the batch norm behind their layer folded in, as they will be quantized.

    The variance follows the length of a channel's weights, as it does in training: scaling a channel changes nothing.
    """
    if norm is None or norm.running_var is None:
        return weight
    length = weight.flatten(1).norm(dim=1).clamp_min(SMALLEST_SCALE)
    scale = (norm.running_var + norm.eps).rsqrt() * length.detach() / length
    if norm.weight is not None:
        scale = scale * norm.weight
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def noisy(weight: Tensor, share: float, bits: int) -> Tensor:
    """A random share of the weights (outputs, ...) off by up to half the scale of their output channel.

    Uniform noise as in Defossez et al. 2021, "Differentiable model compression via pseudo quantization noise"
    (arXiv:2104.09987), on a part of the weights as in Fan et al. 2020, "Training with quantization noise
    for extreme model compression" (arXiv:2004.07320). The gradient is that of the weights.
    """
    step = symmetric_scale(weight.detach().flatten(1).abs().amax(1), bits)
    step = step.reshape(-1, *[1] * (weight.ndim - 1))
    noise = (torch.rand_like(weight) - 0.5) * step
    return weight + noise * (torch.rand_like(weight) < share)


@contextmanager
def _entering(student: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """While open, each run leaves what entered the layers of these paths; of one that runs twice, the last."""
    seen: dict[str, Tensor] = {}

    def keep(path: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[path] = inputs[0]

        return hook

    with ExitStack() as stack:
        for path in paths:
            stack.callback(student.get_submodule(path).register_forward_pre_hook(keep(path)).remove)
        yield seen


@dataclass(frozen=True)
class Friendly:
    """The terms of one student, whose layers are known by their paths.

    layers: trained convolutions and linear layers. inner: those of them that read what others gave. depthwise: those
    that filter each channel alone. norms: the batch norm behind a layer, where there is one.
    """

    settings: QuantRegularizationSettings
    layers: tuple[str, ...]
    inner: tuple[str, ...]
    depthwise: tuple[str, ...]
    norms: dict[str, str]

    def __call__(self, student: nn.Module, inputs: Tensor) -> tuple[Any, Losses]:
        """What the student returns, with noise on its weights while it trains, and the weighted terms."""
        settings = self.settings
        weights = {path: student.get_parameter(f"{path}.weight") for path in self.layers}
        with _entering(student, self.inner if settings.range else ()) as entered:
            if settings.noise and student.training:
                drawn = {f"{p}.weight": noisy(w, settings.noise, settings.noise_bits) for p, w in weights.items()}
                returned = functional_call(student, drawn, (inputs,))
            else:
                returned = student(inputs)
        named = Losses()
        if settings.kurtosis:
            named["kurtosis"] = settings.kurtosis * _mean(kurtosis_loss(weights[path]) for path in self.layers)
        if settings.range:
            named["range"] = settings.range * _mean(range_loss(values) for values in entered.values())
        if settings.balance:
            whole = (folded(weights[path], self._norm(student, path)) for path in self.depthwise)
            named["balance"] = settings.balance * _mean(balance_loss(weight) for weight in whole)
        return returned, named

    def _norm(self, student: nn.Module, path: str) -> _BatchNorm | None:
        return student.get_submodule(self.norms[path]) if path in self.norms else None  # type: ignore[return-value]


def _mean(terms: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def quant_regularization(student: nn.Module, settings: QuantRegularizationSettings, example: Tensor) -> Friendly | None:
    """The terms of this student that the settings switch on, None where they switch on none.

    Args:
        example: a few normalized inputs (N, ...), to see how values go through the student.

    Raises:
        UserError: the student has no layers that such a term applies to.
    """
    if not settings.is_on:
        return None
    modules = {
        path: layer
        for path, layer in student.named_modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and layer.weight.requires_grad
    }
    norms = [
        path
        for path, module in student.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    with (
        feature_hooks(student, [*modules]) as made,
        _entering(student, [*modules, *norms]) as entered,
        torch.enable_grad(),
    ):
        student.eval()(example)
    # What enters the first layer is data; nothing that is trained can change it.
    inner = tuple(path for path in modules if path in entered and entered[path].requires_grad)
    behind = {path: norm for path in modules for norm in norms if norm in entered and entered[norm] is made.get(path)}
    depthwise = tuple(
        path
        for path, layer in modules.items()
        if not isinstance(layer, nn.Linear) and 1 < layer.groups == layer.in_channels
    )
    terms = {
        "kurtosis": (settings.kurtosis, modules, "convolution or linear layer"),
        "noise": (settings.noise, modules, "convolution or linear layer"),
        "range": (settings.range, inner, "layer behind another one"),
        "balance": (settings.balance, depthwise, "depthwise convolution"),
    }
    for name, (weight, layers, kind) in terms.items():
        if weight and not layers:
            raise UserError(
                f"distil.quant_regularization.{name} = {weight:g}: the student has no {kind} that is trained; set it"
                " to 0"
            )
    return Friendly(settings, tuple(modules), inner, depthwise, behind)
