"""A whole run, its advice and its verdict; a file quantized by itself."""

from typing import Literal

from distiq.records.accelerator import AcceleratorRecord
from distiq.records.data import DataRecord
from distiq.records.models import ModelRecord
from distiq.records.quality import FlipRecord
from distiq.records.record import Environment, Record
from distiq.records.scenes import ScenesRecord
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.speed import BenchRecord, ComparisonRecord
from distiq.records.task import TaskRecord
from distiq.records.trials import Breach, FloatModulesRecord, TrialRecord
from distiq.records.web import WebRecord


class OwnFileRecord(Record):
    """A float32 file of someone's own and the int8 file made from it: `bench.files` are these two.

    `sqnr_db` is that of the worst output; `sqnr_by_output` is empty where there is one. `agreement` is the share of
    equal predictions, None where the output has no classes; `agreement_by_output` is empty where there is one.
    `delivered` says what the file holds, `notes` how it was made and what was kept in float32, a sentence each.
    `float_operations` are those that
    the int8 file leaves in float32, `operations` all by kind and type, as in `RuntimeRecord`. `pair_sums` says whether
    sums of two products can saturate on x86 CPUs without VNNI; empty where no such kernels are.
    """

    bench: BenchRecord
    scheme: str
    calibration_samples: int
    compared_samples: int
    sqnr_db: float
    sqnr_by_output: dict[str, float] = {}
    agreement: float | None
    agreement_by_output: dict[str, float] = {}
    delivered: Literal["int8", "float16 weights"] = "int8"
    notes: tuple[str, ...] = ()
    float_operations: tuple[str, ...]
    operations: dict[str, dict[str, int]] = {}
    pair_sums: str = ""


class DropRecord(Record):
    """What the delivered file loses of the primary metric against the teacher on the test set, in `unit`.

    `interval` is the paired bootstrap interval of 95 % over the samples; `allowed` is the budget's `drop`.
    """

    title: str
    value: float
    interval: tuple[float, float]
    unit: str
    allowed: float | None = None

    @property
    def within_chance(self) -> bool:
        """Other test samples could have it on the other side of the limit."""
        low, high = self.interval
        return self.allowed is not None and low <= self.allowed < high


class VerdictRecord(Record):
    """How the run ended. `chosen` names the delivered rung; without a budget `met` is true. `drop` is None of a task
    whose loss has no paired interval.

    The rung `FLOAT32` is the unquantized student: every int8 file that kept the limits measured slower.
    """

    met: bool
    chosen: str
    breaches: tuple[Breach, ...]
    sentence: str
    next_step: str | None
    drop: DropRecord | None = None


class AdviceRecord(Record):
    """What was known before the student was trained: facts, and warnings with their reasons."""

    facts: tuple[str, ...]
    warnings: tuple[str, ...]


class RunRecord(Record):
    """The run as a whole: what was asked, where it ran, how it ended.

    `seconds` are those of its steps, whenever they were made; `steps` names their folders by step. `skipped` says why a
    rung was not tried, `estimates` what each rung costs, as it was known before it was tried. `accelerator` is what the
    compiler of `quantize.target` expects of the delivered file. `delivered` holds the
    SHA-256 of each part of the delivered model file.
    """

    name: str
    command: str
    recipe_toml: str
    basis: str = ""
    created: str
    seconds: float
    steps: dict[str, str] = {}
    code_version: str
    environment: Environment
    data: DataRecord
    task: TaskRecord
    budget: dict[str, float]
    teacher: ModelRecord
    student: ModelRecord
    advice: AdviceRecord | None = None
    float_modules: FloatModulesRecord | None = None
    trials: tuple[TrialRecord, ...]
    skipped: dict[str, str] = {}
    estimates: dict[str, str] = {}
    accelerator: AcceleratorRecord | None = None
    sensitivity: SensitivityRecord | None = None
    comparison: ComparisonRecord
    flips: tuple[FlipRecord, ...]
    scenes: ScenesRecord | None = None
    verdict: VerdictRecord
    delivered: dict[str, str] = {}
    web: WebRecord | None = None
