"""CIFAR-style ResNet: a 3x3 stem, three stages of basic blocks, global average pooling, one linear layer.

He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2. Deviations: the
shortcut of a block that changes its shape is a 1x1 convolution (option B), and the number of blocks of every stage
may be given one by one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images.

    Args:
        classes: number of classes, the width of the output.
        channels: channels of the input image.
        widths: channels of the stages; every stage after the first halves height and width.
        blocks: basic blocks of each stage, one number for all or one per stage. Depth is ``2 * sum(blocks) + 2``.
        stem_stride: stride of the stem; 2 makes the whole network four times as cheap.

    Shapes: (B, channels, H, W) -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int | Sequence[int] = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        per_stage = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
        if len(per_stage) != len(widths) or min(per_stage, default=0) < 1:
            raise ValueError(f"resnet: blocks = {blocks} does not give one positive number per stage {list(widths)}")
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, stem_stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages, inputs = [], widths[0]
        for number, (outputs, count) in enumerate(zip(widths, per_stage, strict=True)):
            first = BasicBlock(inputs, outputs, stride=1 if number == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(count - 1))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.stages(self.stem(images))), 1))


def _initialize(model: nn.Module) -> None:
    """He initialization; the last batch norm of every block starts at zero, so each block starts as its shortcut."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
