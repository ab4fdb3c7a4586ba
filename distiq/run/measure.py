"""Measuring a network or a file: its logits, their quality, what it costs."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq import environment
from distiq.data.images import Images
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.evaluation.evaluate import outputs
from distiq.evaluation.keyword import keyword_errors
from distiq.files import save_tensors
from distiq.models.audio import frame_samples
from distiq.models.signature import Predict
from distiq.numerics import drawn
from distiq.quantization.quantize import QuantizedModel
from distiq.recipe.measure import EvaluationSettings, ExportSettings
from distiq.recipe.recipe import Recipe
from distiq.records.models import Column, ColumnName
from distiq.records.quality import Quality
from distiq.records.record import Record
from distiq.records.speed import CostRecord, LatencyRecord
from distiq.run.ledger import Ledger, Place, Step
from distiq.run.train import TrainedNetwork
from distiq.runtimes.export import export, footprint, load, runtime_named, runtime_of, size_bytes
from distiq.runtimes.uint8_input import Uint8Input
from distiq.tasks.choose import task_of
from distiq.tasks.score import score
from distiq.tasks.task import as_they_are
from distiq.timing.latency import latencies
from distiq.timing.memory import peak_memory_bytes

LOGITS = "logits.safetensors"
WHOLE, SAMPLES = "whole", 8
Logits = dict[str, Tensor]
"""What a task keeps of the outputs, (N, ...), such as logits, by split: "test" and "validation"; see `whole`."""
Latencies = tuple[LatencyRecord, ...]
"""The latencies of one file, one for each batch size."""


@dataclass(frozen=True)
class Conditions:
    """How files are made and measured: what determines a measurement besides the model and the data.

    Args:
        runtime: the one that the files are for, by its name in recipes.
        machine: the CPU and the versions of what runs on it.
    """

    runtime: str
    threads: int
    export: ExportSettings
    evaluation: EvaluationSettings
    machine: dict[str, str]

    @property
    def model_file(self) -> str:
        """The name of a step's file."""
        return f"model{runtime_named(self.runtime).suffix}"


@dataclass(frozen=True)
class Turns:
    """How files are timed: one sample at a time and in batches, in so many turns of so many seconds."""

    batch: int
    rounds: int
    seconds: float


def conditions_of(recipe: Recipe, runtime: str = "") -> Conditions:
    """The recipe's conditions on this machine, in its first runtime if none is named."""
    measure, here = recipe.measure, environment.describe()
    machine = {"cpu": here.cpu, **here.versions}
    return Conditions(runtime or measure.runtimes[0], measure.threads, recipe.export, recipe.evaluation, machine)


def turns_of(recipe: Recipe) -> Turns:
    return Turns(recipe.measure.throughput_batch, recipe.measure.rounds, recipe.measure.seconds)


# Values that steps leave ----------------------------------------------------------------------------------------------


class Scores(Record):
    """The quality of a model on the two splits that it is measured on."""

    test: Quality
    validation: Quality


class FileCost(Record):
    """What a file costs by itself. `alone` are its latencies while no other file is timed."""

    runtime: str
    size_bytes: int
    parameters: int
    macs: int
    peak_memory_bytes: int | None
    alone: Latencies = ()
    flash_bytes: int | None = None
    ram_bytes: int | None = None

    def timed(self, file: str, latency: Latencies) -> CostRecord:
        """The cost under the file's name in the run, with latencies that were measured beside other files."""
        return CostRecord(
            file=file,
            runtime=self.runtime,
            size_bytes=self.size_bytes,
            parameters=self.parameters,
            macs=self.macs,
            peak_memory_bytes=self.peak_memory_bytes,
            latency=latency,
            flash_bytes=self.flash_bytes,
            ram_bytes=self.ram_bytes,
        )


class FloatRecord(Record):
    """What was measured for a float32 network as a file in the first runtime; a callable has no file and so no cost.

    `no_file` says why a network has no file; its logits then come from PyTorch.
    """

    scores: Scores
    cost: FileCost | None
    no_file: str = ""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A trained network with the logits of its float32 file."""

    trained: TrainedNetwork
    step: Step[FloatRecord]
    logits: Logits
    file: Path | None

    @property
    def key(self) -> str:
        """The trained network's key: steps made from it name their measuring conditions themselves, and the measured
        times affect no result."""
        return self.trained.key

    @property
    def module(self) -> nn.Module:
        return self.trained.module

    @property
    def scores(self) -> Scores:
        return self.step.record.scores

    @property
    def cost(self) -> FileCost | None:
        return self.step.record.cost

    @property
    def role(self) -> str:
        return self.trained.network.role


# The stage ------------------------------------------------------------------------------------------------------------


def measure_float(
    ledger: Ledger, recipe: Recipe, data: Data, trained: TrainedNetwork, against: MeasuredNetwork | None = None
) -> MeasuredNetwork:
    """Exports a network's float32 file and measures it; a callable, which has no file, only predicts.

    Args:
        against: the teacher, whose predictions the network's are compared with.
    """
    role, conditions = trained.network.role, conditions_of(recipe)
    if trained.network.is_predictor:
        make: partial[FloatRecord] = partial(measure_predictor, trained=trained, data=data, conditions=conditions)
        step = ledger.step(f"{role}-float32", f"asking the {role}", FloatRecord, make)
        _say(ledger, role, step.record, data)
        return MeasuredNetwork(trained, step, load_file(step.folder / LOGITS), None)
    make = partial(
        measure_network, trained=trained, against=against, data=data, conditions=conditions, turns=turns_of(recipe)
    )
    step = ledger.step(f"{role}-float32", f"measuring the {role}'s float32 file", FloatRecord, make)
    _say(ledger, role, step.record, data)
    if why := step.record.no_file:
        ledger.watch.note(f"the {role} has no file, its logits are PyTorch's: {why}")
    file = None if step.record.no_file else step.folder / conditions.model_file
    return MeasuredNetwork(trained, step, load_file(step.folder / LOGITS), file)


def _say(ledger: Ledger, role: str, record: FloatRecord, data: Data) -> None:
    """Reports a network's quality, so that a wrongly loaded teacher is noticed before a student learns from it."""
    test = record.scores.test
    ledger.watch.note(f"{role}, float32: {test.primary.in_words} on {test.samples} test {data.noun}")


def measure_predictor(place: Place, *, trained: TrainedNetwork, data: Data, conditions: Conditions) -> FloatRecord:
    """The step of a callable: its logits and their quality."""
    logits = logits_of(trained.module, data)
    save_tensors(logits, place.folder / LOGITS)
    return FloatRecord(scores=scores(logits, data, conditions.evaluation), cost=None)


def measure_network(
    place: Place,
    *,
    trained: TrainedNetwork,
    against: MeasuredNetwork | None,
    data: Data,
    conditions: Conditions,
    turns: Turns,
) -> FloatRecord:
    """The step of a network: its float32 file, that file's logits, quality and cost.

    A teacher is only a reference: where no file can hold it, PyTorch computes its logits.
    """
    path = place.folder / conditions.model_file
    try:
        export_file(trained.module, path, data, conditions.export)
        logits = file_logits(path, data, conditions)
    except Exception as error:  # exporters and runtimes raise their own exception types
        if trained.network.role != "teacher":
            raise
        path.unlink(missing_ok=True)
        asked = measure_predictor(place, trained=trained, data=data, conditions=conditions)
        return FloatRecord(scores=asked.scores, cost=None, no_file=reason_of(error))
    save_tensors(logits, place.folder / LOGITS)
    cost = file_cost(path, trained.module, data, conditions, turns)
    return FloatRecord(scores=scores(logits, data, conditions.evaluation, against), cost=cost)


def reason_of(error: Exception) -> str:
    """Why something that a run can do without could not be made; the error of a full disk is re-raised."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    if is_full or (isinstance(error, UserError) and isinstance(error.__cause__, OSError)):  # see `files`
        raise error
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


# Its parts ------------------------------------------------------------------------------------------------------------


def example_of(data: Data) -> Tensor:
    """Two example inputs for the networks."""
    return data.normalize(data.calibration.drawn(2).inputs)


def frame_of(model: nn.Module, data: Data) -> int:
    """Of a network that writes texts, the samples of sound from one of its frames to the next; else 0."""
    return frame_samples(model, example_of(data).shape[1]) if task_of(data).writes_texts else 0


def export_file(model: nn.Module, path: Path, data: Data, settings: ExportSettings) -> Path:
    """The model as a file, which takes uint8 images, or takes and gives integers, if the recipe says so."""
    images = as_fed(data, settings).preprocessing
    inside = Uint8Input(images.mean, images.std) if isinstance(images, Images) and images.as_uint8 else None
    integer_io = isinstance(model, QuantizedModel) and model.scheme.integer_io
    return export(model, path, example_of(data), inside, integer_io and runtime_of(path).integer_io)


def as_fed(data: Data, settings: ExportSettings) -> Data:
    """The data as the files take it."""
    if not isinstance(data.preprocessing, Images):
        return data
    return replace(data, preprocessing=replace(data.preprocessing, as_uint8=settings.uint8_input))


def logits_of(predict: Predict, data: Data) -> Logits:
    """A model's outputs before decoding; where the task keeps only part of them, also a few complete ones."""
    task = task_of(data)
    kept = {"test": outputs(predict, data, data.test), "validation": outputs(predict, data, data.validation)}
    if task.keep is as_they_are:
        return kept
    whole = replace(task, keep=as_they_are)
    return {**kept, WHOLE: outputs(predict, data, data.validation.drawn(SAMPLES), whole)}


def whole(logits: Logits, split: str) -> Tensor:
    """A split's complete outputs, in which noise is measured; those of a few samples where the task keeps less."""
    return logits.get(WHOLE, logits[split])


def file_logits(path: Path, data: Data, conditions: Conditions) -> Logits:
    """What a file predicts."""
    return logits_of(load(path, conditions.threads), as_fed(data, conditions.export))


def scores(
    logits: Logits,
    data: Data,
    evaluation: EvaluationSettings,
    teacher: MeasuredNetwork | None = None,
    float_student: MeasuredNetwork | None = None,
) -> Scores:
    """The quality of given logits on both splits.

    Args:
        teacher, float_student: whose logits they are compared with.
    """

    task = task_of(data)

    def of(split: str, labels: Tensor) -> Quality:
        reference, own = (network.logits[split] if network else None for network in (teacher, float_student))
        word, allowed = evaluation.keyword, evaluation.false_accepts
        errors = keyword_errors(logits[split], labels, data.classes, word, allowed) if word else None
        return score(task, logits[split], labels, teacher=reference, float_student=own, keyword=errors)

    return Scores(test=of("test", data.test.labels), validation=of("validation", data.validation.labels))


def file_cost(path: Path, model: nn.Module, data: Data, conditions: Conditions, turns: Turns) -> FileCost:
    """What a file costs by itself.

    Args:
        model: the float network, for parameters and operations.
    """
    fed = as_fed(data, conditions.export)
    loaded, board = {"": load(path, conditions.threads)}, footprint(path)
    return FileCost(
        runtime=runtime_of(path).title,
        size_bytes=size_bytes(path),
        parameters=parameter_count(model),
        macs=multiply_adds(model, example_of(data)),
        peak_memory_bytes=peak_memory_bytes(path, fed.normalize(data.test.drawn(1).inputs)),
        alone=side_by_side(loaded, conditions.threads, fed, turns)[""],
        flash_bytes=board.flash_bytes,
        ram_bytes=board.ram_bytes,
    )


def side_by_side(
    models: Mapping[str, Predict], threads: int | Mapping[str, int], data: Data, turns: Turns
) -> dict[str, Latencies]:
    """Latency at batch 1 and throughput at the larger batch of all models, in turns.

    Args:
        threads: the number that the models were loaded with. data: as the files take it.
    """
    sizes = sorted({1, turns.batch})
    batches = [data.normalize(data.test.fetch(_timed_on(len(data.test), size))) for size in sizes]
    timed = [latencies(models, batch, threads, turns.rounds, turns.seconds) for batch in batches]
    return {name: tuple(of_size[name] for of_size in timed) for name in models}


def _timed_on(count: int, size: int) -> Tensor:
    """Which of `count` samples a batch of `size` is timed with: drawn ones, repeated where there are too few."""
    chosen = drawn(count, size)
    return chosen[torch.arange(size) % len(chosen)]


def column(
    name: ColumnName, quality: Scores, cost: FileCost | None = None, file: str = "", latency: Latencies = ()
) -> Column:
    """A column of the table; without a file there is no cost."""
    timed = cost.timed(file, latency) if cost else None
    return Column(name=name, cost=timed, test=quality.test, validation=quality.validation)
