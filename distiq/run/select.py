"""The end of the climb: every trial is judged by latencies that were measured side by side, and one file is chosen."""

from collections.abc import Sequence
from typing import NamedTuple

from distiq.data.splits import Data
from distiq.evaluation.statistics import paired_speed
from distiq.progress import Watch
from distiq.quantization.mixed import FLOAT_BITS
from distiq.recipe.recipe import Recipe
from distiq.records.models import Column
from distiq.records.speed import ComparisonRecord
from distiq.records.trials import FLOAT16, FLOAT32, Breach, RuntimeRecord, TrialRecord
from distiq.run import ladder
from distiq.run.deploy import TrialFile
from distiq.run.measure import FileCost, MeasuredNetwork, column
from distiq.run.trial import Trial
from distiq.runtimes.export import footprint, size_bytes
from distiq.tasks.choose import task_of


class Selection(NamedTuple):
    """The judged trials, the best of their int8 files in the first runtime, and what is delivered."""

    trials: tuple[TrialRecord, ...]
    best: TrialRecord
    delivered: TrialRecord

    @property
    def shown(self) -> tuple[TrialRecord, ...]:
        """The trials to show: a file delivered from another runtime replaces its trial, a float32 student is last."""
        own = tuple(self.delivered if trial.rung == self.delivered.rung else trial for trial in self.trials)
        return (*own, self.delivered) if self.delivered.rung == FLOAT32 else own


class Broken(NamedTuple):
    """The limits that a file breaks on each split."""

    validation: tuple[Breach, ...]
    test: tuple[Breach, ...]


def select(
    recipe: Recipe,
    data: Data,
    reference: MeasuredNetwork,
    student: MeasuredNetwork,
    trials: Sequence[Trial],
    timings: ComparisonRecord,
    watch: Watch,
) -> Selection:
    """Judges the trials and chooses the file to deliver: the best, or another where the best is slower than float32."""
    runtimes = [_in_runtimes(trial, data, timings) for trial in trials]
    judged = tuple(
        judge_trial(recipe, reference, student, trial, entries, timings)
        for trial, entries in zip(trials, runtimes, strict=True)
    )
    best = ladder.best(judged)
    if not ladder.is_slower(best) or not recipe.quantize.fall_back:
        return Selection(judged, best, best)
    others = [
        judge_trial(recipe, reference, student, trial, entries, timings, number)
        for trial, entries in zip(trials, runtimes, strict=True)
        for number in range(len(entries))
    ]
    reason = f"{best.form} measured slower than float32 in {best.runtimes[0].runtime}"
    delivered = ladder.fall_back(best, others, _float_trial(recipe, reference, student, timings, reason))
    assert delivered.deployed.cost is not None
    watch.note(f"{reason}; delivered: {delivered.deployed.cost.file} ({delivered.deployed.cost.runtime})")
    return Selection(judged, best, delivered)


def judge_trial(
    recipe: Recipe,
    reference: MeasuredNetwork,
    student: MeasuredNetwork,
    trial: Trial,
    runtimes: Sequence[RuntimeRecord],
    timings: ComparisonRecord,
    number: int = 0,
) -> TrialRecord:
    """The record of a trial, with the limits that it breaks.

    Args:
        runtimes: its file in each runtime. number: index of the one that counts as deployed; it comes first.
    """
    made, file = trial.made, trial.files[number].record
    cost = made.cost if number == 0 else _cost_elsewhere(trial.files[number], student)
    is_half = trial.rung == FLOAT16
    deployed = column(
        "float16 deployed" if is_half else "int8 deployed", file.scores, cost, file.file, timings.files[file.file]
    )
    others = tuple(entry for place, entry in enumerate(runtimes) if place != number)
    broken = _breaches(recipe, reference, deployed, made.bit_operations)
    return TrialRecord(
        rung=trial.rung,
        reason=trial.reason,
        scheme=made.scheme,
        simulated=column("float16 simulated" if is_half else "int8 simulated", made.simulated),
        deployed=deployed,
        sqnr_db=file.sqnr_db,
        sqnr_by_part=file.sqnr_by_part,
        breaches=broken.validation,
        test_breaches=broken.test,
        seconds=trial.seconds,
        training=made.training,
        runtimes=(runtimes[number], *others),
        reduced_layers=made.reduced_layers,
        rounding_samples=made.rounding_samples,
        layer_bits=made.layer_bits,
        bit_operations=made.bit_operations,
    )


def _float_trial(
    recipe: Recipe, reference: MeasuredNetwork, student: MeasuredNetwork, timings: ComparisonRecord, reason: str
) -> TrialRecord:
    """The float32 student as a trial."""
    file, cost = f"{student.role}-float32", student.cost
    assert cost is not None
    own = column("float32", student.scores, cost, file, timings.files[file])
    operations = cost.macs * FLOAT_BITS**2
    broken = _breaches(recipe, reference, own, operations)
    return TrialRecord(
        rung=FLOAT32,
        reason=reason,
        scheme="float32, not quantized",
        simulated=own,
        deployed=own,
        sqnr_db=float("inf"),
        breaches=broken.validation,
        test_breaches=broken.test,
        seconds=0.0,
        bit_operations=operations,
    )


def _breaches(recipe: Recipe, reference: MeasuredNetwork, own: Column, operations: int | None) -> Broken:
    """The limits that a file breaks on the validation and on the test split."""
    assert own.cost is not None
    cost, teacher = own.cost, reference.scores
    beside = cost.size_bytes, cost.at_batch(1).p50_ms, operations, cost.flash_bytes, cost.ram_bytes
    return Broken(
        ladder.judge(recipe.budget, teacher.validation, ladder.Measured(own.validation, *beside)),
        ladder.judge(recipe.budget, teacher.test, ladder.Measured(own.test, *beside)),
    )


def _cost_elsewhere(file: TrialFile, student: MeasuredNetwork) -> FileCost:
    """The cost of a file of any runtime but the first; its memory was not measured."""
    assert student.cost is not None
    return FileCost(
        runtime=file.record.runtime,
        size_bytes=file.record.size_bytes,
        parameters=student.cost.parameters,
        macs=student.cost.macs,
        peak_memory_bytes=None,
        **footprint(file.path)._asdict(),
    )


def _in_runtimes(trial: Trial, data: Data, timings: ComparisonRecord) -> tuple[RuntimeRecord, ...]:
    """The record of a trial's file in each runtime: timed, and compared with the files of the others."""
    logits, agreement = {file.record.runtime: file.logits["test"] for file in trial.files}, task_of(data).agreement
    return tuple(
        RuntimeRecord(
            runtime=file.record.runtime,
            file=file.record.file,
            float_file=file.record.float_file,
            size_bytes=file.record.size_bytes,
            quality=file.record.scores.test.primary,
            simulated_sqnr_db=file.record.simulated_sqnr_db,
            agreement=file.record.agreement,
            steps=file.record.steps,
            same_integers=file.record.same_integers,
            float_operations=file.record.float_operations,
            intended_float_operations=file.record.intended_float_operations,
            operations=file.record.operations,
            agreement_with={
                name: agreement(logits[file.record.runtime], other)
                for name, other in logits.items()
                if name != file.record.runtime
            },
            float_size_bytes=size_bytes(file.float_path),
            latency=timings.files[file.record.file],
            float_latency=timings.files[file.record.float_file],
            speed=paired_speed(
                timings.files[file.record.float_file][0].turns_ms, timings.files[file.record.file][0].turns_ms
            ),
        )
        for file in trial.files
    )
