"""What a run's networks were trained for."""

from distiq.records.record import Record


class TaskRecord(Record):
    """`predicts` says what is predicted of a sample, `tolerance` how far apart predictions may be that agree; empty
    where they are equal."""

    name: str
    predicts: str
    outputs: int
    tolerance: str = ""
