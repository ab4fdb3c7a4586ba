"""Average precision of boxes as COCO measures it, and its bootstrap interval over images.

Lin et al. 2014, "Microsoft COCO: common objects in context" (arXiv:1405.0312), as its reference code computes it:
boxes are matched greedily from the likeliest on, crowds swallow any number of boxes and count for nothing, precision
is read at 101 recalls. `faster-coco-eval` is the ruler of the tests.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distiq.device.run import overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps (intersection over union) from which a box counts as found."""
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # boxes of an image and class that are looked at
RESAMPLES = 200


class Matches(NamedTuple):
    """The predicted boxes of one class in all images, likeliest first.

    images: (B,) int64, of each its image. scores: (B,). hits, ignored: (thresholds, B) bool; those that are matched
    with a crowd are ignored. objects: (N,) int64, how many there are to find in each image.
    """

    images: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


def matches(kept: Tensor, targets: Tensor, classes: int) -> list[Matches]:
    """What is found of each class.

    Args:
        kept: (N, K, 6), class, x0, y0, x1, y1, score. targets: (N, M, 6), class, x0, y0, x1, y1, crowd. Rows of class
            -1 are padding.
    """
    parts: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(classes)]
    objects = np.zeros((classes, len(targets)), np.int64)
    # In float64, as the reference code computes: a box at the very threshold must fall to the same side.
    for image, (boxes, own) in enumerate(zip(kept.double().numpy(), targets.double().numpy(), strict=True)):
        for number in range(classes):
            predicted, targeted = boxes[boxes[:, 0] == number, 1:], own[own[:, 0] == number, 1:]
            objects[number, image] = int((targeted[:, 4] == 0).sum())
            parts[number].append(_match(predicted, targeted))
    return [_joined(one, objects[number]) for number, one in enumerate(parts)]


def _joined(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], objects: np.ndarray) -> Matches:
    scores = np.concatenate([part[0] for part in parts])
    images = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    order = np.argsort(-scores, kind="stable")
    hits, ignored = (np.concatenate([part[side] for part in parts], 1)[:, order] for side in (1, 2))
    return Matches(images[order], scores[order], hits, ignored, objects)


def _match(boxes: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the boxes of one image and class, likeliest first: scores, hits and ignored.

    Args:
        boxes: (K, 5), corners and score. there: (M, 5), corners and crowd.
    """
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")][:MOST]
    there = there[np.argsort(there[:, 4], kind="stable")]  # crowds last: any object is a better match
    crowd = there[:, 4] == 1
    shared = (
        overlaps(boxes[:, :4], there[:, :4], crowd) if len(boxes) and len(there) else np.zeros((len(boxes), len(there)))
    )
    hits, ignored = np.zeros((2, len(THRESHOLDS), len(boxes)), bool)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.tile(~crowd, (len(THRESHOLDS), 1))
    for row in np.flatnonzero((shared >= limits[0]).any(1)):
        able = shared[row] >= limits
        own = able & free
        # The object that overlaps most, the last of equals.
        match = own.shape[1] - 1 - np.where(own, shared[row], -1.0)[:, ::-1].argmax(1)
        hits[:, row] = own.any(1)
        free[hits[:, row], match[hits[:, row]]] = False
        ignored[:, row] = ~hits[:, row] & (able & crowd).any(1)
    return boxes[:, 4], hits, ignored


def average_precision(one: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """The average precision at each threshold, (draws, thresholds); NaN where there is nothing to find.

    Args:
        weights: (draws, N), how often each image counts; by default once.
    """
    weights = np.ones((1, len(one.objects))) if weights is None else weights
    objects = weights @ one.objects
    counted = weights[:, one.images]
    precisions = np.full((len(weights), len(THRESHOLDS)), np.nan)
    for level in range(len(THRESHOLDS)):
        right = np.cumsum(counted * one.hits[level], 1)
        wrong = np.cumsum(counted * ~(one.hits[level] | one.ignored[level]), 1)
        precision = right / np.maximum(right + wrong, np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        for draw in np.flatnonzero(objects):
            places = np.searchsorted(right[draw] / objects[draw], RECALLS, side="left")
            read = np.append(envelope[draw], 0.0)[places]
            precisions[draw, level] = read.mean()
    return precisions


def precision_at_recalls(one: Matches) -> list[float]:
    """The precision at each of RECALLS, at an overlap of a half; 0 where so many are never found."""
    objects = int(one.objects.sum())
    right, wrong = np.cumsum(one.hits[0]), np.cumsum(~(one.hits[0] | one.ignored[0]))
    precision = right / np.maximum(right + wrong, np.spacing(1))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    places = np.searchsorted(right / max(1, objects), RECALLS, side="left")
    return [round(float(value), 4) for value in envelope[places]]


def mean_precision(by_class: list[Matches], weights: np.ndarray | None = None) -> np.ndarray:
    """mAP at each threshold, (draws, thresholds): the mean over the classes of which there is something to find."""
    precisions = np.stack([average_precision(one, weights) for one in by_class])
    there = ~np.isnan(precisions)
    return np.where(there, precisions, 0).sum(0) / np.maximum(there.sum(0), 1)


def interval(by_class: list[Matches], images: int) -> tuple[float, float]:
    """The interval of mAP over all thresholds, 95 %, from images drawn with replacement."""
    low, high = np.quantile(mean_precision(by_class, _drawn(images)).mean(1), [0.025, 0.975])
    return float(low), float(high)


def weighted(kept: Tensor, targets: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """How often each image counts, (draws, N) float64 -> mAP over all thresholds, (draws,) float64.

    Args:
        kept, targets: as for `matches`.
    """
    by_class = matches(kept, targets, classes)
    return lambda weights: torch.from_numpy(mean_precision(by_class, weights.numpy()).mean(1))


def _drawn(images: int) -> np.ndarray:
    """How often each image is drawn with replacement, (RESAMPLES, images)."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(images, (RESAMPLES, images), generator=generator).numpy()
    return np.stack([np.bincount(draw, minlength=images) for draw in draws]).astype(float)
