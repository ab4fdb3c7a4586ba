"""Right and wrong: accuracy with its interval, per class, and calibration."""

import math
from typing import Literal

import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multilabel_f1_score,
)

Z_95 = 1.959963984540054


def wilson_interval(correct: int, samples: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927): 95 % by default; (0, 1) without samples."""
    if samples == 0:
        return 0.0, 1.0
    share = correct / samples
    center = share + z * z / (2 * samples)
    spread = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def per_class_accuracy(answers: Tensor, labels: Tensor, classes: int) -> tuple[float | None, ...]:
    """Share of each class's samples that are answered right; None for a class without samples.

    Both (N,) classes, or (N, classes) of 0 and 1: then it is the recall of each label.
    """
    shares: list[float | None] = []
    for label in range(classes):
        members, found = (x == label if x.ndim == 1 else x[:, label] == 1 for x in (labels, answers))
        count = int(members.sum())
        shares.append(int(found[members].sum()) / count if count else None)
    return tuple(shares)


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over confidence bins (Naeini et al. 2015; Guo et al. 2017).

    Where a sample has several labels (N, classes), the gap between a label's probability and how often it is there.
    """
    if labels.ndim == 2:
        return float(binary_calibration_error(torch.sigmoid(logits.float()).flatten(), labels.flatten(), n_bins=bins))
    probabilities = torch.softmax(logits.float(), 1)
    return float(
        multiclass_calibration_error(probabilities, labels, num_classes=logits.shape[1], n_bins=bins, norm="l1")
    )


def area_under_curve(logits: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of the second of two classes (N, 2); None of others, or where one is absent.

    By the ranks of the margins, ties at their mean (Mann and Whitney 1947): probabilities of large margins would tie.
    """
    if labels.ndim == 2 or logits.shape[1] != 2 or len(labels.unique()) < 2:
        return None
    ranks = rankdata((logits[:, 1].double() - logits[:, 0].double()).numpy())
    positive = (labels == 1).numpy()
    count, others = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def f1(logits: Tensor, labels: Tensor, average: Literal["micro", "macro"]) -> float | None:
    """F1 over all labels, or the mean of each label's, at a probability of one half; None of one class a sample."""
    if labels.ndim == 1:
        return None
    found = multilabel_f1_score((logits > 0).long(), labels, num_labels=labels.shape[1], average=average)
    return float(found)
