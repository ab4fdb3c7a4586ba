"""MobileNetV2 for small images: inverted residuals with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv:1801.04381). The stages are an
argument, since the paper's 17 blocks at stride 32 are made for 224 x 224 pixels. Activations are ReLU or ReLU6.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALL_IMAGE_STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 48, 2, 1))


def round_to(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, activation: nn.Module | None
) -> nn.Sequential:
    """Convolution without bias, batch norm and, unless None, an activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, activation) if activation is not None else nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise 3x3), project (1x1, linear); a shortcut where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, activation: type[nn.Module]) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1, 1, 1, activation()) if expansion != 1 else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, 3, stride, hidden, activation())
        self.project = conv_bn(hidden, outputs, 1, 1, 1, None)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """A MobileNetV2-style network.

    Args:
        classes: number of classes, the width of the output.
        channels: channels of the input image.
        width: multiplier of every number of channels.
        stem: channels of the first 3x3 convolution, before the multiplier.
        stem_stride: its stride; 2 halves the cost of the whole network by four.
        stages: rows of (expansion, channels, blocks, stride), the paper's table 2.
        head: channels of the last 1x1 convolution, before the multiplier; 0 leaves it out.
        activation: "relu" or "relu6".

    Shapes: (B, channels, H, W) -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: float = 1.0,
        stem: int = 16,
        stem_stride: int = 1,
        stages: Sequence[Sequence[int]] = SMALL_IMAGE_STAGES,
        head: int = 128,
        activation: str = "relu6",
    ) -> None:
        super().__init__()
        if activation not in ("relu", "relu6"):
            raise ValueError(f'mobilenet_v2: activation = "{activation}" is unknown; take "relu" or "relu6"')
        kind = {"relu": nn.ReLU, "relu6": nn.ReLU6}[activation]
        inputs = round_to(stem * width)
        self.stem = conv_bn(channels, inputs, 3, stem_stride, 1, kind())
        built = []
        for expansion, stage_channels, count, stride in stages:
            outputs, blocks = round_to(stage_channels * width), []
            for number in range(count):
                blocks.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, expansion, kind))
                inputs = outputs
            built.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*built)
        self.head: nn.Module = nn.Identity()
        if head:
            self.head = conv_bn(inputs, round_to(head * width), 1, 1, 1, kind())
            inputs = round_to(head * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.head(self.stages(self.stem(images)))), 1))
