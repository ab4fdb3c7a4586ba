"""A network that was trained elsewhere, fed and read as it was trained."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.signature import one_output

Logits = Callable[[Tensor], Tensor]
"""Probabilities (N, classes) -> logits that give them."""


class Refit(nn.Module):
    """Images that are normalized in one way -> in another, resized, their channels in another order.

    Resizing is bilinear with antialiasing, by one matrix for the rows and one for the columns, which every runtime can
    multiply by.

    Args:
        before, after: mean and std per channel, of pixels in 0..1; those of `after` in the order that comes out.
        shape: (H, W) of the images. size: (H, W) that comes out.
        reverse: the channels come out in reverse: RGB as BGR.

    Shapes: (B, C, H, W) float32 -> (B, C, *size) float32.
    """

    def __init__(
        self,
        before: tuple[Sequence[float], Sequence[float]],
        after: tuple[Sequence[float], Sequence[float]],
        shape: tuple[int, int],
        size: tuple[int, int],
        reverse: bool = False,
    ) -> None:
        super().__init__()
        channels = list(range(len(before[0])))[:: -1 if reverse else 1]
        (mean, std), (own_mean, own_std) = (
            [torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in pair] for pair in (before, after)
        )
        mean, std = mean[:, channels], std[:, channels]
        self.scale = nn.Buffer((std / own_std).float(), persistent=False)
        self.offset = nn.Buffer(((mean - own_mean) / own_std).float(), persistent=False)
        self.order = nn.Buffer(torch.tensor(channels), persistent=False) if reverse else None
        self.rows = nn.Buffer(_resizing(shape[0], size[0]), persistent=False) if shape[0] != size[0] else None
        self.columns = nn.Buffer(_resizing(shape[1], size[1]).T, persistent=False) if shape[1] != size[1] else None

    def forward(self, images: Tensor) -> Tensor:
        if self.order is not None:
            images = images.index_select(1, self.order)
        images = images * self.scale + self.offset
        if self.rows is not None:
            images = torch.matmul(self.rows, images)
        return images if self.columns is None else torch.matmul(images, self.columns)


def _resizing(length: int, size: int) -> Tensor:
    """(size, length): the weights by which a resized line is made of a line of `length` pixels."""
    each = torch.eye(length).view(1, 1, length, length)
    return F.interpolate(each, (size, length), mode="bilinear", align_corners=False, antialias=True)[0, 0].contiguous()


class Adapted(nn.Module):
    """A network behind a view of its own, of whose outputs some are taken, in another order.

    Args:
        columns: of its logits, in the data's order of classes; None takes all as they are.
        logits: of probabilities, where it gives them in place of logits.

    Shapes: as the data's (B, ...) -> (B, classes) logits.
    """

    def __init__(
        self, network: nn.Module, view: Refit | None, columns: Sequence[int] | None, logits: Logits | None = None
    ) -> None:
        super().__init__()
        self.view, self.network, self.logits = view, network, logits
        self.columns = None if columns is None else nn.Buffer(torch.tensor(columns), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.network(inputs if self.view is None else self.view(inputs))
        if self.logits:
            logits = self.logits(one_output(logits).float())
        return logits if self.columns is None else logits.index_select(1, self.columns)
