"""The limits that a delivered file must hold."""

from pydantic import Field

from distiq.recipe.part import Part


class Budget(Part):
    """The limits that the deployed file must keep; each is optional."""

    accuracy_drop_points: float | None = Field(
        None, description="largest loss of accuracy against the teacher, in percentage points"
    )
    auc_drop_points: float | None = Field(
        None, description="two classes: largest loss of AUC against the teacher, in hundredths"
    )
    f1_drop_points: float | None = Field(
        None, description="several labels: largest loss of micro F1 against the teacher, in hundredths"
    )
    correlation_drop_points: float | None = Field(
        None, description="regression: largest loss of Pearson's correlation against the teacher, in hundredths"
    )
    size_kb: float | None = Field(None, gt=0, description="largest file, in kilobytes of 1000 bytes")
    latency_ms: float | None = Field(None, gt=0, description="largest median time of one image, in milliseconds")
    bit_operations_m: float | None = Field(
        None,
        gt=0,
        description="most bit operations of one sample, in millions: multiply-adds times bits of weight and activation;"
        " for accelerators, the runtimes here compute narrow weights as int8",
    )

    @property
    def quality_drop_points(self) -> float | None:
        """Largest loss of accuracy, or of correlation, against the teacher: a run has one of the two."""
        return self.accuracy_drop_points if self.correlation_drop_points is None else self.correlation_drop_points
