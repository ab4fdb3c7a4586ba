"""The splits of a data set, as they were used."""

from distiq.records.record import Modality, Record


class DataRecord(Record):
    """The splits as they were used; `digest` is the SHA-256 of the splits' hashes and labels.

    Where samples have a number, `classes` is its name. `rate` is that of clips, in samples per second.
    `packs` are the folders in the run's cache that hold what memory had no room for.
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
    packs: tuple[str, ...] = ()
    digest: str
