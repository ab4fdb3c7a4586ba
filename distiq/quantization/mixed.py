"""Mixed precision: which layers take narrow weights so that the file fits and the output changes least."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


def narrow_layers(extra_noise: Mapping[str, float], saved: Mapping[str, float], wanted: float) -> tuple[str, ...]:
    """The layers that together save at least `wanted` bytes and add the least noise, by integer programming.

    Dong et al. 2020, "HAWQ-V2" (arXiv:1911.03852), section 3.2, with measured noise in place of the Hessian's trace.

    Args:
        extra_noise: noise power at the network's output that narrow weights of this layer alone add, by layer.
        saved: bytes that narrow weights of the layer save.
        wanted: more than all layers can save takes all.
    """
    layers = list(saved)
    if sum(saved.values()) <= wanted:
        return tuple(layers)
    noise, savings = np.array([extra_noise[layer] for layer in layers]), np.array([saved[layer] for layer in layers])
    scale = noise.max() if noise.max() > 0 else 1.0
    found = milp(
        noise / scale,
        integrality=np.ones(len(layers)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(savings[None], lb=wanted),
    )
    return tuple(layer for layer, taken in zip(layers, found.x, strict=True) if taken > 0.5)
