"""Whether a file can answer differently on another x86 CPU: sums of two u8 x s8 products in 16 bits.

Without VNNI, kernels multiply with `vpmaddubsw`, which adds two neighbouring products and saturates at 16 bits; with
VNNI the sum is exact. Which weights are neighbours is the kernel's choice, so every pair of a channel counts.
"""

from typing import NamedTuple

import numpy as np

from distiq.runtimes.lowering import Grids

LARGEST_ACTIVATION = 255
LIMITS = np.iinfo(np.int16)


class Saturation(NamedTuple):
    """Output channels of a file, and those of them where two products can leave 16 bits."""

    channels: int
    may_saturate: int

    def sentence(self) -> str:
        """The certificate, or what it cannot promise."""
        if self.may_saturate == 0:
            return "certified: no sum of two products leaves 16 bits, so CPUs without VNNI give the same integers"
        return (
            f"not certified: in {self.may_saturate} of {self.channels} output channels two products can leave 16 bits"
            " on an x86 CPU without VNNI; run distiq check there"
        )


def saturation(grids: Grids) -> Saturation:
    """Counts the channels from the integers: exact for the worst inputs that the grids allow."""
    flags = [may_saturate(weight.integers) for weight in grids.weights]
    return Saturation(sum(map(len, flags)), int(sum(flag.sum() for flag in flags)))


def may_saturate(integers: np.ndarray) -> np.ndarray:
    """For each output channel, whether some pair of its weights can: (O, ...) int8 -> (O,) bool."""
    rows = np.sort(integers.reshape(len(integers), -1).astype(np.int64), axis=1)
    highest = LARGEST_ACTIVATION * np.clip(rows[:, -2:], 0, None).sum(1)
    lowest = LARGEST_ACTIVATION * np.clip(rows[:, :2], None, 0).sum(1)
    return (highest > LIMITS.max) | (lowest < LIMITS.min)
