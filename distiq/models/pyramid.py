"""Feature pyramids: an encoder whose maps of every stride are joined from coarse to fine, for dense networks.

Lin et al. 2017, "Feature pyramid networks for object detection" (arXiv:1612.03144), with depthwise separable
convolutions in place of its 3x3 ones. Maps are added, never concatenated, and enlarged to the nearest value: both are
operations on integers, and no two maps share a range.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.efficientnet_lite import STEM, Block, efficientnet_lite0
from distiq.models.mobilenet import InvertedResidual, conv_bn, rows_of
from distiq.models.resnet import BasicBlock

MOBILENET_STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 3, 2), (4, 64, 3, 2))
RESNET_STAGES = ((24, 1, 1), (48, 2, 2), (96, 2, 2), (128, 2, 2))


class Part(NamedTuple):
    """A block of an encoder: its output's channels, and by how much it shrinks the map."""

    block: nn.Module
    channels: int
    stride: int


class Encoder(nn.Module):
    """A network without its classifier: (B, channels, H, W) -> maps by their stride, from fine to coarse.

    A map has ceil(H / stride) rows and ceil(W / stride) columns.

    Args:
        stem: the first layer; it halves the image. parts: what follows, in order.
    """

    def __init__(self, stem: nn.Module, stem_channels: int, parts: Sequence[Part]) -> None:
        super().__init__()
        self.stem, self.blocks = stem, nn.Sequential(*(part.block for part in parts))
        strides = [2]
        for part in parts:
            strides.append(strides[-1] * part.stride)
        channels = [stem_channels, *(part.channels for part in parts)]
        self.channels = dict(zip(strides, channels, strict=True))
        """By stride, those of its last map."""
        self._ends = {stride: number for number, stride in enumerate(strides)}

    new_parts: tuple[str, ...] = ()
    """What published weights leave as it was drawn."""

    def published_names(self) -> dict[str, str]:
        """Names of the tensors of published weights, and what they are called here; "" what has no place here."""
        return {}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        maps = [self.stem(images)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return {stride: maps[number] for stride, number in self._ends.items()}


def mobilenet_encoder(channels: int = 3, stem: int = 16, stages: Sequence[Sequence[int]] = MOBILENET_STAGES) -> Encoder:
    """Inverted residuals, in rows of (expansion, channels, blocks, stride)."""
    return Encoder(conv_bn(channels, stem, 3, 2, 1, nn.ReLU6()), stem, _inverted_residuals(stem, stages))


def _inverted_residuals(inputs: int, stages: Sequence[Sequence[int]]) -> list[Part]:
    parts = []
    for expansion, outputs, count, stride in rows_of(stages):
        if stride > 2:
            raise ValueError(f"stages = {stages}: a stage keeps the size of its map (1) or halves it (2), not {stride}")
        for number in range(count):
            own = stride if number == 0 else 1
            parts.append(Part(InvertedResidual(inputs, outputs, own, expansion, nn.ReLU6), outputs, own))
            inputs = outputs
    return parts


def resnet_encoder(channels: int = 3, stem: int = 24, stages: Sequence[Sequence[int]] = RESNET_STAGES) -> Encoder:
    """Residual blocks of two 3x3 convolutions, in rows of (channels, blocks, stride)."""
    parts, inputs = [], stem
    for outputs, count, stride in stages:
        for number in range(count):
            own = stride if number == 0 else 1
            parts.append(Part(BasicBlock(inputs, outputs, own), outputs, own))
            inputs = outputs
    return Encoder(conv_bn(channels, stem, 3, 2, 1, nn.ReLU()), stem, parts)


class LiteEncoder(Encoder):
    """EfficientNet-Lite0 without what stands behind its blocks; published weights fit.

    Args:
        blocks: how many of its 16 blocks, from the first on; 0 takes all.
        stages: of inverted residuals behind them, as those of `mobilenet_encoder`; no published weights are of these.
    """

    def __init__(self, channels: int = 3, blocks: int = 0, stages: Sequence[Sequence[int]] = ()) -> None:
        whole = efficientnet_lite0(1, channels)
        published = [block for block in whole.blocks if isinstance(block, Block)]
        if blocks not in range(len(published) + 1):
            raise ValueError(f"blocks = {blocks}: EfficientNet-Lite0 has {len(published)}; take 1 to {len(published)}")
        parts = [Part(block, _channels(block), _stride(block)) for block in published[: blocks or None]]
        count = len(parts)
        parts += _inverted_residuals(parts[-1].channels, stages)
        super().__init__(whole.stem, STEM, parts)
        draw(self.blocks[count:])
        self._names = whole.published_names()
        self.new_parts = tuple(f"blocks.{number}." for number in range(count, len(parts)))

    def published_names(self) -> dict[str, str]:
        own = {name for name in self.state_dict() if not name.startswith(self.new_parts)}
        return {published: name if name in own else "" for published, name in self._names.items()}


def _channels(block: Block) -> int:
    return next(module.num_features for module in block.project if isinstance(module, nn.BatchNorm2d))


def _stride(block: Block) -> int:
    return next(module.stride[0] for module in block.depthwise if isinstance(module, nn.Conv2d))


ENCODERS = {"mobilenet": mobilenet_encoder, "resnet": resnet_encoder, "efficientnet_lite0": LiteEncoder}


def make_encoder(name: str, channels: int, stem: int, stages: Sequence[Sequence[int]], blocks: int = 0) -> Encoder:
    """An encoder by name.

    Args:
        stem, stages: 0 and empty take its own; of "efficientnet_lite0" the stages stand behind its own blocks.
        blocks: of "efficientnet_lite0", how many of its own are taken; 0 takes all.

    Raises:
        ValueError: there is no encoder of that name, or it has no such option.
    """
    if name not in ENCODERS:
        raise ValueError(f'encoder = "{name}" is unknown; take one of "{", ".join(ENCODERS)}"')
    options: dict[str, Any] = {"stem": stem, "stages": stages, "blocks": blocks}
    given = {option: value for option, value in options.items() if value}
    strange = "stem" if name == "efficientnet_lite0" else "blocks"
    if strange in given:
        raise ValueError(f'encoder = "{name}" has no option "{strange}"; leave it out')
    return ENCODERS[name](channels, **given)  # type: ignore[operator]


class Pyramid(nn.Module):
    """An encoder and its maps joined from coarse to fine: (B, channels, H, W) -> maps (B, width, ...) by stride.

    Args:
        width: channels of the joined maps.
        finest: the smallest stride of a joined map.
    """

    def __init__(self, encoder: Encoder, width: int, finest: int) -> None:
        super().__init__()
        strides = [stride for stride in encoder.channels if stride >= finest]
        if finest not in encoder.channels or len(strides) < 2:
            raise ValueError(
                f"stride {finest}: the encoder's maps have the strides {list(encoder.channels)}; one of {finest} is"
                " needed, and a coarser one to join it with: name another stride, or give the encoder more stages"
            )
        self.encoder, self.strides = encoder, tuple(strides)
        self.laterals = nn.ModuleDict({str(s): conv_bn(encoder.channels[s], width, 1, 1, 1, None) for s in strides})
        self.joints = nn.ModuleDict({str(s): separable(width, width) for s in strides})
        draw(self.laterals)
        draw(self.joints)

    @property
    def new_parts(self) -> tuple[str, ...]:
        """What published weights of the encoder leave as it was drawn."""
        return "laterals.", "joints.", *(f"encoder.{part}" for part in self.encoder.new_parts)

    def published_names(self) -> dict[str, str]:
        """As the encoder's."""
        return {
            published: f"encoder.{name}" if name else "" for published, name in self.encoder.published_names().items()
        }

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        maps = self.encoder(images)
        joined: dict[int, Tensor] = {}
        coarse: Tensor | None = None
        for stride in reversed(self.strides):
            own = self.laterals[str(stride)](maps[stride])
            coarse = self.joints[str(stride)](own if coarse is None else own + enlarged(coarse, own))
            joined[stride] = coarse
        return joined


def enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """Twice as many rows and columns, as many as the finer map has; each value four times."""
    twice = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
    return twice[:, :, : fine.shape[2], : fine.shape[3]]


def separable(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """A depthwise and a 1x1 convolution, each with batch norm and ReLU6."""
    return nn.Sequential(
        conv_bn(inputs, inputs, kernel, 1, inputs, nn.ReLU6()), conv_bn(inputs, outputs, 1, 1, 1, nn.ReLU6())
    )


def draw(model: nn.Module) -> None:
    """He initialization of its convolutions."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def sides(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Rows and columns of a map of that stride."""
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)
