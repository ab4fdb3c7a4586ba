"""Mixed precision: how many bits the weights of each layer take, so that limits hold and the output changes least."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from distiq.quantization.fake_quantize import (
    ActivationFakeQuantize,
    DynamicFakeQuantize,
    PerChannelWeightFakeQuantize,
)
from distiq.quantization.operations import MOVING
from distiq.quantization.weights import layer_of

FLOAT_BITS = 32
ByBits = Mapping[str, Mapping[int, float]]
"""A figure of each layer for each number of bits that it could take."""


def choose_bits(noise: ByBits, limits: Sequence[tuple[ByBits, float]]) -> dict[str, int]:
    """The bits of each layer that minimize the total noise within all limits, by integer programming.

    Dong et al. 2020, "HAWQ-V2" (arXiv:1911.03852), section 3.2, with measured noise in place of the Hessian's trace.
    If no choice satisfies all limits, each layer takes its cheapest option.

    Args:
        noise: power at the network's output with only this layer's weights quantized, to that many bits.
        limits: what each layer costs, in bytes or in bit operations, and the largest sum allowed.
    """
    choices = [(layer, bits) for layer, powers in noise.items() for bits in powers]
    power = np.array([noise[layer][bits] for layer, bits in choices])
    one_each = np.array([[float(layer == other) for other, _ in choices] for layer in noise])
    constraints = [LinearConstraint(one_each, lb=1, ub=1)]
    for costs, limit in limits:
        constraints.append(LinearConstraint(np.array([[costs[layer][bits] for layer, bits in choices]]), ub=limit))
    solution = milp(
        power / (float(np.median(power)) or 1.0),  # the solver's gap is absolute
        integrality=np.ones(len(choices)),
        bounds=(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        return {layer: min(powers, key=lambda bits: _cost(limits, layer, bits)) for layer, powers in noise.items()}
    return {layer: bits for (layer, bits), taken in zip(choices, solution.x, strict=True) if taken > 0.5}


def _cost(limits: Sequence[tuple[ByBits, float]], layer: str, bits: int) -> float:
    """What a layer costs as a share of its largest cost, summed over the limits."""
    return sum(costs[layer][bits] / max(*costs[layer].values(), 1.0) for costs, _ in limits)


class Product(NamedTuple):
    """A node of a quantized graph that multiplies: its layer ("" of two activations), the multiply-adds of one sample,
    and the bits of both factors as it reads them."""

    layer: str
    macs: int
    weight_bits: int
    activation_bits: int


def bit_operations(products: Sequence[Product]) -> int:
    """Multiply-adds of one sample, each times the bits of its two factors, 32 each in float32.

    The field's BOPs, as in van Baalen et al. 2020, "Bayesian bits" (arXiv:2005.07093).
    """
    return sum(product.macs * product.weight_bits * product.activation_bits for product in products)


@torch.no_grad()
def products(prepared: fx.GraphModule, example: Tensor) -> list[Product]:
    """What a prepared graph multiplies, node by node: a layer that is used twice stands there twice.

    Args:
        prepared: calibrated or not. example: (B, ...) input.
    """
    counting = _Counting(prepared)
    counting.run(example)
    return [product._replace(macs=product.macs // len(example)) for product in counting.products]


class _Counting(fx.Interpreter):
    """Runs a graph and asks torch's counter what each node multiplied."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.modules = dict(prepared.named_modules(remove_duplicate=False))
        self.products: list[Product] = []

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        if macs := counter.get_total_flops() // 2:
            factors = [node for node in n.all_input_nodes if self._is_float(node)]
            values, weights = factors[0], factors[min(1, len(factors) - 1)]  # a product with itself has one
            self.products.append(Product(_layer(weights), macs, self._bits(weights), self._bits(values)))
        return result

    def _is_float(self, node: fx.Node) -> bool:
        value = self.env[node]
        return isinstance(value, Tensor) and value.is_floating_point()

    def _bits(self, factor: fx.Node) -> int:
        """The bit width of a node's operand, looking through operations that change no value."""
        while factor.target in MOVING:
            factor = factor.all_input_nodes[0]
        match self.modules.get(str(factor.target)):
            case PerChannelWeightFakeQuantize() as module:
                return module.quant_max.bit_length() + 1  # symmetric: with b bits the bound is 2^(b-1) - 1
            case ActivationFakeQuantize() as module:
                return module.quant_max.bit_length() + 1
            case DynamicFakeQuantize():
                return 8
        return FLOAT_BITS


def _layer(weight: fx.Node) -> str:
    """The module path of a weight's layer; "" of a factor that is no weight."""
    while weight.op != "get_attr":
        if len(weight.all_input_nodes) != 1:
            return ""
        (weight,) = weight.all_input_nodes
    return layer_of(weight)
