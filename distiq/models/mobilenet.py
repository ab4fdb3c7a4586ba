"""MobileNetV2 for small images: inverted residuals with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv:1801.04381). The stages are an
argument, since the paper's 17 blocks at stride 32 are made for 224 x 224 pixels. With SiLU and squeeze-and-excitation
the blocks are EfficientNet's (Tan and Le 2019, arXiv:1905.11946), with hard-swish MobileNetV3's (Howard et al. 2019,
arXiv:1905.02244).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hard_swish": nn.Hardswish}
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


class SqueezeExcite(nn.Module):
    """Weighs every channel by what all of them hold on average (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int, activation: nn.Module) -> None:
        super().__init__()
        self.pool, self.activation = nn.AdaptiveAvgPool2d(1), activation
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(self.activation(self.squeeze(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise 3x3), weigh (optional), project (1x1, linear); a shortcut where it fits.

    Fused, a 3x3 convolution expands and filters at once: Tan and Le 2021 (arXiv:2104.00298), figure 2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        activation: type[nn.Module],
        squeeze: float = 0.0,
        fused: bool = False,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand: nn.Module = nn.Identity()
        if fused:
            self.depthwise = conv_bn(inputs, hidden, 3, stride, 1, activation())
        else:
            if expansion != 1:
                self.expand = conv_bn(inputs, hidden, 1, 1, 1, activation())
            self.depthwise = conv_bn(hidden, hidden, 3, stride, hidden, activation())
        squeezed = max(1, int(squeeze * inputs))
        self.weigh = SqueezeExcite(hidden, squeezed, activation()) if squeeze else nn.Identity()
        self.project = conv_bn(hidden, outputs, 1, 1, 1, None)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.weigh(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


def rows_of(stages: Any) -> list[tuple[int, int, int, int]]:
    """Stages as rows of (expansion, channels, blocks, stride).

    Raises:
        ValueError: they are none.
    """
    rows = list(stages) if isinstance(stages, list | tuple) else [stages]
    for row in rows:
        of_numbers = isinstance(row, list | tuple) and all(type(one) is int and one > 0 for one in row)
        if not of_numbers or len(row) != 4:
            raise ValueError(
                f"stages = {stages}: give rows [expansion, channels, blocks, stride] of whole numbers from 1 on"
            )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


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
        activation: "relu", "relu6", "silu" or "hard_swish".
        squeeze: hidden channels of squeeze-and-excitation as a share of a block's input; 0 leaves it out.
        fused: how many stages, from the first, have fused blocks.

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
        squeeze: float = 0.0,
        fused: int = 0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            names = '", "'.join(ACTIVATIONS)
            raise ValueError(f'mobilenet_v2: activation = "{activation}" is unknown; take one of "{names}"')
        kind = ACTIVATIONS[activation]
        inputs = round_to(stem * width)
        self.stem = conv_bn(channels, inputs, 3, stem_stride, 1, kind())
        built = []
        rows = rows_of(stages)
        if fused not in range(len(rows) + 1):
            raise ValueError(f"fused = {fused}: the network has {len(rows)} stages; take 0 to {len(rows)}")
        for stage, (expansion, stage_channels, count, stride) in enumerate(rows):
            outputs, blocks = round_to(stage_channels * width), []
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, step, expansion, kind, squeeze, stage < fused))
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
