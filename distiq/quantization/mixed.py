"""Mixed precision: how many bits the weights of each layer take, so that limits hold and the output changes least."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import LinearConstraint, milp

from distiq.quantization.fake_quantize import PerChannelWeightFakeQuantize
from distiq.quantization.quantize import QuantizedModel
from distiq.quantization.sensitivity import grids

FLOAT_BITS = 32
ByBits = Mapping[str, Mapping[int, float]]
"""A figure of each layer for each number of bits that it could take."""


def choose_bits(noise: ByBits, limits: Sequence[tuple[ByBits, float]]) -> dict[str, int]:
    """The bits of each layer: together they keep every limit and make the least noise, by integer programming.

    Dong et al. 2020, "HAWQ-V2" (arXiv:1911.03852), section 3.2, with measured noise in place of the Hessian's trace.
    Where no choice keeps all limits, each layer takes what costs the least.

    Args:
        noise: power at the network's output, with this layer's weights alone on a grid of so many bits.
        limits: what the layers cost in bytes or in bit operations, and what that may be in sum.
    """
    choices = [(layer, bits) for layer, powers in noise.items() for bits in powers]
    power = np.array([noise[layer][bits] for layer, bits in choices])
    one_each = np.array([[float(layer == other) for other, _ in choices] for layer in noise])
    constraints = [LinearConstraint(one_each, lb=1, ub=1)]
    for costs, limit in limits:
        constraints.append(LinearConstraint(np.array([[costs[layer][bits] for layer, bits in choices]]), ub=limit))
    found = milp(
        power / (float(np.median(power)) or 1.0),  # the solver's gap is absolute
        integrality=np.ones(len(choices)),
        bounds=(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return {layer: min(powers, key=lambda bits: _cost(limits, layer, bits)) for layer, powers in noise.items()}
    return {layer: bits for (layer, bits), taken in zip(choices, found.x, strict=True) if taken > 0.5}


def _cost(limits: Sequence[tuple[ByBits, float]], layer: str, bits: int) -> float:
    """What a layer costs as a share of its own most, summed over the limits."""
    return sum(costs[layer][bits] / max(*costs[layer].values(), 1.0) for costs, _ in limits)


def bit_operations(quantized: QuantizedModel, macs: Mapping[str, int]) -> int:
    """Multiply-adds of one sample, each times the bits of its weight and of its activation, 32 each in float32.

    The field's BOPs, as in van Baalen et al. 2020, "Bayesian bits" (arXiv:2005.07093).

    Args:
        macs: of each layer by its module path, and of the whole network by "".
    """
    scheme = quantized.scheme
    activation_bits = FLOAT_BITS if scheme.mode == "weight_only" else scheme.activation_bits
    total, for_qat = 0, 0
    for grid in grids(quantized):
        if isinstance(grid.point, PerChannelWeightFakeQuantize) and grid.place in macs:
            bits = grid.point.quant_max.bit_length() + 1  # a symmetric grid of b bits ends at 2^(b-1) - 1
            total += macs[grid.place] * bits * activation_bits
            for_qat += macs[grid.place]
    return total + (macs.get("", 0) - for_qat) * FLOAT_BITS**2
