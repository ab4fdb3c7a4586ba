"""Audio networks: a front-end, then convolutions over its bands and frames.

DS-CNN: Zhang et al. 2017, "Hello Edge: Keyword Spotting on Microcontrollers" (arXiv:1711.07128), section 4: one
convolution, then depthwise-separable blocks, average pooling, one linear layer. Deviation: every block may have its
own width and stride.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.adapted import Refit
from distiq.models.audio_classifier import Waves
from distiq.models.frontend import MFCC, LogMel
from distiq.models.mobilenet import conv_bn
from distiq.models.predictor import Predictor
from distiq.models.resnet import ResNet


def check_rate(model: nn.Module, rate: int, role: str) -> None:
    """Raises UserError if a network was made for clips of another rate than the data's."""
    for module in model.modules():
        if not isinstance(module, LogMel | MFCC | Waves | Predictor) or module.rate in (0, rate) or not rate:
            continue
        own = f"set {role}.options.rate = {rate}, or" if isinstance(module, LogMel | MFCC) else "set"
        raise UserError(
            f"{role}: it is made for {module.rate} Hz, the clips have {rate} Hz; {own} data.audio.rate = {module.rate}"
        )


def front_ends(model: nn.Module) -> tuple[str, ...]:
    """Module paths of the front-ends in a network: of sound, and the view of images that a teacher has of its own."""
    names = [name for name, module in model.named_modules() if isinstance(module, LogMel | MFCC | Refit)]
    return tuple(name for name in names if not name.startswith(tuple(f"{other}." for other in names)))


def frame_samples(model: nn.Module, length: int) -> int:
    """Samples from one frame of a network's outputs (B, symbols, frames) to the next; 0 if it takes one length alone.

    Clips that are longer by so many samples than the shortest of one more frame have one frame more again.

    Args:
        length: of a clip.
    """

    def frames(samples: int) -> int:
        with torch.no_grad():
            return model(torch.zeros(1, samples)).shape[2]

    def shortest(count: int) -> int:
        low, high = length, 2 * length  # a clip of `low` samples has fewer frames, one of `high` has as many
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if frames(middle) >= count else (middle, high)
        return high

    try:
        now = frames(length)
        return shortest(now + 2) - shortest(now + 1)
    except Exception:  # a network of one length raises whatever its layers do
        return 0


class DSCNN(nn.Module):
    """A depthwise-separable CNN on log-mel bands or MFCC.

    Args:
        classes: number of classes, the width of the output.
        frontend: as `front_end` makes it.
        stem: channels, kernel (features, frames) and stride (features, frames) of the first convolution.
        widths: channels of the blocks; strides: of the blocks, in both directions.

    Shapes: (B, T) waveforms in -1..1 -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        frontend: LogMel | MFCC,
        stem: int = 32,
        kernel: Sequence[int] = (5, 5),
        stride: Sequence[int] = (2, 2),
        widths: Sequence[int] = (32, 32, 32, 32),
        strides: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        if len(strides) != len(widths):
            raise ValueError(f"ds_cnn: {len(widths)} widths but {len(strides)} strides; give one stride each")
        self.frontend = frontend
        (tall, wide), (down, along) = kernel, stride
        first = nn.Conv2d(1, stem, (tall, wide), (down, along), (tall // 2, wide // 2), bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(stem), nn.ReLU())
        blocks, inputs = [], stem
        for width, step in zip(widths, strides, strict=True):
            depthwise = conv_bn(inputs, inputs, 3, step, inputs, nn.ReLU())
            blocks.append(nn.Sequential(depthwise, conv_bn(inputs, width, 1, 1, 1, nn.ReLU())))
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, waveforms: Tensor) -> Tensor:
        maps = self.blocks(self.stem(self.frontend(waveforms).unsqueeze(1)))
        return self.classifier(torch.flatten(self.pool(maps), 1))


class AudioResNet(nn.Module):
    """A CIFAR-style ResNet on log-mel bands, which it sees as an image of one channel.

    Args:
        classes, frontend: as for `DSCNN`.
        widths, blocks, stem_stride: as for `ResNet`.

    Shapes: (B, T) waveforms in -1..1 -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        frontend: LogMel | MFCC,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int | Sequence[int] = 1,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        self.frontend = frontend
        self.network = ResNet(classes, 1, widths, blocks, stem_stride)

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.network(self.frontend(waveforms).unsqueeze(1))


class AudioGRU(nn.Module):
    """A gated recurrent unit over frames: its state after the last one is what is classified.

    Cho et al. 2014 (arXiv:1406.1078); the convolution before it, which halves the number of frames, is that of Zhang et
    al. 2017's CRNN. The recurrence stays in float32 in every quantized file; convolution and classifier go to int8.

    Args:
        classes, frontend: as for `DSCNN`.
        width: channels of the convolution over 5 frames, of stride 2.
        hidden: of the recurrent unit.

    Shapes: (B, T) waveforms in -1..1 -> (B, classes) logits.
    """

    def __init__(
        self,
        classes: int,
        frontend: LogMel | MFCC,
        width: int = 32,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        self.frontend = frontend
        self.stem = nn.Conv1d(frontend.rows, width, 5, 2, 2)
        self.recurrent = nn.GRU(width, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = torch.relu(self.stem(self.frontend(waveforms))).transpose(1, 2)
        return self.classifier(self.recurrent(frames)[0][:, -1])


class AudioGRUFrames(AudioGRU):
    """An `AudioGRU` that classifies its state after every frame, for CTC: (B, T) -> (B, classes, frames)."""

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = torch.relu(self.stem(self.frontend(waveforms))).transpose(1, 2)
        return self.classifier(self.recurrent(frames)[0]).transpose(1, 2)


class AudioFrames(nn.Module):
    """Symbols for every stretch of sound, for connectionist temporal classification (CTC): convolutions over time.

    Args:
        classes: symbols; the first is the blank.
        frontend: as for `DSCNN`.
        width: channels; the first convolution halves the number of frames.
        blocks: pairs of a depthwise convolution over 5 frames and a pointwise one.

    Shapes: (B, T) waveforms in -1..1 -> (B, classes, frames) logits.
    """

    def __init__(self, classes: int, frontend: LogMel | MFCC, width: int = 48, blocks: int = 3) -> None:
        super().__init__()
        self.frontend = frontend
        self.stem = _normed(nn.Conv1d(frontend.rows, width, 5, 2, 2, bias=False))
        pairs = [
            (nn.Conv1d(width, width, 5, padding=2, groups=width, bias=False), nn.Conv1d(width, width, 1, bias=False))
            for _ in range(blocks)
        ]
        self.blocks = nn.Sequential(*(_normed(convolution) for pair in pairs for convolution in pair))
        self.classifier = nn.Conv1d(width, classes, 1)

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(self.frontend(waveforms))))


def _normed(convolution: nn.Conv1d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm1d(convolution.out_channels), nn.ReLU())
