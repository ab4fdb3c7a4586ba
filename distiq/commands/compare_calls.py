"""How far the outputs of one ONNX graph are from those of another, call by call and output by output."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distiq.runtimes.onnx_qdq import results_of


class Comparison(NamedTuple):
    """By the outputs' names: the SQNR in dB of outputs of floats, the share of equal predictions or integers."""

    sqnr_db: dict[str, float]
    agreement: dict[str, float]

    @property
    def worst_db(self) -> float:
        """The SQNR of the worst output; infinite where no output is of floats."""
        return min(self.sqnr_db.values(), default=math.inf)


class _Sums:
    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.equal = self.predictions = 0
        self.has_floats = False

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        if reference.dtype.kind not in "fiub":
            return
        if reference.shape != other.shape:  # such as boxes that are kept or not: nothing is equal
            self.predictions += max(len(np.atleast_1d(reference)), 1)
            return
        if reference.dtype.kind == "f":
            self._add_floats(reference, other)
        else:
            self.equal += int((reference == other).sum())
            self.predictions += reference.size

    def _add_floats(self, reference: np.ndarray, other: np.ndarray) -> None:
        self.has_floats = True
        finite = np.isfinite(reference)
        exact = reference[finite].astype(np.float64)
        self.signal += float(np.square(exact).sum())
        self.noise += float(np.square(exact - other[finite]).sum())
        if 2 <= reference.ndim <= 3 and reference.shape[-1] > 1:
            same = reference.argmax(-1) == other.argmax(-1)
            self.equal += int(same.sum())
            self.predictions += same.size

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 and self.noise < math.inf else -math.inf


def compared(reference: Any, other: Any, calls: Iterable[Mapping[str, np.ndarray]]) -> Comparison:
    """Runs two sessions on the same calls; values that are not finite in the reference do not count.

    Outputs (N, C) and (N, T, C) of floats have predictions: the largest of the last axis.
    """
    names = [one.name for one in reference.get_outputs()]
    sums = {name: _Sums() for name in names}
    for feed in calls:
        pairs = zip(names, results_of(reference, names, feed), results_of(other, names, feed), strict=True)
        for name, exact, approximate in pairs:
            if isinstance(exact, np.ndarray):
                sums[name].add(exact, approximate)
    return Comparison(
        {name: one.sqnr_db for name, one in sums.items() if one.has_floats},
        {name: one.equal / one.predictions for name, one in sums.items() if one.predictions},
    )
