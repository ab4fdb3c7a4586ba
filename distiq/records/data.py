"""The splits of a data set, as they were used."""

from distiq.records.record import Modality, Record


class DataRecord(Record):
    """The splits as they were used; `digest` is the SHA-256 of every input and label.

    `multi_label` says that a sample has any number of the classes, `regression` that it has a number, which the one
    "class" names. `rate` is that of clips, in samples per second.
    `notes` say what was changed, missing, unknown or cut.
    """

    source: str
    modality: Modality = "image"
    classes: tuple[str, ...]
    multi_label: bool = False
    regression: bool = False
    train: int
    validation: int
    calibration: int
    test: int
    sample_shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    rate: int = 0
    notes: tuple[str, ...] = ()
    digest: str

    @property
    def measure(self) -> str:
        """What the quality of a model on these samples is called."""
        return measure(self.multi_label, self.regression)


def measure(multi_label: bool, regression: bool) -> str:
    """What `quality` is of: a share of right answers, or Pearson's correlation with the numbers that are wanted."""
    return "correlation" if regression else "exact match" if multi_label else "accuracy"
