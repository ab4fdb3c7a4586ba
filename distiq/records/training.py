"""How a network was trained."""

from distiq.records.quality import Metric
from distiq.records.record import Record


class EpochRecord(Record):
    """One pass over the training images. Losses are means over the epoch, already weighted.

    `validation` is the task's primary metric on the validation split.
    """

    epoch: int
    losses: dict[str, float]
    learning_rate: float
    images_per_s: float
    seconds: float
    validation: Metric | None = None


class TrainingRecord(Record):
    """How a network was trained. `kept` is the epoch whose weights are kept, counted from 1."""

    stage: str
    epochs: tuple[EpochRecord, ...]
    steps: int
    kept: int
    precision: str
    device: str
    seconds: float
