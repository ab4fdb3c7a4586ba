"""A plain network: 3x3 convolutions in a row, global average pooling, one linear layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.models.mobilenet import ACTIVATIONS, conv_bn


class PlainNet(nn.Module):
    """Convolutions without shortcuts: what integer kernels of CPUs compute best.

    The plain networks of He et al. 2016, "Deep residual learning for image recognition" (arXiv:1512.03385), figure 3.

    Args:
        classes: number of classes, the width of the output.
        channels: channels of the input image.
        layers: rows of (channels, stride), one for each convolution.
        activation: "relu", "relu6", "silu" or "hard_swish".

    Shapes: (B, channels, H, W) -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        layers: Sequence[Sequence[int]] = ((32, 2), (32, 1), (48, 2), (48, 1), (48, 1)),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            names = '", "'.join(ACTIVATIONS)
            raise ValueError(f'plain: activation = "{activation}" is unknown; take one of "{names}"')
        if not layers or any(len(row) != 2 or min(row) < 1 for row in layers):
            raise ValueError(f"plain: layers = {list(layers)}: give rows of [channels, stride], such as [[32, 2]]")
        inputs, built = channels, []
        for outputs, stride in layers:
            built.append(conv_bn(inputs, outputs, 3, stride, 1, ACTIVATIONS[activation]()))
            inputs = outputs
        self.layers = nn.Sequential(*built)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.layers(images)), 1))
