"""BC-ResNet for keyword spotting: what a frame sounds like on the whole, broadcast over its frequencies.

Kim et al. 2021, "Broadcasted Residual Learning for Efficient Keyword Spotting" (arXiv:2106.04140). Deviations: batch
norm in place of sub-spectral norm, so that it folds into the convolution before it; ReLU in place of swish; no dropout;
the last depthwise convolution is padded, so that any number of bands will do.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.frontend import MFCC, LogMel
from distiq.models.mobilenet import conv_bn


class BroadcastBlock(nn.Module):
    """y = ReLU(x + f2(x) + f1(mean of f2(x) over frequencies)), section 2.2 and figure 2 of the paper.

    f2 is a depthwise convolution over frequencies, f1 one over time and a pointwise one. With another width or a
    stride the block is the paper's transition: a pointwise convolution comes first, and x is not added.

    Args:
        stride: over frequencies. dilation: over time.

    Shapes: (B, inputs, F, T) -> (B, outputs, F / stride, T).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.is_transition = inputs != outputs or stride > 1
        self.enter = conv_bn(inputs, outputs, 1, 1, 1, nn.ReLU()) if self.is_transition else nn.Identity()
        self.frequency = nn.Sequential(
            nn.Conv2d(outputs, outputs, (3, 1), (stride, 1), (1, 0), groups=outputs, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.time = nn.Sequential(
            nn.Conv2d(outputs, outputs, (1, 3), 1, (0, dilation), dilation=(1, dilation), groups=outputs, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        local = self.frequency(self.enter(maps))
        mixed = local + self.time(F.avg_pool2d(local, (local.shape[2], 1)))
        return torch.relu(mixed if self.is_transition else maps + mixed)


class BCResNet(nn.Module):
    """A BC-ResNet on log-mel bands or MFCC.

    Args:
        classes, frontend: as for `DSCNN`.
        stem: channels of the first convolution, 5 x 5 with stride 2 over frequencies.
        widths, blocks, strides, dilations: of each stage; the paper's are twice as wide at its smallest.
        last: channels before the classifier.

    Shapes: (B, T) waveforms in -1..1 -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        frontend: LogMel | MFCC,
        stem: int = 16,
        widths: Sequence[int] = (8, 12, 16, 20),
        blocks: Sequence[int] = (2, 2, 4, 4),
        strides: Sequence[int] = (1, 2, 2, 1),
        dilations: Sequence[int] = (1, 2, 4, 8),
        last: int = 32,
    ) -> None:
        super().__init__()
        if not len(widths) == len(blocks) == len(strides) == len(dilations):
            raise ValueError("bc_resnet: widths, blocks, strides and dilations need one number for each stage")
        self.frontend = frontend
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 5, (2, 1), 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        stages, inputs = [], stem
        for width, count, stride, dilation in zip(widths, blocks, strides, dilations, strict=True):
            for number in range(count):
                stages.append(BroadcastBlock(inputs, width, stride if number == 0 else 1, dilation))
                inputs = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Conv2d(inputs, inputs, 5, padding=2, groups=inputs, bias=False), nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, waveforms: Tensor) -> Tensor:
        maps = self.blocks(self.stem(self.frontend(waveforms).unsqueeze(1)))
        return self.classifier(torch.flatten(self.pool(self.head(maps)), 1))
