"""What a model finds in images, beside what is there, for the report of detectors and segmenters."""

from distiq.records.record import Record


class SceneRecord(Record):
    """A test image, as base64 PNG: with what is there drawn into it, and with what the delivered file finds.

    `said` is what is wrong, in words.
    """

    index: int
    said: str
    truth_png: str
    found_png: str


class ScenesRecord(Record):
    """The delivered file on the test set.

    `worst` are the images with the most that is wrong. `confusion` counts what was predicted (columns) of what is there
    (rows), of pixels or of boxes that overlap by a half; `rows` and `columns` name them. `precision` is, by class, the
    precision at recalls of 0 to 1 in steps of 0.01 at an overlap of a half; empty of pixels. `colours` says, by class,
    what it is drawn in, such as "#e6194b".
    """

    worst: tuple[SceneRecord, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    precision: dict[str, tuple[float, ...]] = {}
    colours: dict[str, str] = {}
