"""How good a model is on one labelled split."""

from distiq.records.record import Record


class KeywordRecord(Record):
    """One class told from all others by a threshold on its probability; shares are fractions of 1.

    `false_accepts` of the `others` are taken for the keyword, `false_rejects` of its own `samples` are not, at one
    threshold after the other, from the highest on; between two lies the straight line. On it `equal_error_rate` is
    where both are the same. `missed` are the false rejects at `threshold`, the lowest with at most
    `allowed_false_accepts`; it is None where no threshold is so strict: then nothing is accepted.
    """

    keyword: str
    samples: int
    others: int
    false_accepts: tuple[float, ...]
    false_rejects: tuple[float, ...]
    equal_error_rate: float
    allowed_false_accepts: float
    missed: float
    threshold: float | None


class AccuracyRecord(Record):
    """What one `predict` answers on one labelled split.

    `interval` is Wilson's 95 % interval of `top1`; all are fractions of 1, so is `expected_calibration_error`.
    Of samples with several labels `top1` is the share whose labels are all answered right (exact match), `per_class` is
    the recall of each label, and `micro_f1` and `macro_f1` are over all labels; these are None of others.
    `auc` is the area under the ROC curve, of two classes alone; `keyword` is of the class that the recipe names.
    `agreement` is the share of samples on which another model answers the same; `flips` its complement for the
    student's own float32, None where there is nothing to compare with.
    """

    samples: int
    correct: int
    top1: float
    interval: tuple[float, float]
    per_class: tuple[float | None, ...]
    expected_calibration_error: float
    auc: float | None = None
    micro_f1: float | None = None
    macro_f1: float | None = None
    keyword: KeywordRecord | None = None
    agreement_with_teacher: float | None = None
    flips_against_float: float | None = None

    @property
    def quality(self) -> float:
        """The figure that models are compared by."""
        return self.top1

    @property
    def in_words(self) -> str:
        return f"{100 * self.top1:.2f} % of the test set"


class RegressionRecord(Record):
    """What one `predict` answers on one split whose samples have a number each.

    `interval` is Fisher's 95 % interval of `pearson`, the correlation of answers and numbers; `spearman` is that of
    their ranks. `rmse` is the root of the mean squared error, with its 95 % interval, and `change_against_float` the
    root of the mean square by which answers differ from those of the student's own float32, all in the numbers' unit.
    `correlation_with_teacher` is Pearson's, of the answers of both. None where there is nothing to compare with.
    """

    samples: int
    pearson: float
    interval: tuple[float, float]
    spearman: float
    rmse: float
    rmse_interval: tuple[float, float]
    correlation_with_teacher: float | None = None
    change_against_float: float | None = None

    @property
    def quality(self) -> float:
        """The figure that models are compared by."""
        return self.pearson

    @property
    def in_words(self) -> str:
        return f"a correlation of {100 * self.pearson:.2f} % on the test set"


QualityRecord = AccuracyRecord | RegressionRecord


class FlipRecord(Record):
    """A test sample whose right answer was lost with quantization; `image_png` is base64."""

    index: int
    label: int
    before: int
    after: int
    confidence_before: float
    image_png: str
