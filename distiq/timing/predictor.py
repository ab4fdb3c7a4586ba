"""A network's latency and size before its file is made: predicted from its operations, by files that were measured.

Latency is a sum over operations: each kind has a price for being there at all, for its multiply-add operations, as they
are and as kernels of whole vectors compute them, and for the values that it reads and writes. The prices of a machine
and a runtime are learned from files that were timed there; none is negative, and relative errors count.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from distiq.evaluation.operations import WEIGHTED, Operation
from distiq.records.search import PredictionError

RIDGE = 1e-4  # of squared relative prices: what is hardly seen costs little
FOLDS = 8
FEWEST = 16  # files from which prices are learned
Features = Mapping[str, float]


def features(operations: Sequence[Operation]) -> dict[str, float]:
    """What is paid for: "the file" itself and, of each kind of operation, the sums of what it does."""
    found = {"the file": 1.0}
    for one in operations:
        values = {"": 1.0, " values": one.rows * one.columns * one.groups}
        if one.kind in WEIGHTED or one.kind == "product":
            values |= {" macs": one.macs, " read": one.rows * one.inner * one.groups}
            values |= {" weights": one.weights, " channels": one.columns * one.groups}
            values |= {" padded macs": one.padded_macs(16, 4), " widely padded macs": one.padded_macs(64, 16)}
        for name, value in values.items():
            if value:  # what is never done, such as reading weights in products of two values, has no price
                found[one.kind + name] = found.get(one.kind + name, 0.0) + value
    return found


@dataclass(frozen=True)
class Predictor:
    """Prices by name of a feature."""

    prices: Mapping[str, float]

    def __call__(self, given: Features) -> float:
        """The predicted cost; infinite is never predicted, and nan where an operation was never priced."""
        if any(name not in self.prices for name in given):
            return math.nan
        return sum(self.prices[name] * value for name, value in given.items())


def fit(seen: Sequence[Features], costs: Sequence[float]) -> Predictor:
    """Prices that are not negative and minimize the squared relative error, with a little of ridge regression."""
    names = sorted({name for given in seen for name in given})
    table = np.array([[given.get(name, 0.0) for name in names] for given in seen]) / np.asarray(costs)[:, None]
    scale = np.sqrt((table**2).mean(0))
    ridge = math.sqrt(RIDGE * len(seen)) * np.eye(len(names))
    prices, _ = nnls(np.vstack([table / scale, ridge]), np.concatenate([np.ones(len(seen)), np.zeros(len(names))]))
    return Predictor(dict(zip(names, (prices / scale).tolist(), strict=True)))


def unseen(seen: Sequence[Features], costs: Sequence[float], folds: int = FOLDS) -> list[float]:
    """What is predicted for each file by those of the other folds; nan where it has an operation that they lack."""
    predicted = [math.nan] * len(seen)
    for fold in range(folds):
        inside = [number for number in range(len(seen)) if number % folds != fold]
        predictor = fit([seen[number] for number in inside], [costs[number] for number in inside])
        for number in range(fold, len(seen), folds):
            predicted[number] = predictor(seen[number])
    return predicted


def error_of(predicted: Sequence[float], measured: Sequence[float]) -> PredictionError | None:
    """How far predictions are from what was measured; None of fewer than two that are finite.

    Where all of either side are equal, the rank correlation is 0: they order nothing.
    """
    pairs = np.array([pair for pair in zip(predicted, measured, strict=True) if math.isfinite(pair[0])])
    if len(pairs) < 2:
        return None
    relative = np.abs(pairs[:, 0] / pairs[:, 1] - 1)
    orders = all(len(np.unique(side)) > 1 for side in pairs.T)
    return PredictionError(
        networks=len(pairs),
        median=float(np.median(relative)),
        p90=float(np.quantile(relative, 0.9)),
        rank_correlation=float(spearmanr(pairs[:, 0], pairs[:, 1])[0]) if orders else 0.0,
    )
