"""Whether predictions fit the classes, or labels, in another order than their own, which a network was trained with."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SURE = 3.0  # standard deviations by which the other order must fit better


def other_order(predictions: Tensor, targets: Tensor, classes: int) -> tuple[int, ...]:
    """Of each class that predictions name, the one that is meant, where that is another order; empty where it is not.

    The order is read from one half of the samples, of every class alike, and tried on the other: of the predictions
    that it changes at least twice as many must be right as before, beyond chance, and in more than half of the classes.

    Args:
        predictions, targets: (N,) int64.
    """
    by_class = targets.argsort(stable=True)
    return _judged(*(_counts(predictions[half], targets[half], classes) for half in (by_class[::2], by_class[1::2])))


def other_label_order(predictions: Tensor, targets: Tensor) -> tuple[int, ...]:
    """As `other_order`, of several labels: at most half as many of the predictions that it changes must be wrong.

    Args:
        predictions, targets: (N, labels) of 0 and 1.
    """
    alike = targets.unique(dim=0, return_inverse=True)[1].argsort(stable=True)
    return _judged(*(-_disagreements(predictions[half], targets[half]) for half in (alike[::2], alike[1::2])))


def _judged(first: Tensor, second: Tensor) -> tuple[int, ...]:
    """The order that fits best, if the one of the first half is far better than none on the second.

    Args:
        first, second: (classes, classes), how well an output fits each class: counts of right predictions, or of wrong
            ones below zero.
    """
    order = _best_order(first)
    changed = (order != torch.arange(len(order))).nonzero().flatten()
    before, after = second[changed, changed], second[changed, order[changed]]
    gain, total = float((after - before).sum()), float(after.abs().sum() + before.abs().sum())
    is_sure = gain > SURE * total**0.5 and 3 * gain >= total  # twice as many on one side as on the other
    if not is_sure or 2 * int((after > before).sum()) <= len(changed):
        return ()
    return tuple(_best_order(first + second).tolist())


def relabelled(labels: Sequence[str], places: Sequence[int], classes: Sequence[str], order: Sequence[int]) -> list[str]:
    """The labels of a network's outputs, corrected by an order of `other_order`.

    Args:
        labels: of all its outputs, as they were thought to be.
        places: of each class among them.
    """
    names = list(labels)
    for number, place in enumerate(places):
        names[place] = classes[order[number]]
    return names


def _counts(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """(classes, classes): how often the one was predicted where the other is right."""
    flat = predictions * classes + targets
    return flat.bincount(minlength=classes**2).view(classes, classes)


def _disagreements(predictions: Tensor, targets: Tensor) -> Tensor:
    """(labels, labels): for how many samples the prediction of the one is not the other."""
    own, other = predictions.double(), targets.double()
    return (own.T @ (1 - other) + (1 - own).T @ other).long()


def _best_order(counts: Tensor) -> Tensor:
    """(classes,): the one-to-one order that makes most predictions right; where two do, what stays as it is."""
    weights = counts * (len(counts) + 1) + torch.eye(len(counts), dtype=counts.dtype)
    return torch.from_numpy(linear_sum_assignment(weights.numpy(), maximize=True)[1])
