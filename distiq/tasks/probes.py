"""Vectors of samples whose classes are known, learned from a teacher's vectors alone: what they tell of the classes is
measured by a linear layer and by nearest neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.numerics import drawn
from distiq.records.quality import Metric
from distiq.tasks.intervals import wilson_interval
from distiq.tasks.neighbours import nearest
from distiq.tasks.task import Scores

NEIGHBOURS = 10
RIDGE = 0.3  # of a standardized column's mean square: vectors may be wider than samples are many


def right_by_probe(vectors: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples of the second half a linear layer, fitted to the first by ridge regression, classifies right: two
    boolean masks (N,), of those and of the half. The halves are drawn, always alike.

    Args:
        vectors: (N, D). classes: (N,) int64.
    """
    learned = torch.zeros(len(vectors), dtype=torch.bool)
    learned[drawn(len(vectors), (len(vectors) + 1) // 2)] = True
    own = vectors.double()
    mean, spread = own[learned].mean(0), own[learned].std(0, unbiased=False).clamp(min=1e-9)
    own = F.pad((own - mean) / spread, (0, 1), value=1.0)
    aims = F.one_hot(classes, int(classes.max()) + 1).double()
    gram = own[learned].T @ own[learned] / learned.sum()
    gram += RIDGE * torch.eye(len(gram), dtype=gram.dtype)
    layer = torch.linalg.solve(gram, own[learned].T @ aims[learned] / learned.sum())
    return ((own @ layer).argmax(1) == classes) & ~learned, ~learned


def right_by_neighbours(vectors: Tensor, classes: Tensor) -> Tensor:
    """Of which samples most of the nearest others, by cosine, have the class: boolean mask (N,)."""
    count = min(NEIGHBOURS, len(vectors) - 1)
    if not count:
        return torch.ones(len(vectors), dtype=torch.bool)
    votes = F.one_hot(classes[nearest(vectors, count)], int(classes.max()) + 1).sum(1)
    return votes.argmax(1) == classes


def score(outputs: Tensor, targets: Tensor) -> Scores:
    """The accuracies of both, the linear layer's first."""
    (right, tested), near = right_by_probe(outputs, targets), right_by_neighbours(outputs, targets)
    count, samples = int(right.sum()), max(1, int(tested.sum()))
    return Scores(
        Metric(
            name="linear_probe", title="linear probe", note="accuracy on half of the samples, fitted to the others",
            value=count / samples, interval=wilson_interval(count, samples), interval_by="Wilson",
        ),
        (
            Metric(
                name="nearest_neighbours", title="nearest neighbours", value=float(near.double().mean()),
                note=f"accuracy of the vote of the {NEIGHBOURS} nearest others",
            ),
        ),
    )  # fmt: skip


def counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """(N, 2): right by the linear layer, and tested by it."""
    return torch.stack(right_by_probe(outputs, targets), 1).double()


def of_counts(sums: Tensor) -> Tensor:
    """The accuracy of the linear layer from sums (..., 2)."""
    return sums[..., 0] / sums[..., 1].clamp(min=1)
