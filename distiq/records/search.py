"""Which student was found, among which others."""

from typing import Any, Literal

from distiq.records.quality import Metric, Quality
from distiq.records.record import Environment, Record

REPEATED = "the same network as"


class CandidateCost(Record):
    """What a student costs, which its training does not change: its int8 file is made from untrained weights.

    `latency_ms` is the median of one sample in the runtime that is delivered.
    """

    latency_ms: float
    size_kb: float
    parameters: int
    macs: int


class PredictionError(Record):
    """How far predictions are from what was measured of `networks` that were not learned from: the median and 90th
    percentile of relative errors, and Spearman's rank correlation."""

    networks: int
    median: float
    p90: float
    rank_correlation: float


class ForecastRecord(Record):
    """How a search predicted a cost of networks whose files were not made.

    `learned` files were measured first. `crossed` is the error on each of them as the others predict it, `checked` that
    on candidates that were predicted, and then measured.
    """

    cost: str
    learned: int
    crossed: PredictionError | None
    checked: PredictionError | None


class Candidate(Record):
    """A student that was tried.

    `predicted` are its costs by name before its file was made, if they are predicted; one that surely breaks a limit
    has no file and no `cost`. `outcome` says how far it came: it could not be built or exported ("refused"), its file
    breaks a limit ("over the limits"), its training was stopped behind better ones ("stopped") or went to its end
    ("trained"); `why` says more. `validation` is the metric after the last of `epochs`.
    """

    number: int
    model: str
    options: dict[str, Any]
    outcome: Literal["refused", "over the limits", "stopped", "trained"]
    why: str = ""
    predicted: dict[str, float] = {}
    cost: CandidateCost | None = None
    epochs: int = 0
    validation: Metric | None = None

    @property
    def is_repeated(self) -> bool:
        """Whether the same network was tried before, whose results it has."""
        return self.why.startswith(REPEATED)

    @property
    def has_no_file(self) -> bool:
        """Whether it was left out by what was predicted."""
        return self.outcome == "over the limits" and self.cost is None


class ComparedRecord(Record):
    """The found student against the recipe's own on the test set, both float32 after their last epoch.

    `difference` says how much better the found one is in the mean of the seeds, in points or the metric's unit;
    `interval` is the paired one of 95 %. `found_values` and `own_values` are their metrics, seed by seed.
    """

    own: Quality
    own_cost: CandidateCost
    found_values: tuple[float, ...] = ()
    own_values: tuple[float, ...] = ()
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
    forecasts: tuple[ForecastRecord, ...] = ()
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
