"""The end of a run: its files timed side by side, one chosen, the bundle and the report written."""

import datetime
from pathlib import Path

from safetensors.torch import load_file

from distiq import environment
from distiq.bundle.write import write_bundle
from distiq.evaluation.statistics import paired_speed
from distiq.files import replace_folder
from distiq.models.transformer import TokenLogits, save_transformers
from distiq.numerics import sqnr_db
from distiq.quantization.mixed import FLOAT_BITS
from distiq.recipe.recipe import to_toml
from distiq.records.models import Column, ModelRecord
from distiq.records.run import AdviceRecord, RunRecord
from distiq.records.speed import ComparisonRecord, CostRecord
from distiq.records.trials import FLOAT32, TrialRecord
from distiq.report.report import write_report
from distiq.run import ladder
from distiq.run.climb import MEASURING_CODE, Network, Run, Trials, judged
from distiq.run.ledger import source_hash
from distiq.run.measure import ANSWERS
from distiq.run.train import basis_of
from distiq.runtimes.export import checksums, size_bytes
from distiq.runtimes.onnx_runtime import with_mask
from distiq.timing.peak import MOST_PEAK_SECONDS, measure_peak
from distiq.training import processes

TRANSFORMERS = "transformers"  # of a student of that library: a folder that it loads


def deliver(run: Run, climbed: Trials, advice: AdviceRecord | None, command: str) -> RunRecord:
    """Times all files together, chooses one, and leaves bundle, report and the record of the run."""
    teacher, student, trials = climbed.teacher, climbed.student, climbed.made
    comparison = _compare(run)
    student.record = _timed(student.record, comparison)
    trials = [_timed_together(run, teacher, trial, comparison) for trial in trials]
    chosen = _delivered(run, teacher, student, trials)
    cost = chosen.deployed.cost
    assert cost is not None
    file = run.files[cost.file]
    teacher_record = _timed(teacher.record, comparison)
    int8 = ladder.best(trials) if chosen.rung == FLOAT32 else chosen
    columns = (*student.record.columns, int8.simulated, int8.deployed)
    student_record = student.record.model_copy(update={"columns": columns})
    verdict = ladder.verdict(run.recipe.budget, trials, teacher_record, student_record, run.data.kind, chosen)
    # What was delivered from another runtime stands in its trial's place, the float32 student behind all trials.
    shown = [chosen if trial.rung == chosen.rung else trial for trial in trials]
    shown += [chosen] if chosen.rung == FLOAT32 else []
    record = RunRecord(
        name=run.recipe.name,
        command=command,
        recipe_toml=to_toml(run.recipe),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=sum(step.seconds for step in run.ledger.used.values()),
        steps={name.rpartition("-")[0]: name for name in run.ledger.used},
        basis=basis_of(run.recipe),
        code_version=source_hash(".")[:16],
        environment=environment.describe(),
        data=run.data_record,
        budget=run.recipe.budget.model_dump(),
        teacher=teacher_record,
        student=student_record,
        advice=advice,
        float_modules=climbed.decided,
        trials=tuple(shown),
        skipped=dict(climbed.skipped),
        estimates=climbed.estimates,
        sensitivity=climbed.evidence,
        comparison=comparison,
        flips=run.measuring.worst_flips(student.answers["test"], load_file(file.parent / ANSWERS)["test"]),
        verdict=verdict,
        delivered=checksums(file),
    )
    return processes.on_main(lambda: _written(run, record, file, chosen, student))


def _written(run: Run, record: RunRecord, file: Path, chosen: TrialRecord, student: Network) -> RunRecord:
    """Bundle and report on the disk."""
    run.watch.stage("writing bundle and report")
    write_bundle(run.ledger.folder / "bundle", file, record, chosen, run.measuring.fed, run.networks.kept)
    if isinstance(student.model, TokenLogits):
        _save_for_transformers(run, student.model, file)
    record.save(run.ledger.records / "run.json")
    write_report(run.ledger.records, run.ledger.folder / "report.html")
    return record


def _save_for_transformers(run: Run, student: TokenLogits, file: Path) -> None:
    """The float32 student as a folder for other programs; for Optimum with the delivered file, if it is ONNX."""
    partial = run.ledger.folder / f".{TRANSFORMERS}.partial"
    text = run.data.preparation.get("text", {})
    target = run.data.target._asdict() if run.data.regression else None
    save_transformers(student, partial, run.data.classes, text, run.data.multi_label, target)
    if file.suffix == ".onnx":
        with_mask(file, partial / "model.onnx", run.data.tokens[1])
    replace_folder(partial, run.ledger.folder / TRANSFORMERS)


def _timed_together(run: Run, teacher: Network, trial: TrialRecord, comparison: ComparisonRecord) -> TrialRecord:
    """The trial with the latencies that were measured side by side, and its limits judged by them."""
    runtimes = tuple(
        entry.model_copy(
            update={
                "latency": comparison.files[entry.file],
                "float_latency": comparison.files[entry.float_file],
                "float_size_bytes": size_bytes(run.files[entry.float_file]),
                "speed": paired_speed(
                    comparison.files[entry.float_file][0].turns_ms, comparison.files[entry.file][0].turns_ms
                ),
            }
        )
        for entry in trial.runtimes
    )
    deployed = _timed_column(trial.deployed, comparison)
    return judged(run.recipe.budget, teacher, trial.model_copy(update={"deployed": deployed, "runtimes": runtimes}))


def _delivered(run: Run, teacher: Network, student: Network, trials: list[TrialRecord]) -> TrialRecord:
    """The trial to deliver: the best, or what is faster than float32 where that is not."""
    best = ladder.best(trials)
    if not ladder.is_slower(best) or not run.recipe.quantize.fall_back:
        return best
    others = [
        judged(run.recipe.budget, teacher, _in_runtime(run, student, trial, number))
        for trial in trials
        for number in range(len(trial.runtimes))
    ]
    column = student.record.column("float32")
    own = best.runtimes[0].runtime
    float32 = TrialRecord(
        rung=FLOAT32,
        reason=f"int8 measured slower than float32 in {own}",
        scheme="float32, not quantized",
        simulated=column,
        deployed=column,
        sqnr_db=float("inf"),
        breaches=(),
        test_breaches=(),
        seconds=0.0,
        bit_operations=(student.record.macs or 0) * FLOAT_BITS**2,
    )
    delivered = ladder.fall_back(best, others, judged(run.recipe.budget, teacher, float32))
    cost = delivered.deployed.cost
    assert cost is not None
    run.watch.note(f"int8 measured slower than float32 in {own}; delivered: {cost.file} ({cost.runtime})")
    return delivered


def _in_runtime(run: Run, student: Network, trial: TrialRecord, number: int) -> TrialRecord:
    """The trial with the file of another of its runtimes as the deployed one, which stands first then."""
    if number == 0:
        return trial
    entry, column = trial.runtimes[number], student.record.column("float32")
    assert column.cost is not None
    answers = load_file(run.files[entry.file].parent / ANSWERS)
    cost = CostRecord(
        file=entry.file,
        runtime=entry.runtime,
        size_bytes=entry.size_bytes,
        parameters=column.cost.parameters,
        macs=column.cost.macs,
        peak_memory_bytes=None,
        latency=entry.latency,
    )
    others = tuple(other for other in trial.runtimes if other is not entry)
    return trial.model_copy(
        update={
            "deployed": run.measuring.column("int8 deployed", answers, student.answers, cost),
            "sqnr_db": sqnr_db(student.answers["validation"], answers["validation"]),
            "runtimes": (entry, *others),
        }
    )


def _compare(run: Run) -> ComparisonRecord:
    """All files of the run, timed side by side."""

    def make(_folder: Path) -> ComparisonRecord:
        if run.recipe.measure.tune:
            run.watch.stage("timing the settings of each file's runtime")
        tuning = run.measuring.tuned(run.files)
        settings = run.recipe.measure
        run.watch.stage("timing all files side by side")
        latencies = run.measuring.latencies(run.files, tuning)
        lengths = run.measuring.lengths(run.files, tuning)
        peak = measure_peak(min(settings.rounds * settings.seconds, MOST_PEAK_SECONDS))
        return ComparisonRecord(
            threads=settings.threads,
            files=latencies,
            tuning=tuning,
            lengths=lengths,
            fixed_lengths=run.measuring.fixed_lengths(run.files),
            peak=peak,
        )

    inputs = run.measured_by | run.recipe.measure.model_dump(include={"tune", "lengths"})
    inputs |= {name: checksums(path) for name, path in run.files.items()}
    return run.ledger.step("comparison", inputs, MEASURING_CODE, ComparisonRecord, make).record


def _timed_column(column: Column, comparison: ComparisonRecord) -> Column:
    if column.cost is None:
        return column
    latency = comparison.files[column.cost.file]
    return column.model_copy(update={"cost": column.cost.model_copy(update={"latency": latency})})


def _timed(record: ModelRecord, comparison: ComparisonRecord) -> ModelRecord:
    """The record with the latencies that were measured side by side."""
    return record.model_copy(update={"columns": tuple(_timed_column(entry, comparison) for entry in record.columns)})
