"""The tables of a run's trials: the rungs of the ladder, and each runtime's file."""

from collections import Counter

from distiq.records.record import NOUNS
from distiq.records.run import RunRecord
from distiq.records.trials import FLOAT32, RuntimeRecord, TrialRecord
from distiq.report.cells import Cell, Row
from distiq.report.figures import (
    NOTHING,
    amount,
    change,
    comparison,
    count,
    decibels,
    duration,
    figure,
    kilobytes,
    milliseconds,
    operation_names,
    per_second,
    percent,
    speed_interval,
    times,
)
from distiq.report.reading import chosen_trial, median_ms
from distiq.report.tables import broken_limits

LADDER_HEADINGS = (
    Cell("Validation", "against teacher"),
    Cell("Test", "against teacher"),
    Cell("File"),
    Cell("Latency", "one sample"),
    Cell("Agreement", "simulated, deployed"),
    Cell("SQNR"),
    Cell("Float operations left"),
    Cell("Limits broken", "validation"),
    Cell("Time"),
)


def float_modules_sentence(run: RunRecord) -> str:
    """Which modules stay in float32, and what int8 would do to them; empty if none was in question."""
    chosen = run.float_modules
    if chosen is None:
        return ""
    names = " and ".join(chosen.paths)
    if not chosen.kept:
        return f"{names} in int8 costs the logits {decibels(chosen.sqnr_db_float - chosen.sqnr_db_int8)} of SQNR."
    return (
        f"{names} in float32: the SQNR of the logits on the calibration {NOUNS[run.data.modality]} is"
        f" {decibels(chosen.sqnr_db_float)} so, and {decibels(chosen.sqnr_db_int8)} in int8."
    )


def _by_part(trial: TrialRecord) -> str:
    """Signal to noise of each part of the outputs: "boxes 41.3 dB, scores 35.0 dB"."""
    return ", ".join(f"{name} {decibels(value)}" for name, value in trial.sqnr_by_part.items())


def ladder_rows(run: RunRecord) -> tuple[Row, ...]:
    """One row for each trial in the order in which they ran, under LADDER_HEADINGS; the chosen one is marked."""
    return tuple(_ladder_row(run, trial) for trial in run.trials)


RUNTIME_HEADINGS = (
    Cell("File", "quantized"),
    Cell("Latency", "quantized, one sample"),
    Cell("Against float32", "one sample"),
    Cell("Agreement", "with the simulation"),
    Cell("Test"),
    Cell("Throughput", "quantized"),
    Cell("Within a step", "of the logits"),
    Cell("Integers", "those of the graph"),
    Cell("Float operations left"),
)


def runtime_rows(run: RunRecord) -> tuple[Row, ...]:
    """One row for each runtime of the delivered trial, or of the last int8 one, under RUNTIME_HEADINGS.

    The delivered file's is marked.
    """
    trial = int8_trial(run)
    return tuple(
        _runtime_row(entry, number == 0 and trial.rung == run.verdict.chosen)
        for number, entry in enumerate(trial.runtimes)
    )


def int8_trial(run: RunRecord) -> TrialRecord:
    """The delivered trial, or the last int8 one where float32 was delivered."""
    return next(entry for entry in (chosen_trial(run), *reversed(run.trials)) if entry.rung != FLOAT32)


def least_agreement(run: RunRecord) -> float | None:
    """The lowest share of equal predictions on test samples between any two runtimes' files; None of a single one."""
    return min((share for entry in int8_trial(run).runtimes for share in entry.agreement_with.values()), default=None)


def _runtime_row(entry: RuntimeRecord, delivered: bool) -> Row:
    one, largest = entry.latency[0], entry.latency[-1]
    within = sum(entry.steps[:2]) / sum(entry.steps)
    same = "the same" if entry.same_integers else "NOT the same"
    return Row(
        Cell(entry.runtime),
        (
            Cell(kilobytes(entry.size_bytes), f"float32 {kilobytes(entry.float_size_bytes)}"),
            Cell(milliseconds(one.p50_ms), f"p95 {milliseconds(one.p95_ms)}"),
            _against_float32(entry),
            Cell(percent(entry.agreement), _with_others(entry)),
            Cell(figure(entry.quality)),
            Cell(per_second(largest.throughput_per_s), f"batch {largest.batch}"),
            Cell(percent(within), f"{count(entry.steps[4])} logits beyond four"),
            Cell(same, decibels(entry.simulated_sqnr_db)),
            Cell(operation_names(entry.float_operations) or "none", _types(entry)),
        ),
        marked=delivered,
    )


def _types(entry: RuntimeRecord) -> str:
    """How many operations of any kind work in each type, the most first."""
    totals = Counter[str]()
    for counts in entry.operations.values():
        totals.update(counts)
    return ", ".join(f"{number} {name}" for name, number in totals.most_common())


def _with_others(entry: RuntimeRecord) -> str:
    """The runtime whose file disagrees most often; empty where there is no other."""
    if not entry.agreement_with:
        return ""
    least = min(entry.agreement_with, key=lambda name: entry.agreement_with[name])
    return f"least with another runtime: {percent(entry.agreement_with[least])} ({least})"


def _against_float32(entry: RuntimeRecord) -> Cell:
    """How much faster the int8 file is than its float32 file, and whether that is beyond the noise."""
    gain, speed = entry.gain(), entry.speed
    note = f"float32 {milliseconds(entry.float_latency[0].p50_ms)}"
    if speed is None or speed.interval is None:
        return Cell(comparison(gain, 1, "faster", "slower") if gain else NOTHING, note)
    said = "within the noise" if speed.verdict == "cannot tell" else comparison(speed.ratio, 1, "faster", "slower")
    return Cell(said, f"{note}; 95 % interval {speed_interval(speed)}")


def _ladder_row(run: RunRecord, trial: TrialRecord) -> Row:
    teacher, deployed = run.teacher.column("float32"), trial.deployed
    excess = [f"+{amount(breach.excess)} {breach.unit}" for breach in trial.breaches]
    on_test = [f"test: {broken_limits(trial.test_breaches)}"] if trial.test_breaches != trial.breaches else []
    reduced = f"; 7-bit weights in {len(trial.reduced_layers)} layers" if trial.reduced_layers else ""
    read = f"; rounded by {trial.rounding_samples} samples" if trial.rounding_samples else ""
    fewer = "".join(
        f"; {bits}-bit weights in {', '.join(layer for layer, own in trial.layer_bits.items() if own == bits)}"
        for bits in sorted(set(trial.layer_bits.values()))
    )
    return Row(
        Cell(trial.rung, trial.reason + reduced + read + fewer),
        (
            *(
                Cell(figure(own.primary), change(own.primary, reference.primary))
                for own, reference in ((deployed.validation, teacher.validation), (deployed.test, teacher.test))
            ),
            Cell(kilobytes(deployed.cost.size_bytes if deployed.cost else None)),
            Cell(milliseconds(median_ms(run, deployed.cost)), _slower_note(trial)),
            Cell(percent(trial.agreement)),
            Cell(decibels(trial.sqnr_db), _by_part(trial)),
            Cell(operation_names(trial.float_operations) or "none", _intended(trial)),
            Cell(broken_limits(trial.breaches), "; ".join(excess + on_test)),
            Cell(duration(trial.seconds), run.estimates.get(trial.rung, "")),
        ),
        marked=trial.rung == run.verdict.chosen,
    )


def _slower_note(trial: TrialRecord) -> str:
    """Says so where int8 measured slower than the float32 file of the same student, beyond the noise."""
    speed = trial.runtimes[0].speed if trial.runtimes else None
    return f"{times(1 / speed.ratio)} slower than float32" if speed and speed.verdict == "slower" else ""


def _intended(trial: TrialRecord) -> str:
    modules = dict.fromkeys(name.rpartition("/")[0] for name in trial.intended_float_operations)
    return f"beside {len(trial.intended_float_operations)} meant so in {', '.join(modules)}" if modules else ""
