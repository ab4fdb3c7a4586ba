"""EfficientNet-Lite: EfficientNet for integer kernels, with ReLU6 and without squeeze-and-excitation.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks" (arXiv:1905.11946), in the
Lite variants of github.com/tensorflow/tpu (models/official/efficientnet/lite): stem and head are not scaled. Strided
convolutions are padded as TensorFlow pads ("SAME": at the end first), so that published weights give their own outputs.
Deviation: no stochastic depth in training.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.mobilenet import round_to

STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
"""Rows of (expansion, channels, blocks, stride, kernel): table 1 of the paper."""
STEM, HEAD = 32, 1280
EPSILON, MOMENTUM = 1e-3, 0.01


class SameConv(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) rows and columns; an odd zero stands at the end."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for size, kernel, stride in zip(x.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
            sides += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, sides), self.weight, None, self.stride, 0, 1, self.groups)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int, groups: int, activated: bool) -> nn.Sequential:
    conv: nn.Conv2d = (
        SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)
        if stride > 1
        else nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    norm = nn.BatchNorm2d(outputs, EPSILON, MOMENTUM)
    return nn.Sequential(conv, norm, nn.ReLU6()) if activated else nn.Sequential(conv, norm)


class Block(nn.Module):
    """Expand (1x1), filter (depthwise), project (1x1, linear); a shortcut where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_bn(inputs, hidden, 1, 1, 1, True) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_bn(hidden, hidden, kernel, stride, hidden, True)
        self.project = _conv_bn(hidden, outputs, 1, 1, 1, False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite.

    Args:
        classes: number of classes, the width of the output.
        channels: channels of the input image.
        width, depth: multipliers of the channels and of the blocks of a stage.
        dropout: before the last layer, in training.

    Shapes: (B, channels, H, W) -> (B, classes) logits. Published weights want (pixels - 127) / 128.
    """

    def __init__(self, classes: int, channels: int, width: float, depth: float, dropout: float) -> None:
        super().__init__()
        self.stem = _conv_bn(channels, STEM, 3, 2, 1, True)
        inputs, blocks = STEM, []
        for stage, (expansion, stage_channels, count, stride, kernel) in enumerate(STAGES):
            is_end = stage in (0, len(STAGES) - 1)
            outputs = round_to(stage_channels * width)
            for number in range(count if is_end else math.ceil(count * depth)):
                blocks.append(Block(inputs, outputs, stride if number == 0 else 1, kernel, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_bn(inputs, HEAD, 1, 1, 1, True)
        self.pool, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.head(self.blocks(self.stem(images))))
        return self.classifier(self.dropout(torch.flatten(features, 1)))

    def published_names(self) -> dict[str, str]:
        """Names of the tensors of efficientnet-lite-pytorch's weights, and what they are called here."""
        layers = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1"}
        layers["_fc"] = "classifier"
        parts = ("expand", "depthwise", "project")
        for number in range(len(self.blocks)):
            for order, part in enumerate(parts):
                layers[f"_blocks.{number}._{part}_conv"] = f"blocks.{number}.{part}.0"
                layers[f"_blocks.{number}._bn{order}"] = f"blocks.{number}.{part}.1"
        own = self.state_dict()
        return {
            f"{name}.{tensor}": f"{layer}.{tensor}"
            for name, layer in layers.items()
            for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            if f"{layer}.{tensor}" in own
        }


def efficientnet_lite0(classes: int, channels: int = 3, dropout: float = 0.2) -> EfficientNetLite:
    """4.7 million parameters, made for images of 224 x 224."""
    return EfficientNetLite(classes, channels, 1.0, 1.0, dropout)


def efficientnet_lite1(classes: int, channels: int = 3, dropout: float = 0.2) -> EfficientNetLite:
    """5.4 million parameters, made for images of 240 x 240."""
    return EfficientNetLite(classes, channels, 1.0, 1.1, dropout)


def efficientnet_lite2(classes: int, channels: int = 3, dropout: float = 0.3) -> EfficientNetLite:
    """6.1 million parameters, made for images of 260 x 260."""
    return EfficientNetLite(classes, channels, 1.1, 1.2, dropout)


def efficientnet_lite3(classes: int, channels: int = 3, dropout: float = 0.3) -> EfficientNetLite:
    """8.2 million parameters, made for images of 280 x 280."""
    return EfficientNetLite(classes, channels, 1.2, 1.4, dropout)


def efficientnet_lite4(classes: int, channels: int = 3, dropout: float = 0.3) -> EfficientNetLite:
    """13.0 million parameters, made for images of 300 x 300."""
    return EfficientNetLite(classes, channels, 1.4, 1.8, dropout)
