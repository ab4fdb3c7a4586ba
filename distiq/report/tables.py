"""What a report begins with, for the page and for the terminal alike: headlines, measurements, the budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from distiq.records.models import Column, ModelRecord
from distiq.records.quality import KeywordRecord, Metric, Quality
from distiq.records.record import NOUNS, ONE
from distiq.records.run import RunRecord
from distiq.records.speed import (
    CostRecord,
    LatencyRecord,
    gmac_per_s,
)
from distiq.records.trials import FLOAT32, Breach
from distiq.report.cells import Cell, Row
from distiq.report.figures import (
    NOTHING,
    amount,
    change,
    change_interval,
    comparison,
    count,
    figure,
    figure_interval,
    heading,
    kilobytes,
    memory,
    milliseconds,
    per_second,
    percent,
    quantity,
)
from distiq.report.reading import chosen_trial, columns_of, delivered_form, latency_of, median_ms, throughput_batch
from distiq.report.timings import peak_note

LIMITS = {
    "size_kb": ("file size", "kB"),
    "latency_ms": ("latency, one sample", "ms"),
    "flash_kb": ("flash of a Cortex-M4", "kB"),
    "ram_kb": ("RAM, arena with inputs and outputs", "kB"),
    "bit_operations_m": ("bit operations, one sample", "million"),
    "recall.*": ("recall drop of each class against the teacher", "points"),
}
"""Limits that no one metric is of: what they limit, and the unit."""


@dataclass(frozen=True)
class Headline:
    """One of the few figures that stand at the top."""

    label: str
    value: str
    note: str


def headlines(run: RunRecord) -> tuple[Headline, ...]:
    """Quality, size, latency and what changed: the delivered int8 file against the teacher's float file."""
    teacher, chosen = run.teacher.column("float32"), chosen_trial(run)
    delivered, form = chosen.deployed, delivered_form(run)
    before, after = teacher.test.primary, delivered.test.primary
    return (
        Headline(
            f"{heading(after.title)}, teacher → {form}",
            f"{figure(before).removesuffix(' %')} → {figure(after)}",
            f"{change(after, before)} on {count(delivered.test.samples)} test samples"
            + (f" (paired 95 % interval {change_interval(run.verdict.drop)})" if run.verdict.drop else "")
            + (f"; 95 % interval {figure_interval(after)}" if after.interval else ""),
        ),
        _size_headline(teacher.cost, delivered.cost),
        _latency_headline(run, teacher.cost, delivered.cost),
        _changed_headline(delivered.test, chosen.agreement, form),
    )


def _changed_headline(delivered: Quality, agreement: float, form: str) -> Headline:
    """How far int8 moved the predictions."""
    moved = delivered.change_against_float
    name = f"{heading(moved.title)}{f', {moved.note}' if moved.note else ''}" if moved else "Change against float32"
    note = f"the student's own; deployed file and simulation agree on {percent(agreement)}"
    return Headline(name, figure(moved), note if form != FLOAT32 else "no int8 file is delivered")


def measurement_columns(run: RunRecord) -> tuple[tuple[ModelRecord, Column], ...]:
    """The columns of the main table: those of the teacher, then float32, simulated and deployed of the student."""
    return tuple((model, column) for model in (run.teacher, run.student) for column in columns_of(run, model))


def measurement_rows(run: RunRecord, columns: tuple[tuple[ModelRecord, Column], ...]) -> tuple[Row, ...]:
    """One row for each quantity over the given columns. A simulated model is no file and has no cost."""
    batch = throughput_batch(run)

    def row(name: str, cells: list[Cell], note: str = "") -> Row:
        return Row(Cell(name, note), tuple(cells))

    tests = [column.test for _, column in columns]
    costs = [column.cost for _, column in columns]
    latencies = [latency_of(run, cost, 1) for cost in costs]
    batches = [latency_of(run, cost, batch) for cost in costs]
    return (
        *_quality_rows(tests, [column.validation for _, column in columns]),
        row("File", [Cell(kilobytes(c.size_bytes), c.runtime) if c else Cell("no file") for c in costs]),
        row("Parameters", [Cell(count((column.cost or model).parameters)) for model, column in columns]),
        row("Multiply-adds", [Cell(count((column.cost or model).macs)) for model, column in columns], "MACs"),
        row(
            f"Latency, {ONE[run.data.modality]}",
            [Cell(milliseconds(e.p50_ms), f"p95 {milliseconds(e.p95_ms)}") if e else Cell(NOTHING) for e in latencies],
            "median",
        ),
        row(
            f"Throughput, batch {batch}",
            [Cell(per_second(e.throughput_per_s) if e else NOTHING) for e in batches],
            NOUNS[run.data.modality],
        ),
        *_rate_rows(run, columns, latencies),
        row("Peak memory", [Cell(memory(c.peak_memory_bytes) if c else NOTHING) for c in costs], "fresh process"),
    )


def _quality_rows(tests: list[Quality], validations: list[Quality]) -> tuple[Row, ...]:
    """All that was measured of predictions, on the test split but for the row that says otherwise."""
    first, rows = tests[0], []
    for name in (first.primary.name, *(metric.name for metric in first.metrics)):
        metrics = [test.metric(name) for test in tests]
        rows.append(_metric_row(metrics, "test" if name == first.primary.name else ""))
    rows += _keyword_rows([test.keyword for test in tests])
    values = [Cell(figure(quality.primary)) for quality in validations]
    rows.append(Row(Cell(f"{heading(first.primary.title)}, validation"), tuple(values)))
    compared = ([t.agreement_with_teacher for t in tests], [t.change_against_float for t in tests])
    return (*rows, *(_metric_row(metrics) for metrics in compared if any(metrics)))


def _metric_row(metrics: Sequence[Metric | None], split: str = "") -> Row:
    """One metric over all columns, with its interval where it has one."""
    example = next(metric for metric in metrics if metric)
    note = ", ".join(filter(None, (split or example.note, "95 % interval" if example.interval else "")))
    cells = [Cell(figure(metric), figure_interval(metric) if metric else "") for metric in metrics]
    return Row(Cell(heading(example.title), note), tuple(cells))


def _keyword_rows(words: list[KeywordRecord | None]) -> list[Row]:
    keyword = next((word for word in words if word), None)
    if keyword is None:
        return []
    errors = [Cell(percent(word.equal_error_rate if word else None)) for word in words]
    missed = [Cell(percent(word.missed), _threshold(word)) if word else Cell(NOTHING) for word in words]
    return [
        Row(Cell("Equal error rate", f"“{keyword.keyword}” against all else"), tuple(errors)),
        Row(Cell("Missed", f"at {percent(keyword.allowed_false_accepts, 1)} false accepts"), tuple(missed)),
    ]


def _threshold(word: KeywordRecord) -> str:
    return "nothing is accepted" if word.threshold is None else f"from a probability of {word.threshold:.3f} on"


def _rate_rows(
    run: RunRecord, columns: tuple[tuple[ModelRecord, Column], ...], latencies: list[LatencyRecord | None]
) -> tuple[Row, ...]:
    """Multiply-adds per second at one sample, beside what this CPU reached in a large matrix product."""
    peak = run.comparison.peak
    if peak is None:
        return ()
    cells = []
    for (_, column), latency in zip(columns, latencies, strict=True):
        if column.cost is None or latency is None:
            cells.append(Cell(NOTHING))
            continue
        rate = gmac_per_s(column.cost.macs, latency.p50_ms)
        share = peak.share(rate, column.name != "float32", latency.threads)
        cells.append(Cell(f"{amount(rate)} GMAC/s", f"{percent(share, 0)} of the peak"))
    return (Row(Cell("Multiply-add rate", peak_note(peak)), tuple(cells)),)


def breach_sentence(breach: Breach) -> str:
    """What was allowed, what was measured, and by how much it lies beyond."""
    unit = breach.unit
    return (
        f"{heading(breach.title)}: {amount(breach.measured)} {unit} measured, {quantity(breach.allowed, unit)} allowed,"
        f" {amount(breach.excess)} {unit} beyond"
    )


def broken_limits(breaches: tuple[Breach, ...]) -> str:
    """The broken limits in a word each, or "none"."""
    return ", ".join(breach.title for breach in breaches) or "none"


def budget_lines(run: RunRecord) -> tuple[str, ...]:
    """The limits that were set, as text."""
    lines = []
    for limit, allowed in run.budget.items():
        title, unit = LIMITS.get(limit) or _metric_limit(run, limit)
        lines.append(f"{title} at most {quantity(allowed, unit)}")
    return tuple(lines)


def _metric_limit(run: RunRecord, limit: str) -> tuple[str, str]:
    """What a limit of a metric limits, and its unit."""
    test = run.teacher.column("float32").test
    metric = test.primary if limit == "drop" else test.metric(limit.removeprefix("metrics."))
    if metric is None:
        return limit, ""
    return f"{metric.title} {'drop' if metric.higher_is_better else 'rise'} against the teacher", metric.drop_unit


def verdict_heading(run: RunRecord) -> str:
    """The verdict in two or three words."""
    if not budget_lines(run):
        return "No budget set"
    heading = "Budget met" if run.verdict.met else "Budget not met"
    drop = run.verdict.drop
    decides = drop is not None and drop.within_chance and run.verdict.met == (drop.value <= (drop.allowed or 0.0))
    return f"{heading}, but not beyond chance" if decides else heading


def _size_headline(teacher: CostRecord | None, delivered: CostRecord | None) -> Headline:
    if teacher is None or delivered is None:
        size = delivered.size_bytes if delivered else None
        return Headline("File", kilobytes(size), "the teacher's file was not measured")
    note = f"{kilobytes(teacher.size_bytes)} → {kilobytes(delivered.size_bytes)}"
    return Headline(
        "Size, against teacher", comparison(teacher.size_bytes, delivered.size_bytes, "smaller", "larger"), note
    )


def _latency_headline(run: RunRecord, teacher: CostRecord | None, delivered: CostRecord | None) -> Headline:
    before, after = median_ms(run, teacher), median_ms(run, delivered)
    if teacher is None or delivered is None or before is None or after is None:
        return Headline(
            f"Latency, {ONE[run.data.modality]}", milliseconds(after), "the teacher's file was not measured"
        )
    together = {teacher.file, delivered.file} <= run.comparison.files.keys()
    measured = latency_of(run, delivered, 1)
    threads = measured.threads if measured else run.comparison.threads
    many = "s" if threads > 1 else ""
    note = (
        f"{milliseconds(before)} → {milliseconds(after)}, {ONE[run.data.modality]}, {threads} thread{many},"
        f" measured {'side by side' if together else 'separately'}"
    )
    if run.data.rate:  # the front-end is part of the file
        note += f"; {milliseconds(after * run.data.rate / run.data.sample_shape[0])} for each second of sound"
    return Headline("Latency, against teacher", comparison(before, after, "faster", "slower"), note)
