"""Learned projections of a student's activations onto a teacher's: they train with the student and are then dropped."""

import torch.nn.functional as F
from torch import Tensor, nn


class HintProjection(nn.Module):
    """A 1x1 convolution from the student's channels to the teacher's, after resizing to the teacher's height and width.

    The regressor of Romero et al. 2015 (arXiv:1412.6550), section 2.2; features of fully connected layers (B, C) go
    through a linear layer.

    Shapes: (B, inputs, H, W) -> (B, outputs, H', W').
    """

    def __init__(self, inputs: int, outputs: int, spatial: tuple[int, ...]) -> None:
        super().__init__()
        self.spatial = spatial
        self.project = nn.Conv2d(inputs, outputs, 1) if spatial else nn.Linear(inputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        if self.spatial and tuple(features.shape[2:]) != self.spatial:
            features = F.adaptive_avg_pool2d(features, self.spatial[:2])  # type: ignore[arg-type]
        return self.project(features)
