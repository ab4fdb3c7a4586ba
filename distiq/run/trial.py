"""One attempt at an int8 file: a scheme's network, trained further if need be, exported, measured in each runtime."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from distiq.data.splits import Data
from distiq.distillation.distil import common, output_losses
from distiq.files import save_tensors
from distiq.quantization.mixed import bit_operations, products
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import QATSettings
from distiq.records.record import Record
from distiq.records.training import TrainingRecord
from distiq.records.trials import Breach
from distiq.run.deploy import SIMULATED, DeployedRecord, TrialFile, deploy, deployed, warn_of_distance
from distiq.run.evidence import calibrated, float_modules
from distiq.run.ledger import CHECKPOINT, Ledger, Place, Step
from distiq.run.measure import (
    LOGITS,
    Conditions,
    FileCost,
    MeasuredNetwork,
    Scores,
    Turns,
    conditions_of,
    example_of,
    export_file,
    file_cost,
    file_logits,
    logits_of,
    reason_of,
    scores,
    turns_of,
)
from distiq.run.train import WEIGHTS, TrainedNetwork, live_or_cached
from distiq.tasks.choose import task_of
from distiq.training import processes
from distiq.training.batches import Batch
from distiq.training.fit import Losses

NO_REFERENCE = "no quantized teacher as a reference, the run goes on without it: "


class QuantizedRecord(Record):
    """What a scheme made of a network: simulated, and deployed in the first runtime; see `TrialRecord`."""

    scheme: str
    simulated: Scores
    deployed: DeployedRecord
    cost: FileCost
    training: TrainingRecord | None
    reduced_layers: tuple[str, ...]
    rounding_samples: int | None
    layer_bits: dict[str, int]
    bit_operations: int | None


@dataclass(frozen=True)
class Trial:
    """A rung that was climbed: why, what it made, its file in each runtime, the limits that it breaks on the
    validation split."""

    rung: str
    reason: str
    scheme: Scheme
    made: QuantizedRecord
    files: tuple[TrialFile, ...]
    seconds: float
    breaches: tuple[Breach, ...]

    @property
    def training(self) -> TrainingRecord | None:
        return self.made.training

    @property
    def sqnr_db(self) -> float:
        return self.made.deployed.sqnr_db


@dataclass(frozen=True)
class Lesson:
    """How a quantized network is trained further, and which network teaches it."""

    source: TrainedNetwork | None
    distillation: DistilSettings
    training: QATSettings
    label_smoothing: float
    views: ViewSettings
    learn_ranges: bool


# The reference: the teacher's own int8 file ---------------------------------------------------------------------------


class ReferenceRecord(Record):
    """What quantizing the teacher made, or why it could not be quantized: a run does not need it."""

    made: QuantizedRecord | None = None
    why: str = ""


@dataclass(frozen=True)
class QuantizedTeacher:
    """What quantizing the teacher itself gives."""

    record: QuantizedRecord
    path: Path


def quantize_teacher(ledger: Ledger, recipe: Recipe, data: Data, reference: MeasuredNetwork) -> QuantizedTeacher | None:
    """What a student has to beat: the teacher's own int8 file; None if it has no file, or cannot be quantized."""
    if reference.file is None:
        return None
    mode, conditions = recipe.quantize.mode, conditions_of(recipe)
    try:
        decided = float_modules(ledger, data, reference, None, Scheme(mode=mode))
    except Exception as error:  # exporters raise their own exception types
        ledger.watch.note(NO_REFERENCE + reason_of(error))
        return None
    kept = decided.paths if decided and decided.kept else ()
    make = partial(
        quantize_reference,
        network=reference,
        scheme=Scheme(float_modules=kept, mode=mode, rounding="gptq"),
        data=data,
        conditions=conditions,
        turns=turns_of(recipe),
        seed=recipe.seed,
    )
    step = ledger.step("teacher-int8", "quantizing the teacher, as a reference", ReferenceRecord, make)
    if step.record.made is None:
        ledger.watch.note(NO_REFERENCE + step.record.why)
        return None
    return QuantizedTeacher(step.record.made, step.folder / conditions.model_file)


def quantize_reference(
    place: Place,
    *,
    network: MeasuredNetwork,
    scheme: Scheme,
    data: Data,
    conditions: Conditions,
    turns: Turns,
    seed: int,
) -> ReferenceRecord:
    """The step that calibrates and measures the teacher's int8 file."""
    try:
        quantized = calibrated(network.module, data, scheme, seed, place.watch)
        made = _measured(place, "teacher-int8", quantized, network, network, data, conditions, turns, None)
    except Exception as error:  # exporters and runtimes raise their own exception types
        return ReferenceRecord(why=reason_of(error))
    return ReferenceRecord(made=made)


# A trial of the student -----------------------------------------------------------------------------------------------


def quantize_student(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    rung: str,
    title: str,
    scheme: Scheme,
    student: MeasuredNetwork,
    against: MeasuredNetwork,
    lesson: Lesson | None,
) -> tuple[Step[QuantizedRecord], tuple[TrialFile, ...]]:
    """Makes a rung's quantized network and its file in each runtime of the recipe.

    Args:
        against: the teacher, whose predictions the file's are compared with.
        lesson: how the quantized network is trained further; None leaves it as calibrated.
    """
    first, *others = recipe.measure.runtimes
    conditions = conditions_of(recipe, first)
    make = partial(
        make_trial,
        file=f"student-{rung}",
        student=student,
        against=against,
        scheme=scheme,
        lesson=lesson,
        data=data,
        conditions=conditions,
        turns=turns_of(recipe),
        seed=recipe.seed,
    )
    step = ledger.step(f"trial-{rung}", title, QuantizedRecord, make, together=lesson is not None)
    assert student.file is not None
    own = TrialFile(step.record.deployed, step.folder / conditions.model_file, student.file)
    files = [deploy(ledger, recipe, data, rung, name, scheme, step, student, against) for name in others]
    return step, (own, *files)


def make_trial(
    place: Place,
    *,
    file: str,
    student: MeasuredNetwork,
    against: MeasuredNetwork,
    scheme: Scheme,
    lesson: Lesson | None,
    data: Data,
    conditions: Conditions,
    turns: Turns,
    seed: int,
) -> QuantizedRecord | None:
    """The step of a rung: the quantized network, trained further if there is a lesson, its file and measurements."""
    quantized = calibrated(student.module, data, scheme, seed, place.watch)
    training = train_on(place, quantized, lesson, data, seed) if lesson else None
    if not processes.is_main():
        return None
    save_tensors(quantized.state_dict(), place.folder / WEIGHTS)
    return _measured(place, file, quantized, student, against, data, conditions, turns, training)


def train_on(place: Place, quantized: QuantizedModel, lesson: Lesson, data: Data, seed: int) -> TrainingRecord:
    """Quantization-aware training, in place, with the teacher where the lesson has one."""
    settings, task = lesson.distillation, task_of(data)
    teacher = live_or_cached(place, lesson.source, data, settings, lesson.views, seed) if lesson.source else None

    def loss_fn(logits: Tensor, batch: Batch) -> Losses:
        knowledge = teacher(batch) if teacher is not None else None
        logits, knowledge, batch = common(logits, knowledge, batch)
        return output_losses(task, logits, batch, knowledge, settings, lesson.label_smoothing)

    return train_quantized(
        quantized,
        loss_fn,
        data,
        lesson.training,
        views=lesson.views,
        learn_ranges=lesson.learn_ranges,
        seed=seed,
        checkpoint=place.folder / CHECKPOINT,
        watch=place.watch,
    )


def _measured(
    place: Place,
    file: str,
    quantized: QuantizedModel,
    network: MeasuredNetwork,
    against: MeasuredNetwork,
    data: Data,
    conditions: Conditions,
    turns: Turns,
    training: TrainingRecord | None,
) -> QuantizedRecord:
    """Exports a quantized network and measures it simulated and deployed, against its own float network."""
    path = export_file(quantized, place.folder / conditions.model_file, data, conditions.export)
    simulated = logits_of(quantized.in_integers, data)
    save_tensors(simulated, place.folder / SIMULATED)
    logits = file_logits(path, data, conditions)
    save_tensors(logits, place.folder / LOGITS)
    cost = file_cost(path, network.module, data, conditions, turns)
    record = deployed(path, file, quantized, simulated, logits, network, against, data, conditions)
    warn_of_distance(record, place.watch)
    return QuantizedRecord(
        scheme=str(quantized.scheme) + (", trained quantized" if training else ""),
        simulated=scores(simulated, data, conditions.evaluation, against, network),
        deployed=record,
        cost=cost,
        training=training,
        reduced_layers=quantized.reduced_layers(),
        rounding_samples=quantized.rounding_samples,
        layer_bits=dict(quantized.scheme.layer_bits),
        bit_operations=bit_operations(products(quantized.prepared, example_of(data))),
    )
