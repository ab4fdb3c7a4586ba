"""Which positions of an anchor-free detector learn which object, and the overlap of boxes to learn from."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.errors import UserError

STRIDES = (4, 8, 16, 32, 64, 128)
ALPHA, BETA = 0.5, 6.0  # exponents of score and overlap (Feng et al. 2021, section 3.3; 0.5 as YOLOv8 has it)
LEARNING = 10  # positions that learn an object
EPSILON = 1e-9


class Positions(NamedTuple):
    """Where a detector looks: centres (P, 2) as x, y and strides (P,), both in pixels."""

    centres: Tensor
    strides: Tensor


def positions_of(size: Sequence[int], count: int) -> Positions:
    """The positions of so many outputs for images of that size (height, width): those of neighbouring strides.

    Raises:
        UserError: no maps of neighbouring strides from 4 to 128 have so many positions together.
    """
    maps = [(stride, math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in STRIDES]
    for first in range(len(maps)):
        for last in range(first + 1, len(maps) + 1):
            if sum(rows * columns for _, rows, columns in maps[first:last]) == count:
                return _centres(maps[first:last])
    raise UserError(
        f"the network gives {count} boxes for images of {size[0]} x {size[1]}; a detector gives one for each position"
        f" of maps of neighbouring strides, such as {sum(rows * columns for _, rows, columns in maps[1:3])} at 8 and 16"
    )


def usual_positions(size: Sequence[int]) -> int:
    """How many positions the maps of strides 8 and 16 have."""
    return sum(math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in (8, 16))


def _centres(maps: Sequence[tuple[int, int, int]]) -> Positions:
    centres, strides = [], []
    for stride, rows, columns in maps:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append((torch.stack([x, y], -1).flatten(0, 1) + 0.5) * stride)
        strides.append(torch.full((rows * columns,), float(stride)))
    return Positions(torch.cat(centres), torch.cat(strides))


class Assigned(NamedTuple):
    """What positions learn: scores (N, P, classes), 0 where there is no object; objects (N, P), the row of the targets;
    learning (N, P) bool, those with an object; ignored (N, P) bool, those in a crowd alone."""

    scores: Tensor
    objects: Tensor
    learning: Tensor
    ignored: Tensor


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, targets: Tensor, positions: Positions) -> Assigned:
    """Task-aligned assignment: an object is learned where score and box fit it best already.

    Feng et al. 2021, "TOOD: task-aligned one-stage object detection" (arXiv:2108.07755), section 3.3. Positions lie
    within the object, or nearest to the middle of one that holds none; of several objects a position learns that which
    its box overlaps most. What it learns is the overlap of the object's best box, times how it compares with that.

    Args:
        scores: (N, P, classes), probabilities. boxes: (N, P, 4), corners. targets: (N, M, 6), see `boxes`.
    """
    classes, corners = targets[:, :, 0].long(), targets[:, :, 1:5]
    is_crowd = (targets[:, :, 5] == 1) & (classes >= 0)
    is_object = (classes >= 0) & ~is_crowd
    within = _within(corners, positions.centres)
    candidates = (within | _nearest(corners, positions.centres)) & is_object.unsqueeze(2)
    shared = overlap(corners.unsqueeze(2), boxes.unsqueeze(1)).clamp(min=0)
    own = scores.transpose(1, 2).gather(1, classes.clamp(min=0).unsqueeze(2).expand(-1, -1, scores.shape[1]))
    fit = own.pow(ALPHA) * shared.pow(BETA) * candidates + EPSILON * candidates
    best = fit.topk(min(LEARNING, fit.shape[2]), dim=2)
    chosen = torch.zeros_like(candidates).scatter(2, best.indices, best.values > 0) & candidates
    objects = torch.where(chosen, shared + EPSILON, 0.0).argmax(1)
    learning = chosen.any(1)
    one = torch.zeros_like(chosen).scatter(1, objects.unsqueeze(1), True) & chosen
    fit, shared = fit * one, shared * one
    quality = (fit / fit.amax(2, keepdim=True).clamp(min=EPSILON) * shared.amax(2, keepdim=True)).amax(1)
    labels = classes.gather(1, objects).clamp(min=0)
    aims = torch.zeros_like(scores).scatter(2, labels.unsqueeze(2), (quality * learning).unsqueeze(2))
    ignored = (within & is_crowd.unsqueeze(2)).any(1) & ~learning
    return Assigned(aims, objects, learning, ignored)


def _within(corners: Tensor, centres: Tensor) -> Tensor:
    """Which positions lie in which boxes, (N, M, P)."""
    x, y = centres.unbind(1)
    left, upper, right, lower = (side.unsqueeze(2) for side in corners.unbind(2))
    return (x > left) & (x < right) & (y > upper) & (y < lower)


def _nearest(corners: Tensor, centres: Tensor) -> Tensor:
    """The position nearest to the middle of each box, (N, M, P) with one true a row."""
    middles = (corners[..., :2] + corners[..., 2:]) / 2
    distances = (middles.unsqueeze(2) - centres).square().sum(3)
    return torch.zeros_like(distances, dtype=torch.bool).scatter(2, distances.argmin(2, keepdim=True), True)


def overlap(one: Tensor, other: Tensor, generalized: bool = False) -> Tensor:
    """Intersection over union of boxes (..., 4) of corners.

    Args:
        generalized: less the share of the box around both that is in neither: -1 to 1 (Rezatofighi et al. 2019,
            arXiv:1902.09630).
    """
    shared = _area(torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:]))
    areas = [_area(boxes[..., :2], boxes[..., 2:]) for boxes in (one, other)]
    union = areas[0] + areas[1] - shared
    ratio = shared / union.clamp(min=EPSILON)
    if not generalized:
        return ratio
    around = _area(torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:]))
    return ratio - (around - union) / around.clamp(min=EPSILON)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)
