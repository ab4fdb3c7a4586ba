"""Teacher and student, each in several forms."""

from typing import Literal

from distiq.records.quality import Quality
from distiq.records.record import Record
from distiq.records.speed import CostRecord
from distiq.records.training import TrainingRecord

ColumnName = Literal["float32", "int8 simulated", "int8 deployed", "float16 simulated", "float16 deployed"]


class Column(Record):
    """One column of the table: a model in one form. A simulated model is no file and has no cost."""

    name: ColumnName
    test: Quality
    validation: Quality
    cost: CostRecord | None = None


class ModelRecord(Record):
    """Teacher or student: where its weights come from and its columns. A callable has no parameters to count."""

    role: Literal["teacher", "student"]
    model: str
    origin: str
    parameters: int | None
    macs: int | None
    columns: tuple[Column, ...]
    training: TrainingRecord | None = None

    def column(self, name: ColumnName) -> Column:
        return next(column for column in self.columns if column.name == name)
