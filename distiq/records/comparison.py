"""Several runs side by side."""

from distiq.records.quality import Metric
from distiq.records.record import Record


class PairedRecord(Record):
    """How much better a run's delivered file is than the first run's on the same test samples, in points or the
    metric's unit, with its paired interval of 95 %."""

    difference: float
    interval: tuple[float, float]


class ComparedRun(Record):
    """What a run delivered, and where it was measured."""

    folder: str
    name: str
    created: str
    machine: str
    model: str
    delivered: str
    runtime: str
    teacher: Metric
    test: Metric
    samples: int
    size_bytes: int
    latency_ms: float | None
    met: bool
    digest: str
    paired: PairedRecord | None = None
    unpaired: str = ""


class RunsRecord(Record):
    """Runs side by side, each paired with the first; and the keys of their recipes that differ, with each value."""

    runs: tuple[ComparedRun, ...]
    differing: dict[str, tuple[str, ...]]
