"""What a file costs: size, memory, time."""

from typing import Literal

from pydantic import Field

from distiq.records.record import Environment, Record


def gmac_per_s(macs: int, latency_ms: float) -> float:
    """1e9 multiply-adds per second."""
    return macs / latency_ms / 1e6


class LatencyRecord(Record):
    """Wall time of one batch of `batch` samples, of interleaved repetitions after a warm-up.

    `turns_ms` holds the median of each turn, so that files which took turns can be compared turn by turn.
    """

    batch: int
    threads: int
    runs: int
    p50_ms: float
    p95_ms: float
    throughput_per_s: float
    p99_ms: float | None = None
    turns_ms: tuple[float, ...] = ()


class SpeedRecord(Record):
    """How many times faster one file is than another, turn by turn of the same comparison, one sample at a time.

    `interval` is that of 95 % over the turns, None where there was but one; without it nothing can be told.
    """

    ratio: float
    interval: tuple[float, float] | None
    verdict: Literal["faster", "slower", "cannot tell"]


class TriedRecord(Record):
    """A setting of a runtime: threads, and its own options by their names there; without any they are distiq's.

    `against_default` compares it with the first setting that was tried. `same_predictions` is false where it computes
    otherwise, such as in bfloat16.
    """

    threads: int
    options: dict[str, str]
    latency: LatencyRecord
    against_default: SpeedRecord
    same_predictions: bool


class TuningRecord(Record):
    """The settings of a runtime that one file was timed under, the default first, and the number of the one to use.

    Another than the default is used where it is faster beyond the noise and gives the same predictions.
    """

    tried: tuple[TriedRecord, ...] = Field(min_length=1)
    chosen: int

    @property
    def setting(self) -> TriedRecord:
        return self.tried[self.chosen]


class PeakRecord(Record):
    """1e9 multiply-adds per second of one thread of this CPU in a large matrix product, and what reached them.

    The best of several implementations, each at its best call.
    """

    int8_gmac_per_s: float
    int8_by: str
    float32_gmac_per_s: float
    float32_by: str

    def share(self, gmac_per_s: float, is_int8: bool, threads: int) -> float:
        """A rate as a share of this peak on `threads` threads."""
        return gmac_per_s / (threads * (self.int8_gmac_per_s if is_int8 else self.float32_gmac_per_s))


class CostRecord(Record):
    """What a file costs: bytes on disk, memory of a fresh process that loads and runs it, time; of a file for
    microcontrollers also bytes of their flash and RAM.

    `file` names it within the run, such as "student-static"; the comparison's keys are these names.
    """

    file: str
    runtime: str
    size_bytes: int
    parameters: int
    macs: int
    peak_memory_bytes: int | None
    latency: tuple[LatencyRecord, ...]
    flash_bytes: int | None = None
    ram_bytes: int | None = None

    def at_batch(self, batch: int) -> LatencyRecord:
        return next(entry for entry in self.latency if entry.batch == batch)


class LengthRecord(Record):
    """Latency of one text of `tokens` tokens by `CostRecord.file`; files of a fixed length are left out."""

    tokens: int
    files: dict[str, LatencyRecord]


class ComparisonRecord(Record):
    """Latency of all files of a run side by side in one process: `CostRecord.file` -> its latencies.

    `tuning` holds the settings that were chosen for each file before, if `measure.tune` asked for it. `lengths` are
    those of texts that were timed, too; `fixed_lengths` names the files that take texts of one length alone.
    """

    threads: int
    files: dict[str, tuple[LatencyRecord, ...]]
    tuning: dict[str, TuningRecord] = {}
    lengths: tuple[LengthRecord, ...] = ()
    fixed_lengths: dict[str, int] = {}
    peak: PeakRecord | None = None


class BenchRecord(Record):
    """Files timed side by side on one machine. A size of batch that a file does not take is left out.

    A bundle's `run.py --time --json` writes it, too.
    """

    created: str
    environment: Environment
    files: tuple["BenchFile", ...]
    peak: PeakRecord | None = None


class BenchFile(Record):
    """One file: its name, its runtime, its size, the SHA-256 of each of its parts by their names, and its times.

    `tuning` is there if other settings of the runtime were timed, too. `macs` are the multiply-adds of a sample, None
    where the file does not tell them; `is_int8` says that they are of integers. `sound_s` are the seconds of sound of a
    sample, 0 of others.
    """

    file: str
    runtime: str
    size_bytes: int
    sha256: dict[str, str]
    latency: tuple[LatencyRecord, ...] = Field(min_length=1)
    tuning: TuningRecord | None = None
    macs: int | None = None
    is_int8: bool = False
    sound_s: float = 0.0
