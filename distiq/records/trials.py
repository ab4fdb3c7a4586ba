"""The attempts at a quantized file."""

from distiq.records.models import Column
from distiq.records.quality import Metric
from distiq.records.record import Record
from distiq.records.speed import LatencyRecord, SpeedRecord
from distiq.records.training import TrainingRecord


class Breach(Record):
    """A limit of the budget that does not hold: `excess` is how far `measured` lies beyond `allowed`, in `unit`.

    `limit` is its key in the budget, such as "drop" or "metrics.auc", `title` what it limits, such as "AUC drop".
    """

    limit: str
    title: str
    allowed: float
    measured: float
    excess: float
    unit: str

    @property
    def of_quality(self) -> bool:
        """Whether a metric broke it, and neither size nor speed."""
        return self.limit == "drop" or self.limit.startswith(("metrics.", "recall."))


class RuntimeRecord(Record):
    """A trial's int8 file in one runtime, beside the float32 file of the same network there.

    `quality` is the primary metric on the test set. `agreement` is the share of test samples for which the file
    predicts what the simulated graph does, `agreement_with` what the file of each other runtime does, by its name.
    `simulated_sqnr_db` is that of the file's logits against the simulated ones. `steps` counts the logits by their
    distance from these, in steps of 1/255 of the logits' span: up to half a step, one, two, four, more.
    `same_integers` says whether integers and scales read back from the file are the graph's. `operations` counts what
    the runtime runs by kind, in its own words, and type: {"QLinearConv": {"int8": 12}}; `float_operations` names those
    that compute in float32 though they were to be int8.
    Latencies are measured side by side at the end of the run; `speed` compares the file with its float32 file then.
    """

    runtime: str
    file: str
    float_file: str
    size_bytes: int
    quality: Metric
    agreement: float
    simulated_sqnr_db: float
    steps: tuple[int, int, int, int, int]
    same_integers: bool
    float_operations: tuple[str, ...]
    intended_float_operations: tuple[str, ...] = ()
    operations: dict[str, dict[str, int]] = {}
    agreement_with: dict[str, float] = {}
    float_size_bytes: int | None = None
    latency: tuple[LatencyRecord, ...] = ()
    float_latency: tuple[LatencyRecord, ...] = ()
    speed: SpeedRecord | None = None

    def gain(self, batch: int = 1) -> float | None:
        """How many times faster than float32 the int8 file is, by medians; None before both are timed."""
        pair = [[e.p50_ms for e in entries if e.batch == batch] for entries in (self.float_latency, self.latency)]
        return pair[0][0] / pair[1][0] if all(pair) else None


FLOAT32 = "float32"
"""The rung that a ladder falls back to: the student as it is."""
FLOAT16 = "float16"
"""The rung whose files hold no integers but float16 weights."""
INT8 = "int8"
"""What the files of all other rungs hold."""


class TrialRecord(Record):
    """One rung of the ladder: what was tried, why, what the deployed file measured, which limits broke.

    `breaches` are judged on the validation split: they steer the ladder. `test_breaches` are the same limits on the
    test set: they decide the verdict. `sqnr_db` is of the logits on the validation split, or of
    the noisiest of their parts; `sqnr_by_part` has each, such as "boxes" and "scores". `runtimes` are those of
    the recipe, the one of `deployed` first; the float32 student has none. `reduced_layers` have 7-bit weights so
    that sums of two products fit into 16 bits (`quantize.reduce_range`). `rounding_samples` are those that weights or
    biases were rounded by where memory allowed fewer than 256; None where it did not. `layer_bits` are the layers whose
    weights have fewer bits than the others. `bit_operations` are those of one sample: multiply-adds times bits of
    weight and activation.
    """

    rung: str
    reason: str
    scheme: str
    simulated: Column
    deployed: Column
    sqnr_db: float
    sqnr_by_part: dict[str, float] = {}
    breaches: tuple[Breach, ...]
    test_breaches: tuple[Breach, ...]
    seconds: float
    training: TrainingRecord | None = None
    runtimes: tuple[RuntimeRecord, ...] = ()
    reduced_layers: tuple[str, ...] = ()
    rounding_samples: int | None = None
    layer_bits: dict[str, int] = {}
    bit_operations: int | None = None

    @property
    def agreement(self) -> float:
        """The share of the test set on which the simulated graph and the deployed file predict the same; see
        `RuntimeRecord`."""
        return self.runtimes[0].agreement if self.runtimes else 1.0

    @property
    def form(self) -> str:
        """What the deployed file's weights are: "int8", "float16" or "float32"."""
        return self.rung if self.rung in (FLOAT32, FLOAT16) else INT8

    @property
    def float_operations(self) -> tuple[str, ...]:
        """What the deployed file's runtime computes in float32 though it was to be int8."""
        return self.runtimes[0].float_operations if self.runtimes else ()

    @property
    def intended_float_operations(self) -> tuple[str, ...]:
        """What is meant to stay in float32."""
        return self.runtimes[0].intended_float_operations if self.runtimes else ()


class FloatModulesRecord(Record):
    """What int8 would do to modules of the network: SQNR of its logits on the calibration split, both ways, in dB.

    `kept` says whether they stay in float32.
    """

    paths: tuple[str, ...]
    sqnr_db_int8: float
    sqnr_db_float: float
    kept: bool
