"""An anchor-free detector of one or two strides, its classes and its boxes apart."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.models.pyramid import Pyramid, draw, make_encoder, separable

RARE = 0.01  # how likely a class is at a position before training (Lin et al. 2017, arXiv:1708.02002)
NEAR = 2.0  # distances to the sides of a box before training, in strides


class Detector(nn.Module):
    """A pyramid, and on each of its finest maps a head for the classes and one for the boxes.

    Every output is a tensor of its own, so each has its own range. `distiq.device.run.joined_heads` makes boxes of
    them.

    Args:
        classes: number of classes.
        channels: channels of the image.
        encoder: "mobilenet", "resnet" or "efficientnet_lite0"; published weights fit the last one.
        stem, stages, blocks: of the encoder; 0 and empty take its own. See `pyramid.make_encoder`.
        width: channels of the heads.
        strides: of the maps that objects are looked for on.
        depth: layers of each head before its last one.

    Shapes: (B, channels, H, W) -> by stride, such as 8, "classes_8" (B, classes, H / 8, W / 8) logits and "boxes_8"
    (B, 4, H / 8, W / 8), from which softplus makes distances to the left, upper, right and lower side, in strides.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        encoder: str = "mobilenet",
        stem: int = 0,
        stages: Sequence[Sequence[int]] = (),
        blocks: int = 0,
        width: int = 48,
        strides: Sequence[int] = (8, 16),
        depth: int = 1,
    ) -> None:
        super().__init__()
        if not strides or len(set(strides)) < len(strides):
            raise ValueError(f"strides = {list(strides)}: name one or more, each once, such as [8, 16]")
        self.pyramid = Pyramid(make_encoder(encoder, channels, stem, stages, blocks), width, min(strides))
        self.strides = tuple(strides)
        if strange := [stride for stride in strides if stride not in self.pyramid.strides]:
            raise ValueError(f"strides = {list(strides)}: the encoder has no map of stride {strange[0]}")
        self.class_heads = nn.ModuleDict({str(stride): _head(width, classes, depth) for stride in strides})
        self.box_heads = nn.ModuleDict({str(stride): _head(width, 4, depth) for stride in strides})
        for heads, bias in ((self.class_heads, -math.log(1 / RARE - 1)), (self.box_heads, NEAR)):
            for head in heads.values():
                last = head[-1]  # type: ignore[index]
                nn.init.normal_(last.weight, std=0.01)
                nn.init.constant_(last.bias, bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.pyramid(images)
        outputs: dict[str, Tensor] = {}
        for stride in self.strides:
            outputs[f"classes_{stride}"] = self.class_heads[str(stride)](maps[stride])
            outputs[f"boxes_{stride}"] = self.box_heads[str(stride)](maps[stride])
        return outputs

    @property
    def new_parts(self) -> tuple[str, ...]:
        """What weights of the encoder alone leave as it was drawn."""
        return *(f"pyramid.{part}" for part in self.pyramid.new_parts), "class_heads.", "box_heads."

    def published_names(self) -> dict[str, str]:
        """Of the encoder, where it has published weights."""
        names = self.pyramid.published_names()
        return {published: f"pyramid.{name}" if name else "" for published, name in names.items()}


def _head(width: int, outputs: int, depth: int) -> nn.Sequential:
    layers = [separable(width, width) for _ in range(depth)]
    draw(nn.Sequential(*layers))
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 1))


def joined(outputs: dict[str, Tensor]) -> Tensor:
    """What a detector gives as one tensor (B, 4 + classes, positions): corners x0, y0, x1, y1 in pixels, then logits.

    Positions are those of the maps in the order of their strides, row by row. The same as `joined_heads` of the
    bundle's runner, for tensors.
    """
    parts = []
    for stride in strides_of(outputs):
        classes, raw = outputs[f"classes_{stride}"], outputs[f"boxes_{stride}"]
        distances = nn.functional.softplus(raw.float()) * stride
        rows, columns = (torch.arange(size, device=raw.device) for size in raw.shape[2:])
        y, x = ((rows + 0.5) * stride).view(-1, 1), ((columns + 0.5) * stride).view(1, -1)
        left, upper, right, lower = distances.unbind(1)
        corners = torch.stack([x - left, y - upper, x + right, y + lower], 1)
        parts.append(torch.cat([corners, classes.float()], 1).flatten(2))
    return torch.cat(parts, 2)


def strides_of(outputs: dict[str, Tensor]) -> list[int]:
    """The strides that a detector's outputs are named after, ascending."""
    numbers = (name.rpartition("_")[2] for name in outputs if name.startswith("classes_"))
    return sorted(int(number) for number in numbers if number.isdigit() and f"boxes_{number}" in outputs)
