"""What files measured in a browser, and the one that is delivered for it."""

from distiq.records.quality import Metric
from distiq.records.record import Record
from distiq.records.speed import LatencyRecord, SpeedRecord
from distiq.records.trials import INT8, Breach


class WebFileRecord(Record):
    """A file in a browser: `form` is "float32", "float16" or "int8".

    `quality` and `agreement`, the share of the same predictions as the same file's in ONNX Runtime, are of the part of
    the test set that `WebRecord.samples` counts. `speed` is beside the float32 file in the browser, None of itself.
    `breaches` are the budget's limits on the validation split, of quality and size.
    """

    form: str
    size_bytes: int
    quality: Metric
    agreement: float
    latency: LatencyRecord
    speed: SpeedRecord | None = None
    breaches: tuple[Breach, ...] = ()


class WebRecord(Record):
    """The files in a browser. `replay` is what the delivered page said of itself when it was opened there."""

    package: str
    browser: str
    samples: int
    of_samples: int
    files: tuple[WebFileRecord, ...]
    delivered: str
    replay: str = ""

    def file(self, form: str) -> WebFileRecord | None:
        return next((one for one in self.files if one.form == form), None)

    @property
    def sentence(self) -> str:
        """What is delivered for the web, and why, where int8 or a faster file is not."""
        int8, own = self.file(INT8), self.file(self.delivered)
        assert own is not None
        facts = f"{own.latency.p50_ms:.3f} ms, {own.size_bytes / 1000:.1f} kB, {own.quality.in_words}"
        said = f"In {self.browser} ({self.package}, one thread) the {self.delivered} file is delivered: {facts}."
        if int8 is not None and int8.speed is not None and int8.speed.verdict == "slower":
            said += f" There int8 takes {1 / int8.speed.ratio:.2f} times float32's time."
        for one in self.files:
            if one.form == INT8 or one.latency.p50_ms < own.latency.p50_ms:
                said += self._broken(one, own)
        return said

    def _broken(self, one: WebFileRecord, delivered: WebFileRecord) -> str:
        """The limits that a file breaks and the delivered one does not."""
        limits = {breach.limit for breach in delivered.breaches}
        broken = [breach.title for breach in one.breaches if breach.limit not in limits]
        return f" The {one.form} file breaks the budget's {' and '.join(broken)}." if broken else ""
