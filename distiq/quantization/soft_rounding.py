"""Soft rounding: weights between two neighbours on their quantization grid, which learning decides on.

Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization" (arXiv:2004.10568), equations 22-24.
"""

import torch
from torch import Tensor, nn

STRETCH, SHIFT = 1.2, -0.1  # zeta - gamma and gamma of the rectified sigmoid
EDGE = 0.02  # how near to 0 or 1 a rounding may begin: at 0 and 1 themselves it could not move


class SoftRounding(nn.Module):
    """The weights of a layer, each between two neighbours on its grid: scale * (lower + h(v)), h in 0..1.

    Args:
        weight: of the float network.
        start: integers to begin from.
        scale: of each output channel, in a shape that broadcasts over the weights.
        held: how far h begins from the float weights towards the start: 0 begins at the float weights.
    """

    def __init__(self, weight: Tensor, start: Tensor, scale: Tensor, bound: int, held: float) -> None:
        super().__init__()
        self.scale, self.start = scale, start
        steps = weight / self.scale
        lower = torch.minimum(torch.maximum(torch.floor(steps), start - 1), start)  # so that the start is one of both
        self.lower = lower.clamp(-bound, bound - 1)
        begin = held * (start - self.lower) + (1 - held) * (steps - self.lower).clamp(0, 1)
        begin = begin.clamp(EDGE, 1 - EDGE)
        self.v = nn.Parameter(torch.logit((begin - SHIFT) / STRETCH))

    def h(self) -> Tensor:
        """Rectified sigmoid, equation 23."""
        return torch.clamp(torch.sigmoid(self.v) * STRETCH + SHIFT, 0, 1)

    def forward(self) -> Tensor:
        return (self.lower + self.h()) * self.scale

    def undecided(self, beta: float) -> Tensor:
        """The regularizer, equation 24: 0 where every h is 0 or 1."""
        return (1 - (2 * self.h() - 1).abs().pow(beta)).sum()

    def integers(self) -> Tensor:
        return self.lower + (self.h() >= 0.5)
