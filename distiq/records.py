"""What every step returns: frozen values with units in their names, JSON in and out.

The report reads these and nothing else. A record never holds a path outside its run folder.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from distiq.files import write_atomically

Kind = Literal["image", "audio", "text", "table"]
NOUNS: dict[Kind, str] = {"image": "images", "audio": "clips", "text": "texts", "table": "rows"}
ONE: dict[Kind, str] = {"image": "one image", "audio": "one clip", "text": "one text", "table": "one row"}


class Record(BaseModel):
    """A frozen value that is written to and read from one JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def save(self, path: Path) -> None:
        """Writes the record as JSON; the file appears whole or not at all."""
        write_atomically(path, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls.model_validate_json(Path(path).read_bytes())


class Environment(Record):
    """The machine and the software that a figure was measured with."""

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    system: str
    device: str
    versions: dict[str, str]


class DataRecord(Record):
    """The splits as they were used; `digest` is the SHA-256 of every input and label.

    `several_labels` says that a sample has any number of the classes, `regression` that it has a number, which the one
    "class" names. `rate` is that of clips, in samples per second.
    `notes` say what was changed, missing, unknown or cut.
    """

    source: str
    kind: Kind = "image"
    classes: tuple[str, ...]
    several_labels: bool = False
    regression: bool = False
    train: int
    validation: int
    calibration: int
    test: int
    sample_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rate: int = 0
    notes: tuple[str, ...] = ()
    digest: str

    @property
    def measure(self) -> str:
        """What the quality of a model on these samples is called."""
        return measure(self.several_labels, self.regression)


def measure(several_labels: bool, regression: bool) -> str:
    """What `quality` is of: a share of right answers, or Pearson's correlation with the numbers that are wanted."""
    return "correlation" if regression else "exact match" if several_labels else "accuracy"


class EpochRecord(Record):
    """One pass over the training images. Losses are means over the epoch, already weighted.

    `validation_accuracy` is a share of right answers; of a regression it is Pearson's correlation.
    """

    epoch: int
    losses: dict[str, float]
    learning_rate: float
    images_per_s: float
    seconds: float
    validation_accuracy: float | None = None


class TrainingRecord(Record):
    """How a network was trained. `kept` is the epoch whose weights are kept, counted from 1."""

    stage: str
    epochs: tuple[EpochRecord, ...]
    steps: int
    kept: int
    precision: str
    device: str
    seconds: float


class KeywordRecord(Record):
    """One class told from all others by a threshold on its probability; shares are fractions of 1.

    `false_accepts` of the `others` are taken for the keyword, `false_rejects` of its own `samples` are not, at one
    threshold after the other, from the highest on; between two lies the straight line. On it `equal_error_rate` is
    where both are the same. `missed` are the false rejects at `threshold`, the lowest with at most
    `allowed_false_accepts`; it is None where no threshold is so strict: then nothing is accepted.
    """

    keyword: str
    samples: int
    others: int
    false_accepts: tuple[float, ...]
    false_rejects: tuple[float, ...]
    equal_error_rate: float
    allowed_false_accepts: float
    missed: float
    threshold: float | None


class AccuracyRecord(Record):
    """What one `predict` answers on one labelled split.

    `interval` is Wilson's 95 % interval of `top1`; all are fractions of 1, so is `expected_calibration_error`.
    Of samples with several labels `top1` is the share whose labels are all answered right (exact match), `per_class` is
    the recall of each label, and `micro_f1` and `macro_f1` are over all labels; these are None of others.
    `auc` is the area under the ROC curve, of two classes alone; `keyword` is of the class that the recipe names.
    `agreement` is the share of samples on which another model answers the same; `flips` its complement for the
    student's own float32, None where there is nothing to compare with.
    """

    samples: int
    correct: int
    top1: float
    interval: tuple[float, float]
    per_class: tuple[float | None, ...]
    expected_calibration_error: float
    auc: float | None = None
    micro_f1: float | None = None
    macro_f1: float | None = None
    keyword: KeywordRecord | None = None
    agreement_with_teacher: float | None = None
    flips_against_float: float | None = None

    @property
    def quality(self) -> float:
        """The figure that models are compared by."""
        return self.top1

    @property
    def in_words(self) -> str:
        return f"{100 * self.top1:.2f} % of the test set"


class RegressionRecord(Record):
    """What one `predict` answers on one split whose samples have a number each.

    `interval` is Fisher's 95 % interval of `pearson`, the correlation of answers and numbers; `spearman` is that of
    their ranks. `rmse` is the root of the mean squared error, with its 95 % interval, and `change_against_float` the
    root of the mean square by which answers differ from those of the student's own float32, all in the numbers' unit.
    `correlation_with_teacher` is Pearson's, of the answers of both. None where there is nothing to compare with.
    """

    samples: int
    pearson: float
    interval: tuple[float, float]
    spearman: float
    rmse: float
    rmse_interval: tuple[float, float]
    correlation_with_teacher: float | None = None
    change_against_float: float | None = None

    @property
    def quality(self) -> float:
        """The figure that models are compared by."""
        return self.pearson

    @property
    def in_words(self) -> str:
        return f"a correlation of {100 * self.pearson:.2f} % on the test set"


QualityRecord = AccuracyRecord | RegressionRecord


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

    `against_default` compares it with the first setting that was tried. `same_answers` is false where it computes
    otherwise, such as in bfloat16.
    """

    threads: int
    options: dict[str, str]
    latency: LatencyRecord
    against_default: SpeedRecord
    same_answers: bool


class TuningRecord(Record):
    """The settings of a runtime that one file was timed under, the default first, and the number of the one to use.

    Another than the default is used where it is faster beyond the noise and gives the same answers.
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
        """The share of this peak on so many threads that a rate is."""
        return gmac_per_s / (threads * (self.int8_gmac_per_s if is_int8 else self.float32_gmac_per_s))


class CostRecord(Record):
    """What a file costs: bytes on disk, memory of a fresh process that loads and runs it, time.

    `file` names it within the run, such as "student-static"; the comparison's keys are these names.
    """

    file: str
    runtime: str
    size_bytes: int
    parameters: int
    macs: int
    peak_memory_bytes: int | None
    latency: tuple[LatencyRecord, ...]

    def at_batch(self, batch: int) -> LatencyRecord:
        return next(entry for entry in self.latency if entry.batch == batch)


ColumnName = Literal["float32", "int8 simulated", "int8 deployed"]


class Column(Record):
    """One column of the table: a model in one form. A simulated model is no file and has no cost."""

    name: ColumnName
    test: QualityRecord
    validation: QualityRecord
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


class Breach(Record):
    """A limit of the budget that does not hold: `excess` is how far `measured` lies beyond `allowed`, in `unit`."""

    limit: str
    allowed: float
    measured: float
    excess: float
    unit: str


class FlipRecord(Record):
    """A test sample whose right answer was lost with quantization; `image_png` is base64."""

    index: int
    label: int
    before: int
    after: int
    confidence_before: float
    image_png: str


class RuntimeRecord(Record):
    """A trial's int8 file in one runtime, beside the float32 file of the same network there.

    `quality` is that of the test set. `agreement` is the share of test samples that the file answers as the simulated
    graph does, `agreement_with` as the file of each other runtime of the trial does, by its name; of a regression: to
    1/255 of the answers' span. `steps` counts the logits by their distance from the simulated ones, in steps of 1/255
    of the logits' span: up to half a step, one, two, four, more. `same_integers` says whether integers and scales read
    back from the file are the graph's. `operations` counts what the runtime runs by kind, in its own words, and type:
    {"QLinearConv": {"int8": 12}}; `float_operations` names those that compute in float32 though they were to be int8.
    Latencies are measured side by side at the end of the run; `speed` compares the file with its float32 file then.
    """

    runtime: str
    file: str
    float_file: str
    size_bytes: int
    quality: float
    agreement: float
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


class TrialRecord(Record):
    """One rung of the ladder: what was tried, why, what the deployed file measured, which limits broke.

    `breaches` are judged on the validation split: they steer the ladder. `test_breaches` are the same limits on the
    test set: they decide the verdict. `sqnr_db` is of the logits on the validation split. `runtimes` are those of
    the recipe, the one of `deployed` first; the float32 student has none. `reduced_layers` have 7-bit weights so
    that sums of two products fit into 16 bits (`quantize.reduce_range`). `layer_bits` are the layers whose weights
    have fewer bits than the others. `bit_operations` are those of one sample: multiply-adds times bits of weight and
    activation.
    """

    rung: str
    reason: str
    scheme: str
    simulated: Column
    deployed: Column
    sqnr_db: float
    breaches: tuple[Breach, ...]
    test_breaches: tuple[Breach, ...]
    seconds: float
    training: TrainingRecord | None = None
    runtimes: tuple[RuntimeRecord, ...] = ()
    reduced_layers: tuple[str, ...] = ()
    layer_bits: dict[str, int] = {}
    bit_operations: int | None = None

    @property
    def agreement(self) -> float:
        """The share of the test set on which the simulated graph and the deployed file answer the same; see
        `RuntimeRecord`."""
        return self.runtimes[0].agreement if self.runtimes else 1.0

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


class LengthRecord(Record):
    """Latency of one text of so many tokens: `CostRecord.file` -> its latency. Files of a fixed length are left out."""

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


class NoiseRecord(Record):
    """What a grid costs at the network's output while everything else stays float32.

    `place` is the module path of the layer, or of the operation behind whose output the grid lies. `sqnr_db` is of the
    logits; `divergence_nat` the mean divergence KL(float32 || quantized) of the class probabilities: by so much the
    cross entropy with float32's own answers grows, which is the change of the loss where there are no labels. Of a
    single output it is that of normal distributions of unit variance, half the squared difference.
    """

    place: str
    part: Literal["weights", "activations"]
    sqnr_db: float
    divergence_nat: float


class SensitivityRecord(Record):
    """Where the noise of quantization comes from: all weights alone, all activations alone, and each grid alone.

    `rung` names the trial; `samples` is the number of unlabelled calibration samples. `balanced_share` is the share of
    the noise power of all single grids that comes from those that equalization changes, None where there is none to
    change; `mean_share` the share of the noise of all grids together that is the same for every sample.
    """

    rung: str
    samples: int
    weights: NoiseRecord
    activations: NoiseRecord
    grids: tuple[NoiseRecord, ...]
    balanced_share: float | None = None
    mean_share: float = 0.0

    @property
    def weights_share(self) -> float:
        """The share of the noise power at the output that comes from weights; the rest comes from activations."""
        weights, activations = (10 ** (-noise.sqnr_db / 10) for noise in (self.weights, self.activations))
        return weights / (weights + activations) if weights + activations else 0.0

    def noise_of_weights(self) -> dict[str, float]:
        """The noise power of each layer's weights; a recurrent layer has several of them."""
        power: dict[str, float] = {}
        for grid in self.grids:
            if grid.part == "weights":
                power[grid.place] = power.get(grid.place, 0.0) + 10 ** (-grid.sqnr_db / 10)
        return power

    def worst_layers(self, most: int) -> tuple[tuple[str, ...], float]:
        """The layers whose weights make the most noise, at most so many, and their share of that of all weights."""
        power = self.noise_of_weights()
        worst = tuple(sorted(power, key=lambda place: -power[place])[:most])
        total = sum(power.values())
        return worst, sum(power[place] for place in worst) / total if total else 0.0


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


class OwnFileRecord(Record):
    """A float32 file of someone's own and the int8 file made from it: `bench.files` are these two.

    `agreement` is the share of equal answers, None where the output has no classes. `float_operations` are those that
    the int8 file leaves in float32, `operations` all by kind and type, as in `RuntimeRecord`. `pair_sums` says whether
    sums of two products can saturate on x86 CPUs without VNNI; empty where no such kernels are.
    """

    bench: BenchRecord
    scheme: str
    calibration_samples: int
    compared_samples: int
    sqnr_db: float
    agreement: float | None
    float_operations: tuple[str, ...]
    operations: dict[str, dict[str, int]] = {}
    pair_sums: str = ""


class VerdictRecord(Record):
    """How the run ended. `chosen` names the delivered rung; without a budget `met` is true.

    The rung `FLOAT32` is the unquantized student: every int8 file that kept the limits measured slower.
    """

    met: bool
    chosen: str
    breaches: tuple[Breach, ...]
    sentence: str
    next_step: str | None


class AdviceRecord(Record):
    """What was known before the student was trained: facts, and warnings with their reasons."""

    facts: tuple[str, ...]
    warnings: tuple[str, ...]


class RunRecord(Record):
    """The run as a whole: what was asked, where it ran, how it ended.

    `seconds` are those of its steps, whenever they were made; `steps` names their folders by step. `skipped` says why a
    rung was not tried, `estimates` what each rung costs, as it was known before it was tried. `delivered` holds the
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
    budget: dict[str, float | None]
    teacher: ModelRecord
    student: ModelRecord
    advice: AdviceRecord | None = None
    float_modules: FloatModulesRecord | None = None
    trials: tuple[TrialRecord, ...]
    skipped: dict[str, str] = {}
    estimates: dict[str, str] = {}
    sensitivity: SensitivityRecord | None = None
    comparison: ComparisonRecord
    flips: tuple[FlipRecord, ...]
    verdict: VerdictRecord
    delivered: dict[str, str] = {}


class FindingRecord(Record):
    """One check of a diagnosis: what was looked at, what was seen, and whether it explains a loss."""

    check: str
    suspect: bool
    text: str


class DiagnosisRecord(Record):
    """Why a quantized student lost accuracy: the checks in their order, the cause in a sentence, the cure.

    `rung` names the trial that was looked at, `sensitivity.rung` the one whose grids were switched on alone. `cure`
    holds the overrides of the recipe (`--set`) that apply it; empty where nothing is to be cured.
    """

    rung: str
    basis: str
    findings: tuple[FindingRecord, ...]
    cause: str
    cure: tuple[str, ...]
    sensitivity: SensitivityRecord

    @property
    def looked_at(self) -> str:
        """What was examined, in a sentence."""
        other = self.sensitivity.rung
        grids = f' (its grids alone: those of "{other}", weights rounded to the nearest)' if other != self.rung else ""
        return f'Looked at: the int8 file of the rung "{self.rung}"{grids}.'


class ArmRecord(Record):
    """One way of training the student: its test accuracy (fractions) in each seed."""

    name: str
    top1: tuple[float, ...]


class PairRecord(Record):
    """Two arms compared on the same test samples, first minus second, in percentage points.

    `interval_points` is the 95 % paired bootstrap interval over seeds and samples; `mcnemar_p` the exact test's
    p-value in each seed. The verdict is of the first arm against the second.
    """

    first: str
    second: str
    difference_points: float
    interval_points: tuple[float, float]
    per_seed_points: tuple[float, ...]
    mcnemar_p: tuple[float, ...]
    verdict: Literal["helps", "hurts", "cannot tell"]


class AblationRecord(Record):
    """Whether the teacher helped: the same student and steps, trained in several ways over the same seeds.

    `basis` is that of the run with the same teacher and student.
    """

    name: str
    command: str
    recipe_toml: str
    environment: Environment
    basis: str
    teacher: AccuracyRecord
    seeds: tuple[int, ...]
    samples: int
    arms: tuple[ArmRecord, ...]
    pairs: tuple[PairRecord, ...]
    seconds: float
