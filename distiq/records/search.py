"""Which student was found, among which others."""

from typing import Any, Literal

from distiq.records.quality import Metric, Quality
from distiq.records.record import Environment, Record


class CandidateCost(Record):
    """What a student costs, which its training does not change: its int8 file is made from untrained weights.

    `latency_ms` is the median of one sample in the runtime that is delivered.
    """

    latency_ms: float
    size_kb: float
    parameters: int
    macs: int


class Candidate(Record):
    """A student that was tried.

    `outcome` says how far it came: it could not be built or exported ("refused"), its file breaks a limit ("over the
    limits"), its training was stopped behind better ones ("stopped") or went to its end ("trained"); `why` says more.
    `validation` is the metric after the last of `epochs`.
    """

    number: int
    model: str
    options: dict[str, Any]
    outcome: Literal["refused", "over the limits", "stopped", "trained"]
    why: str = ""
    cost: CandidateCost | None = None
    epochs: int = 0
    validation: Metric | None = None


class ComparedRecord(Record):
    """The found student against the recipe's own on the test set, both float32 after their last epoch.

    `difference` says how much better the found one is, in points or the metric's unit; `interval` is the paired one of
    95 %.
    """

    own: Quality
    own_cost: CandidateCost
    difference: float
    interval: tuple[float, float]


class SearchRecord(Record):
    """A search for the student of a recipe.

    `limits` are what every candidate's file has to hold, by key. `front` are the numbers of trained candidates of which
    none other is better in quality, latency and size at once, best first; `chosen` is the best of them on the
    validation split, and `test` its quality on the test set, which decided nothing. `student_toml` are the lines that
    make it the student of a recipe.
    """

    name: str
    command: str
    recipe_toml: str
    environment: Environment
    storage: str
    limits: dict[str, float]
    candidates: tuple[Candidate, ...]
    front: tuple[int, ...]
    chosen: int
    student_toml: str
    test: Quality
    compared: ComparedRecord | None
    seconds: float
    steps: tuple[str, ...] = ()

    def candidate(self, number: int) -> Candidate:
        """The candidate of that number."""
        return next(one for one in self.candidates if one.number == number)
