"""The tables of times: other machines, the settings of a runtime, a machine's peak."""

from distiq.records.run import RunRecord
from distiq.records.speed import (
    BenchRecord,
    PeakRecord,
    TriedRecord,
    TuningRecord,
)
from distiq.report.cells import Cell, Row
from distiq.report.figures import NOTHING, amount, comparison, count, milliseconds, per_second, quantity, speed_interval
from distiq.report.reading import chosen_trial


def peak_note(peak: PeakRecord) -> str:
    """What this CPU reaches, and by what."""
    return (
        f"peak of a thread: int8 {amount(peak.int8_gmac_per_s)} ({peak.int8_by}), float32"
        f" {amount(peak.float32_gmac_per_s)} GMAC/s ({peak.float32_by})"
    )


MACHINE_HEADINGS = (
    Cell("Latency", "one sample, median"),
    Cell("Limit", "of latency"),
    Cell("Throughput"),
    Cell("Threads"),
    Cell("Instruction sets"),
    Cell("Versions"),
)


def machine_rows(run: RunRecord, elsewhere: tuple[BenchRecord, ...]) -> tuple[Row, ...]:
    """One row for each measurement of the delivered file on another machine, under MACHINE_HEADINGS."""
    return tuple(_machine_row(run, record) for record in elsewhere)


def _machine_row(run: RunRecord, record: BenchRecord) -> Row:
    (file,), machine = record.files, record.environment
    one, largest = file.latency[0], file.latency[-1]
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    differs = f"the run was timed with {run.comparison.threads}" if one.threads != run.comparison.threads else ""
    return Row(
        Cell(machine.cpu, f"{cores}, {machine.system}, {record.created[:10]}"),
        (
            Cell(milliseconds(one.p50_ms), f"p95 {milliseconds(one.p95_ms)}"),
            _latency_limit(run, one.p50_ms),
            Cell(per_second(largest.throughput_per_s), f"batch {largest.batch}"),
            Cell(count(one.threads), differs),
            Cell(", ".join(machine.instruction_sets) or NOTHING),
            Cell(file.runtime, versions),
        ),
    )


def _latency_limit(run: RunRecord, median_ms: float) -> Cell:
    allowed = run.budget.get("latency_ms")
    if allowed is None:
        return Cell("none set")
    said = "holds" if median_ms <= allowed else f"missed by {milliseconds(median_ms - allowed)}"
    return Cell(said, f"at most {quantity(allowed, 'ms')}")


SETTING_HEADINGS = (Cell("p50"), Cell("Against the first"), Cell("95 % interval"), Cell("Predictions"))


def setting_rows(tuning: TuningRecord) -> tuple[Row, ...]:
    """One row for each setting of a runtime that a file was timed under; the one to use is marked."""
    return tuple(
        Row(
            Cell(setting_name(entry)),
            (
                Cell(milliseconds(entry.latency.p50_ms)),
                Cell(comparison(entry.against_default.ratio, 1, "faster", "slower") if number else "the default"),
                Cell(speed_interval(entry.against_default) if number else NOTHING),
                Cell("the same" if entry.same_predictions else "others"),
            ),
            marked=number == tuning.chosen,
        )
        for number, entry in enumerate(tuning.tried)
    )


def setting_name(entry: TriedRecord) -> str:
    """Threads and options of a runtime: "2 threads, PERFORMANCE_HINT = LATENCY"."""
    options = [f"{name} = {value}" for name, value in entry.options.items()]
    return ", ".join([f"{entry.threads} thread{'s' if entry.threads > 1 else ''}", *options])


def setting_sentence(run: RunRecord) -> str:
    """Under which settings the delivered file runs fastest; empty where that was not asked."""
    cost = chosen_trial(run).deployed.cost
    tuning = run.comparison.tuning.get(cost.file) if cost else None
    if tuning is None:
        return ""
    faster = comparison(tuning.setting.against_default.ratio, 1, "faster", "slower")
    against = f", {faster} than the default" if tuning.chosen else ", the default"
    return f"{setting_name(tuning.setting)}{against}; {len(tuning.tried)} timed"
