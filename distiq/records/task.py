"""What a run's networks were trained for."""

from distiq.records.record import Record


class TaskRecord(Record):
    """`predicts` says what is predicted of a sample, `tolerance` how far apart predictions may be that agree; empty
    where they are equal. `class_figure` is what is measured of each class."""

    name: str
    predicts: str
    outputs: int
    tolerance: str = ""
    class_figure: str = "accuracy"
