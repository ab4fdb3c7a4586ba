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


class Metric(Record):
    """One figure of a model on one split.

    `name` is its key in `budget.metrics`, `title` what sentences and tables call it, `note` how it is measured. A value
    whose `unit` is "%" is a fraction of 1: it is shown as a percentage, and differences are in points. `interval` is of
    95 %, after `interval_by`.
    """

    name: str
    title: str
    value: float
    note: str = ""
    unit: str = "%"
    interval: tuple[float, float] | None = None
    interval_by: str = ""
    higher_is_better: bool = True

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be shown in the unit."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def drop_unit(self) -> str:
        """The unit of `drop`."""
        return "points" if self.unit == "%" else self.unit

    @property
    def goodness(self) -> float:
        """The value, turned so that a higher one is better."""
        return self.value if self.higher_is_better else -self.value

    @property
    def figure(self) -> str:
        """Value and unit: "91.20 %", "0.125 levels"."""
        return f"{100 * self.value:.2f} %" if self.unit == "%" else f"{self.value:.4g} {self.unit}".rstrip()

    @property
    def in_words(self) -> str:
        """Value, unit and title: "91.20 % accuracy"."""
        return f"{self.figure} {self.title}"

    def drop(self, reference: "Metric") -> float:
        """By how much it is worse than that of another model on the same samples, in `drop_unit`; below 0 if better."""
        # 100 * (0.92 - 0.91) is a little more than 1.
        return round(self.scale * (reference.goodness - self.goodness), 9)

    def allowing(self, drop: float) -> float:
        """The worst value that is no more than `drop` (in `drop_unit`) worse."""
        return self.value - (drop if self.higher_is_better else -drop) / self.scale


class Quality(Record):
    """How good a model is on one labelled split; every task fills this one form.

    `primary` is what models are compared by, `metrics` are all others. `per_class` are fractions of 1 by class, None of
    a class without samples; `parts` names what they are the recalls of, the classes in most tasks; boxes and masks have
    none.
    `agreement_with_teacher` says how alike the predictions of the model and its teacher are, `change_against_float` how
    far they moved from those of the student's own float32; both are None where there is nothing to compare with.
    `keyword` is of the class that the recipe names.
    """

    samples: int
    primary: Metric
    metrics: tuple[Metric, ...] = ()
    per_class: tuple[float | None, ...] = ()
    parts: tuple[str, ...] = ()
    agreement_with_teacher: Metric | None = None
    change_against_float: Metric | None = None
    keyword: KeywordRecord | None = None

    @property
    def value(self) -> float:
        """The value of the primary metric."""
        return self.primary.value

    @property
    def in_words(self) -> str:
        """All metrics: "91.20 % accuracy, 98.40 % AUC"."""
        return ", ".join(metric.in_words for metric in (self.primary, *self.metrics))

    @property
    def measured_parts(self) -> list[str]:
        """The classes or kinds that samples have."""
        return [part for part, value in self._recalls.items() if value is not None]

    @property
    def _recalls(self) -> dict[str, float | None]:
        """By part; empty where `per_class` are no recalls, as of boxes and masks."""
        return dict(zip(self.parts, self.per_class, strict=True)) if self.parts else {}

    def recall(self, part: str) -> Metric | None:
        """The recall of a class or kind; None where there is none of that name, or no sample has it."""
        value = self._recalls.get(part)
        return None if value is None else Metric(name=f"recall.{part}", title=f"recall of {part}", value=value)

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, of "recall.CLASS" too; None where the samples do not give it."""
        if name.startswith("recall."):
            return self.recall(name.removeprefix("recall."))
        return next((metric for metric in (self.primary, *self.metrics) if metric.name == name), None)


class FlipRecord(Record):
    """A test sample that only the float32 model predicts right; `image_png` is base64."""

    index: int
    label: int
    before: int
    after: int
    confidence_before: float
    image_png: str
