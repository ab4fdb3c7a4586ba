"""A quantized network's file in one runtime: what it is and predicts, beside the float32 file there."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from distiq.data.splits import Data
from distiq.files import save_tensors
from distiq.progress import Watch
from distiq.quantization.quantize import QuantizedModel, restore
from distiq.quantization.scheme import Scheme
from distiq.recipe.recipe import Recipe
from distiq.records.record import Record
from distiq.run.ledger import Ledger, Place, Step
from distiq.run.measure import (
    LOGITS,
    Conditions,
    Logits,
    MeasuredNetwork,
    Scores,
    conditions_of,
    example_of,
    export_file,
    file_logits,
    scores,
    whole,
)
from distiq.run.train import WEIGHTS, TrainedNetwork
from distiq.runtimes.export import differences, operations, runtime_named, runtime_of, size_bytes
from distiq.runtimes.uint8_input import MODULE as NORMALIZATION
from distiq.tasks.choose import task_of

SIMULATED = "simulated.safetensors"
STEPS = (0.5, 1.0, 2.0, 4.0)
LEAST_DB = 60.0  # SQNR of a file's logits against the simulated ones; occasional rounding differences stay above


class DeployedRecord(Record):
    """What a quantized network's file in one runtime is and predicts, not yet timed; see `RuntimeRecord`."""

    runtime: str
    file: str
    float_file: str
    size_bytes: int
    scores: Scores
    sqnr_db: float
    sqnr_by_part: dict[str, float] = {}
    simulated_sqnr_db: float
    agreement: float
    steps: tuple[int, int, int, int, int]
    same_integers: bool
    float_operations: tuple[str, ...]
    intended_float_operations: tuple[str, ...]
    operations: dict[str, dict[str, int]]


@dataclass(frozen=True)
class TrialFile:
    """A trial's file in one runtime, beside the float32 file of the same network there."""

    record: DeployedRecord
    path: Path
    float_path: Path

    @property
    def logits(self) -> Logits:
        return load_file(self.path.parent / LOGITS)


def deploy(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    rung: str,
    runtime: str,
    scheme: Scheme,
    trial: Step[Any],
    student: MeasuredNetwork,
    against: MeasuredNetwork,
) -> TrialFile:
    """A trial's graph as a file for a runtime other than the delivered one, beside the float32 file there."""
    title, conditions = runtime_named(runtime).title, conditions_of(recipe, runtime)
    plain = ledger.step(
        f"student-float32-{runtime}",
        f"the student's float32 file for {title}",
        Record,
        partial(export_float, network=student.trained, data=data, conditions=conditions),
    )
    make = partial(
        export_trial,
        file=f"student-{rung}-{runtime}",
        trial=trial,
        scheme=scheme,
        student=student,
        against=against,
        data=data,
        conditions=conditions,
    )
    step = ledger.step(f"trial-{rung}-{runtime}", f"{rung}: the file for {title}", DeployedRecord, make)
    name = conditions.model_file
    return TrialFile(step.record, step.folder / name, plain.folder / name)


def export_float(place: Place, *, network: TrainedNetwork, data: Data, conditions: Conditions) -> Record:
    """The step of a float32 file."""
    export_file(network.module, place.folder / conditions.model_file, data, conditions.export)
    return Record()


def export_trial(
    place: Place,
    *,
    file: str,
    trial: Step[Any],
    scheme: Scheme,
    student: MeasuredNetwork,
    against: MeasuredNetwork,
    data: Data,
    conditions: Conditions,
) -> DeployedRecord:
    """The step of a trial's file in another runtime, from the weights that the trial saved."""
    weights, simulated = load_file(trial.folder / WEIGHTS), load_file(trial.folder / SIMULATED)
    quantized = restore(student.module, example_of(data), scheme, weights)
    path = export_file(quantized, place.folder / conditions.model_file, data, conditions.export)
    logits = file_logits(path, data, conditions)
    save_tensors(logits, place.folder / LOGITS)
    record = deployed(path, file, quantized, simulated, logits, student, against, data, conditions)
    warn_of_distance(record, place.watch)
    return record


def deployed(
    path: Path,
    file: str,
    quantized: QuantizedModel,
    simulated: Logits,
    logits: Logits,
    network: MeasuredNetwork,
    against: MeasuredNetwork,
    data: Data,
    conditions: Conditions,
) -> DeployedRecord:
    """What the int8 file of one runtime is and predicts.

    Args:
        file: what it is called in the run's records, such as "student-static"; a runtime may follow.
        simulated, logits: the logits of the graph, and those of the file.
    """
    role, _, form = file.partition("-")
    suffix = form.partition("-")[2]
    in_float = runtime_of(path).float_operations(path)
    modules = tuple(f"{module}/" for module in (*quantized.scheme.float_modules, NORMALIZATION))
    task = task_of(data)
    by_part = task.sqnr_db(whole(network.logits, "validation"), whole(logits, "validation"))
    meant = ("",) if quantized.scheme.in_float else modules
    return DeployedRecord(
        runtime=runtime_of(path).title,
        file=file,
        float_file=f"{role}-float32" + (f"-{suffix}" if suffix else ""),
        size_bytes=size_bytes(path),
        scores=scores(logits, data, conditions.evaluation, against, network),
        sqnr_db=min(by_part.values()),
        sqnr_by_part=by_part if len(by_part) > 1 else {},
        simulated_sqnr_db=min(task.sqnr_db(whole(simulated, "test"), whole(logits, "test")).values()),
        agreement=task.agreement(simulated["test"], logits["test"]),
        steps=_steps(whole(simulated, "test"), whole(logits, "test")),
        same_integers=not differences(quantized, path),
        float_operations=tuple(name for name in in_float if not name.startswith(meant)),
        intended_float_operations=tuple(name for name in in_float if name.startswith(meant)),
        operations=operations(path),
    )


def warn_of_distance(record: DeployedRecord, watch: Watch) -> None:
    """Leaves a note where a file's logits differ from those of the graph that it was lowered from."""
    if record.simulated_sqnr_db < LEAST_DB:
        watch.note(
            f"{record.runtime}: the file's logits differ from the simulated ones ({record.simulated_sqnr_db:.0f} dB,"
            f" not {LEAST_DB:.0f}): it computes some layers otherwise than the graph; measured is what the file does"
        )


def _steps(simulated: Tensor, deployed: Tensor) -> tuple[int, int, int, int, int]:
    """How many logits lie within each distance of the simulated ones; see `RuntimeRecord.steps`."""
    step = (simulated.max() - simulated.min()) / 255
    edges = torch.tensor(STEPS) * step
    counts = torch.bucketize((deployed - simulated).abs().flatten(), edges).bincount(minlength=len(STEPS) + 1)
    half, one, two, four, more = counts.tolist()
    return half, one, two, four, more
