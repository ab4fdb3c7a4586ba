"""How far the outputs of one ONNX graph are from those of another, call by call and output by output."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from distiq.runtimes.onnx_origins import Origins
from distiq.runtimes.onnx_qdq import results_of

NO_ORIGINS = Origins()
AS_NEAR_DB = 3.0  # a part of a joined output that is no farther off than this is not worth a line


class Comparison(NamedTuple):
    """By the outputs' names: the SQNR in dB of float outputs, and the share of equal predictions or integers.

    `hidden` names the part that is farther off than a joined output as a whole, and its SQNR.
    """

    sqnr_db: dict[str, float]
    agreement: dict[str, float]
    hidden: Mapping[str, tuple[str, float]] = MappingProxyType({})

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
        if reference.shape != other.shape:  # such as another number of kept boxes: nothing counts as equal
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


def compared(
    reference: Any, other: Any, calls: Iterable[Mapping[str, np.ndarray]], origins: Origins = NO_ORIGINS
) -> Comparison:
    """Runs two sessions on the same calls; values that are not finite in the reference do not count.

    Outputs (N, C) and (N, T, C) of floats have predictions: the largest of the last axis.

    Args:
        origins: the tensors that outputs are chosen or joined from, which both sessions return, too; for a chosen
            output the worst of them counts.
    """
    names = [one.name for one in reference.get_outputs()]
    sums = {name: _Sums() for name in names}
    for feed in calls:
        pairs = zip(names, results_of(reference, names, feed), results_of(other, names, feed), strict=True)
        for name, exact, approximate in pairs:
            if isinstance(exact, np.ndarray):
                sums[name].add(exact, approximate)
    sqnr = {name: one.sqnr_db for name, one in sums.items() if one.has_floats}
    shares = {name: one.equal / one.predictions for name, one in sums.items() if one.predictions}
    hidden = {}
    for name, parts in (*origins.chosen.items(), *origins.joined.items()):
        worst = min((part for part in parts if part in sqnr), key=sqnr.__getitem__, default=None)
        if worst is None:
            continue
        if name in sqnr or name in origins.ranked:
            shares.pop(name, None)  # places of rows, or the largest coordinate of a box: no predictions
        if name in origins.chosen:
            sqnr[name] = sqnr[worst]
        elif sqnr[worst] < sqnr[name] - AS_NEAR_DB:
            hidden[name] = worst, sqnr[worst]
    given = [name for name in names if name not in origins.more]
    return Comparison(
        {name: sqnr[name] for name in given if name in sqnr},
        {name: shares[name] for name in given if name in shares},
        hidden,
    )
