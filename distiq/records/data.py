"""The splits of a data set, as they were used."""

from distiq.records.record import Modality, Record


class DataRecord(Record):
    """The splits as they were used; `digest` is the SHA-256 of every input and label.

    Where samples have a number, `classes` is its name. `rate` is that of clips, in samples per second.
    `notes` say what was changed, missing, unknown or cut.
    """

    source: str
    modality: Modality = "image"
    classes: tuple[str, ...]
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
