"""Right and wrong predictions of classes: by class, calibration, ranking."""

from typing import Literal

import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multilabel_f1_score,
)

BINS = 15


def recall_by_class(predictions: Tensor, targets: Tensor, classes: int) -> tuple[float | None, ...]:
    """Share of each class's samples that are predicted right; None of a class without any. Shapes: both (N,)."""
    right = targets[predictions == targets]
    return _shares(right.bincount(minlength=classes), targets.bincount(minlength=classes))


def recall_by_label(predictions: Tensor, targets: Tensor) -> tuple[float | None, ...]:
    """Share of the samples with a label for which it is predicted. Shapes: both (N, labels) of 0 and 1."""
    return _shares((predictions * targets).sum(0), targets.sum(0))


def _shares(hits: Tensor, counts: Tensor) -> tuple[float | None, ...]:
    pairs = zip(hits.tolist(), counts.tolist(), strict=True)
    return tuple(own / count if count else None for own, count in pairs)


def calibration_error(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy over confidence bins (Naeini et al. 2015; Guo et al. 2017).

    Shapes: logits (N, classes), targets (N,).
    """
    probabilities = torch.softmax(logits.float(), 1)
    classes = logits.shape[1]
    return float(multiclass_calibration_error(probabilities, targets, num_classes=classes, n_bins=bins, norm="l1"))


def label_calibration_error(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """Mean gap between a label's probability and how often it is there. Shapes: both (N, labels)."""
    return float(binary_calibration_error(torch.sigmoid(logits.float()).flatten(), targets.flatten(), n_bins=bins))


def area_under_curve(logits: Tensor, targets: Tensor) -> float | None:
    """Area under the ROC curve of the second of two classes (N, 2); None of more classes, or where one is absent.

    By the ranks of the margins, ties at their mean (Mann and Whitney 1947): probabilities of large margins would tie.
    """
    if logits.shape[1] != 2 or len(targets.unique()) < 2:
        return None
    ranks = rankdata((logits[:, 1].double() - logits[:, 0].double()).numpy())
    positive = (targets == 1).numpy()
    count, others = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def f1(predictions: Tensor, targets: Tensor, average: Literal["micro", "macro"]) -> float:
    """F1 over all labels, or the mean of each label's. Shapes: both (N, labels) of 0 and 1."""
    return float(multilabel_f1_score(predictions, targets, num_labels=targets.shape[1], average=average))
