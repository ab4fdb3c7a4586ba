"""The tables of a report as text cells, for the page and for the terminal alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distiq.records.ablation import AblationRecord
from distiq.records.models import Column, ModelRecord
from distiq.records.quality import KeywordRecord, Metric, Quality
from distiq.records.record import NOUNS, ONE
from distiq.records.run import RunRecord
from distiq.records.sensitivity import NoiseRecord, SensitivityRecord
from distiq.records.speed import (
    BenchRecord,
    CostRecord,
    LatencyRecord,
    PeakRecord,
    SpeedRecord,
    TriedRecord,
    TuningRecord,
    gmac_per_s,
)
from distiq.records.trials import FLOAT32, Breach, RuntimeRecord, TrialRecord
from distiq.report.figures import (
    NOTHING,
    amount,
    change,
    change_interval,
    count,
    decibels,
    duration,
    figure,
    figure_interval,
    heading,
    kilobytes,
    memory,
    milliseconds,
    nats,
    operation_names,
    p_value,
    per_second,
    percent,
    points,
    points_interval,
    quantity,
    times,
)
from distiq.report.reading import chosen_trial, columns_of, delivered_form, latency_of, median_ms, throughput_batch

WIDEST = 100  # the end of an interval of a ratio beyond which it is not written
LIMITS = {
    "size_kb": ("file size", "kB"),
    "latency_ms": ("latency, one sample", "ms"),
    "flash_kb": ("flash of a Cortex-M4", "kB"),
    "ram_kb": ("RAM, arena with inputs and outputs", "kB"),
    "bit_operations_m": ("bit operations, one sample", "million"),
}
"""Limits that no metric is of: what they limit, and the unit."""


@dataclass(frozen=True)
class Cell:
    """A value and, in small print, what it rests on."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A named line of cells. `marked` sets it off."""

    head: Cell
    cells: tuple[Cell, ...]
    marked: bool = False


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


def peak_note(peak: PeakRecord) -> str:
    """What this CPU reaches, and by what."""
    return (
        f"peak of a thread: int8 {amount(peak.int8_gmac_per_s)} ({peak.int8_by}), float32"
        f" {amount(peak.float32_gmac_per_s)} GMAC/s ({peak.float32_by})"
    )


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
    """The share of test samples that any two runtimes' files answer alike at least; None of a single one."""
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
    """The runtime whose file answers otherwise most often; empty where there is no other."""
    if not entry.agreement_with:
        return ""
    least = min(entry.agreement_with, key=lambda name: entry.agreement_with[name])
    return f"least with another runtime: {percent(entry.agreement_with[least])} ({least})"


def _against_float32(entry: RuntimeRecord) -> Cell:
    """How much faster the int8 file is than its float32 file, and whether that is beyond the noise."""
    gain, speed = entry.gain(), entry.speed
    note = f"float32 {milliseconds(entry.float_latency[0].p50_ms)}"
    if speed is None or speed.interval is None:
        return Cell(_gain(gain, 1, "faster", "slower") if gain else NOTHING, note)
    said = "within the noise" if speed.verdict == "cannot tell" else _gain(speed.ratio, 1, "faster", "slower")
    return Cell(said, f"{note}; 95 % interval {_interval(speed)}")


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


SETTING_HEADINGS = (Cell("p50"), Cell("Against the first"), Cell("95 % interval"), Cell("Answers"))


def setting_rows(tuning: TuningRecord) -> tuple[Row, ...]:
    """One row for each setting of a runtime that a file was timed under; the one to use is marked."""
    return tuple(
        Row(
            Cell(setting_name(entry)),
            (
                Cell(milliseconds(entry.latency.p50_ms)),
                Cell(_gain(entry.against_default.ratio, 1, "faster", "slower") if number else "the default"),
                Cell(_interval(entry.against_default) if number else NOTHING),
                Cell("the same" if entry.same_answers else "others"),
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
    gain = _gain(tuning.setting.against_default.ratio, 1, "faster", "slower")
    against = f", {gain} than the default" if tuning.chosen else ", the default"
    return f"{setting_name(tuning.setting)}{against}; {len(tuning.tried)} timed"


def _interval(speed: SpeedRecord) -> str:
    """Of a ratio; two or three turns that differ leave it so wide that its end says nothing."""
    if speed.interval is None:
        return NOTHING
    low, high = speed.interval
    return f"{low:.2f} to {high:.2f}" if high < WIDEST else f"{low:.2f} to > {WIDEST}"


NOISE_HEADINGS = (
    Cell("SQNR", "of the logits, this tensor alone quantized"),
    Cell("Loss change", "divergence from float32"),
    Cell("Share", "of the noise"),
)


def noise_shares(record: SensitivityRecord) -> tuple[tuple[NoiseRecord, float], ...]:
    """Every tensor with its share of the noise power that quantizing them one by one makes; the noisiest first."""
    power = [(noise, 10 ** (-noise.sqnr_db / 10)) for noise in record.tensors]
    total = sum(value for _, value in power) or 1.0
    return tuple(sorted(((noise, value / total) for noise, value in power), key=lambda entry: -entry[1]))


def noise_rows(record: SensitivityRecord, most: int) -> tuple[Row, ...]:
    """All weights, all activations, then the noisiest tensors, under NOISE_HEADINGS."""

    def row(name: str, noise: NoiseRecord, share: float, marked: bool = False) -> Row:
        cells = (Cell(decibels(noise.sqnr_db)), Cell(nats(noise.divergence_nat)), Cell(percent(share, 0)))
        return Row(Cell(name, noise.part if noise.place != "all" else ""), cells, marked)

    share = record.weights_share
    return (
        row("all weights", record.weights, share, True),
        row("all activations", record.activations, 1 - share, True),
        *(row(noise.place or "output", noise, part) for noise, part in noise_shares(record)[:most]),
    )


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


def _size_headline(teacher: CostRecord | None, delivered: CostRecord | None) -> Headline:
    if teacher is None or delivered is None:
        size = delivered.size_bytes if delivered else None
        return Headline("File", kilobytes(size), "the teacher's file was not measured")
    note = f"{kilobytes(teacher.size_bytes)} → {kilobytes(delivered.size_bytes)}"
    return Headline("Size, against teacher", _gain(teacher.size_bytes, delivered.size_bytes, "smaller", "larger"), note)


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
    return Headline("Latency, against teacher", _gain(before, after, "faster", "slower"), note)


def _gain(before: float, after: float, better: str, worse: str) -> str:
    word, ratio = (better, before / after) if after <= before else (worse, after / before)
    return f"{times(ratio)} {word}"


ABLATION_HEADINGS = (
    Cell("Difference", "95 % interval"),
    Cell("Each seed"),
    Cell("McNemar p", "each seed"),
    Cell("Verdict"),
)


def arm_rows(ablation: AblationRecord) -> tuple[Row, ...]:
    """One row for each arm: mean accuracy and that of each seed."""
    return tuple(
        Row(
            Cell(arm.name),
            (
                Cell(percent(sum(arm.correct) / len(arm.correct)), f"mean of {len(arm.correct)} seeds"),
                Cell(", ".join(f"{100 * share:.2f}" for share in arm.correct)),
            ),
        )
        for arm in ablation.arms
    )


def pair_rows(ablation: AblationRecord) -> tuple[Row, ...]:
    """One row for each comparison, under ABLATION_HEADINGS."""
    return tuple(
        Row(
            Cell(f"{pair.first} against {pair.second}"),
            (
                Cell(points(pair.difference_points / 100), points_interval(pair.interval_points)),
                Cell(", ".join(points(value / 100).removesuffix(" points") for value in pair.per_seed_points)),
                Cell(", ".join(p_value(p) for p in pair.mcnemar_p)),
                Cell(pair.verdict, f"n = {len(ablation.seeds)} seeds, {count(ablation.samples)} samples"),
            ),
            marked=pair.verdict == "helps",
        )
        for pair in ablation.pairs
    )


def ablation_sentence(ablation: AblationRecord) -> str:
    """Whether the recipe's way of using the teacher helped, in one sentence."""
    against_none = {pair.first: pair for pair in ablation.pairs if pair.second == "no teacher"}
    name = next(name for name in ("recipe", "outputs alone", *against_none) if name in against_none)
    pair = against_none[name]
    says = {
        "helps": "The teacher helps",
        "hurts": "The teacher hurts",
        "cannot tell": "Whether the teacher helps cannot be told from these seeds",
    }
    return (
        f"{says[pair.verdict]} ({name}): {points(pair.difference_points / 100)} (95 % interval"
        f" {points_interval(pair.interval_points)}, {len(ablation.seeds)} seeds,"
        f" {count(ablation.samples)} test samples)."
    )
