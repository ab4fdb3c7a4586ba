"""Views of images that move their masks and boxes along: every pixel of a view has one place in its image.

A view is an affine map without turning: columns x of the view lie at `left + x / width * across` of the image, rows
likewise. Images are read bilinearly there, masks to the nearest, boxes by the inverse. What a view shows beyond its
image is grey, and void. Of a box that a view cuts, the part within is left; one that keeps less of its area than
`min_visibility`, or less than two pixels of a side, is dropped.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import BOXES, VOID, form_of
from distiq.data.samples import Split
from distiq.device.run import PADDING
from distiq.recipe.data import ViewSettings

SMALLEST = 2.0  # side of a box, in pixels
DRAWS = 16  # random numbers of a placement
MOSAIC = 4  # images of one
SHRINK = (0.5, 1.0)  # by which the images of a mosaic are shrunk
NEAREST_SIDE = 0.3  # of the view, how near to it the point is where the four meet


class Placement(NamedTuple):
    """Where a view lies in its image, in pixels, (B,) each; `mirrored`: from right to left, `upended`: from bottom to
    top."""

    left: Tensor
    upper: Tensor
    across: Tensor
    down: Tensor
    mirrored: Tensor
    upended: Tensor


class Placed(NamedTuple):
    """Views of images (B, C, H, W) and their labels: masks (B, H, W), or boxes (B, M, 6)."""

    images: Tensor
    labels: Tensor


def placed_views(
    split: Split, indices: Tensor, settings: ViewSettings, draw: Callable[[Tensor, int], Tensor]
) -> Placed:
    """The views of samples, with their labels; of some a mosaic of four.

    Args:
        draw: positions (B,) and a count -> numbers in [0, 1), (B, count), which depend on each position alone.
    """
    draws = draw(indices, DRAWS + MOSAIC + 8)
    height, width = split.samples.shape[1:]
    is_joined = draws[:, DRAWS] < settings.mosaic
    plain, joined = (~is_joined).nonzero().flatten(), is_joined.nonzero().flatten()
    own = Placed(split.fetch(indices[plain]), split.labels[indices[plain]])
    views = _moved(own, placement(settings, height, width, draws[plain]), settings.min_visibility)
    if not settings.mosaic:
        return views
    mosaics = _mosaic(split, indices[joined], settings, draw, draws[joined, DRAWS + 1 :])
    order = torch.cat([plain, joined]).argsort()
    labels = torch.cat([_with_room(views.labels), mosaics.labels])
    return Placed(torch.cat([views.images, mosaics.images])[order], labels[order])


def placement(settings: ViewSettings, height: int, width: int, draws: Tensor) -> Placement:
    """Where views lie by draws (B, 9 or more): cropped, scaled, moved, mirrored, in that order."""
    shares = []
    area = settings.crop + (1 - settings.crop) * draws[:, 0]
    aspect = torch.exp((2 * draws[:, 1] - 1) * torch.log(torch.tensor(4 / 3))) if settings.crop < 1 else torch.ones(())
    zoom = (1 + settings.scale) ** (1 - 2 * draws[:, 4])
    for side, share, start in (
        (width, (area * aspect).sqrt(), draws[:, 2]),
        (height, (area / aspect).sqrt(), draws[:, 3]),
    ):
        share = share.clamp(max=1)
        span = share * zoom * side
        middle = (start * (1 - share) + share / 2) * side
        shares.append((middle - span / 2, span))
    moves = ((draws[:, 5:7] * (2 * settings.shift + 1)).floor() - settings.shift).unbind(1)
    (left, across), (upper, down) = shares
    return Placement(left + moves[0], upper + moves[1], across, down, *_flips(settings, draws))


def _flips(settings: ViewSettings, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Which images (B,) are mirrored from right to left, and which from bottom to top."""
    return draws[:, 7] < (0.5 if settings.flip else 0.0), draws[:, 8] < (0.5 if settings.flip_vertical else 0.0)


def _moved(own: Placed, where: Placement, visibility: float) -> Placed:
    height, width = own.images.shape[2:]
    grid = _grid(where, height, width)
    images = _read(own.images.float() - PADDING, grid, "bilinear") + PADDING
    if own.images.dtype == torch.uint8:
        images = images.round().clamp(0, 255).to(torch.uint8)
    if form_of(own.labels) is BOXES:
        window = torch.tensor([0.0, 0.0, width, height]).expand(len(images), 4)
        return Placed(images, moved_boxes(own.labels, where, (height, width), window, visibility))
    # Void is 0 while masks are read, as is what lies beyond them.
    shifted = (own.labels.float() + 1).remainder(VOID + 1).unsqueeze(1)
    masks = _read(shifted, grid, "nearest").squeeze(1)
    return Placed(images, (masks - 1).remainder(VOID + 1).to(torch.uint8))


def _grid(where: Placement, height: int, width: int) -> Tensor:
    """The places (B, H, W, 2) of a view's pixels, as `grid_sample` wants them: -1 to 1 between an image's sides."""
    x, y = ((torch.arange(size) + 0.5) / size for size in (width, height))
    columns = torch.where(where.mirrored.unsqueeze(1), 1 - x, x)
    columns = (where.left.unsqueeze(1) + columns * where.across.unsqueeze(1)) * 2 / width - 1
    rows = torch.where(where.upended.unsqueeze(1), 1 - y, y)
    rows = (where.upper.unsqueeze(1) + rows * where.down.unsqueeze(1)) * 2 / height - 1
    return torch.stack([columns.unsqueeze(1).expand(-1, height, -1), rows.unsqueeze(2).expand(-1, -1, width)], 3)


def _read(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(values, grid, mode, "zeros", align_corners=False)


def moved_boxes(boxes: Tensor, where: Placement, size: tuple[int, int], window: Tensor, visibility: float) -> Tensor:
    """Boxes (B, M, 6) as they lie in a view; those that are dropped become padding.

    Args:
        window: (B, 4), the corners of the part of the view that is seen.
        visibility: the smallest share of its area that a box keeps.
    """
    height, width = size
    x = (boxes[:, :, [1, 3]] - where.left.view(-1, 1, 1)) / where.across.view(-1, 1, 1)
    y = (boxes[:, :, [2, 4]] - where.upper.view(-1, 1, 1)) / where.down.view(-1, 1, 1)
    x = torch.where(where.mirrored.view(-1, 1, 1), 1 - x.flip(2), x) * width
    y = torch.where(where.upended.view(-1, 1, 1), 1 - y.flip(2), y) * height
    whole = (x[..., 1] - x[..., 0]) * (y[..., 1] - y[..., 0])
    low, high = window[:, None, :2], window[:, None, 2:]
    x, y = (side.clamp(low[..., axis, None], high[..., axis, None]) for axis, side in enumerate((x, y)))
    across, down = x[..., 1] - x[..., 0], y[..., 1] - y[..., 0]
    stays = (across * down >= visibility * whole) & (torch.minimum(across, down) >= SMALLEST) & (boxes[:, :, 0] >= 0)
    moved = torch.stack([boxes[:, :, 0], x[..., 0], y[..., 0], x[..., 1], y[..., 1], boxes[:, :, 5]], 2)
    padding = torch.tensor([-1.0, 0, 0, 0, 0, 0])
    unknown = boxes[:, :, 0].isnan().unsqueeze(2)  # of images without labels
    return torch.where(unknown, boxes, torch.where(stays.unsqueeze(2), moved, padding))


def _with_room(labels: Tensor) -> Tensor:
    """Boxes with room for those of a whole mosaic; masks as they are."""
    if form_of(labels) is not BOXES:
        return labels
    padded = F.pad(labels, (0, 0, 0, (MOSAIC - 1) * labels.shape[1]))
    padded[:, labels.shape[1] :, 0] = -1
    return padded


def _mosaic(
    split: Split, indices: Tensor, settings: ViewSettings, draw: Callable[[Tensor, int], Tensor], draws: Tensor
) -> Placed:
    """Four images around a point, each shrunk, its own one first (Bochkovskiy et al. 2020, arXiv:2004.10934)."""
    height, width = split.samples.shape[1:]
    span = 1 - 2 * NEAREST_SIDE
    x, y = (((NEAREST_SIDE + span * draws[:, axis]) * side).round() for axis, side in enumerate((width, height)))
    images = torch.full((len(indices), *split.samples.shape), PADDING, dtype=split.samples.dtype)
    labels: list[Tensor] = []
    masks = torch.full((len(indices), height, width), VOID, dtype=torch.uint8)
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    for number in range(MOSAIC):
        partner = (
            indices if number == 0 else (indices + 1 + (draws[:, 1 + number] * (len(split) - 1)).long()) % len(split)
        )
        low, high = SHRINK
        factor = low + (high - low) * draws[:, 5 + number]
        is_right, is_lower = number % 2 == 1, number >= 2
        # The corner of the image that is nearest to the point lies on it.
        across, down = width / factor, height / factor
        left = -x / factor if is_right else width - x / factor
        upper = -y / factor if is_lower else height - y / factor
        unturned = torch.zeros(len(indices), dtype=torch.bool)
        where = Placement(left, upper, across, down, unturned, unturned)
        own = Placed(split.fetch(partner), split.labels[partner])
        for side, flips in zip((3, 2), _flips(settings, draw(partner, DRAWS)), strict=True):
            own = _flipped(own, flips, side)
        part = _moved(own, where, settings.min_visibility)
        zero, full = torch.zeros_like(x), torch.ones_like(x)
        window = torch.stack(
            [
                x if is_right else zero,
                y if is_lower else zero,
                full * width if is_right else x,
                full * height if is_lower else y,
            ],
            1,
        )
        inside = (columns >= window[:, 0].view(-1, 1, 1)) & (columns < window[:, 2].view(-1, 1, 1))
        inside = inside & (rows >= window[:, 1].view(-1, 1, 1)) & (rows < window[:, 3].view(-1, 1, 1))
        images = torch.where(inside.unsqueeze(1), part.images, images)
        if form_of(own.labels) is BOXES:
            labels.append(moved_boxes(own.labels, where, (height, width), window, settings.min_visibility))
        else:
            masks = torch.where(inside, part.labels, masks)
    return Placed(images, torch.cat(labels, 1) if labels else masks)


def _flipped(own: Placed, flips: Tensor, side: int) -> Placed:
    """The samples, those of `flips` mirrored along that dimension of their images: 3 is the width, 2 the height."""
    size = own.images.shape[side]
    images = torch.where(flips.view(-1, 1, 1, 1), own.images.flip(side), own.images)
    if form_of(own.labels) is not BOXES:
        return Placed(images, torch.where(flips.view(-1, 1, 1), own.labels.flip(side - 1), own.labels))
    turned, low = own.labels.clone(), 4 - side
    turned[:, :, low], turned[:, :, low + 2] = size - own.labels[:, :, low + 2], size - own.labels[:, :, low]
    turned = torch.where(own.labels[:, :, :1] >= 0, turned, own.labels)
    return Placed(images, torch.where(flips.view(-1, 1, 1), turned, own.labels))
