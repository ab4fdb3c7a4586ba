"""The report of a run in the terminal: verdict, tables, classes, command; made from the records alone."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distiq.records.ablation import AblationRecord
from distiq.records.comparison import RunsRecord
from distiq.records.diagnosis import DiagnosisRecord
from distiq.records.models import Column, ModelRecord
from distiq.records.run import OwnFileRecord, RunRecord
from distiq.records.search import SearchRecord
from distiq.records.speed import BenchRecord, gmac_per_s
from distiq.records.trials import FLOAT32
from distiq.report.cells import Row
from distiq.report.effect import ablation_sentence, arm_rows, pair_rows
from distiq.report.figures import (
    NOTHING,
    amount,
    comparison,
    decibels,
    duration,
    figure,
    kilobytes,
    milliseconds,
    operation_names,
    per_second,
    percent,
    points,
)
from distiq.report.lengths import length_headings, length_rows
from distiq.report.measurements import read_measurements
from distiq.report.reading import class_changes, delivered_form, read_ablation, read_diagnosis, read_run
from distiq.report.sensitivity import noise_rows
from distiq.report.tables import (
    breach_sentence,
    budget_lines,
    headlines,
    measurement_columns,
    measurement_rows,
    verdict_heading,
)
from distiq.report.timings import SETTING_HEADINGS, machine_rows, peak_note, setting_rows
from distiq.report.trials import ladder_rows, least_agreement, runtime_rows

WORST_CLASSES, NOISIEST = 5, 8


def show(records: Path, console: Console) -> None:
    """Prints the run in the folder `records`; 80 columns are enough.

    Raises:
        UserError: the records are missing or damaged.
    """
    run = read_run(records)
    _print_verdict(run, console)
    _print_measurements(run, console)
    _print_ladder(run, console)
    _print_runtimes(run, console)
    _print_lengths(run, console)
    show_machines(records, console)
    _print_classes(run, console)
    _print_advice(run, console)
    if diagnosis := read_diagnosis(records, run):
        show_diagnosis(diagnosis, console)
    if ablation := read_ablation(records, run):
        show_ablation(ablation, console)
    _heading(console, "Do it again")
    # Not wrapped: the command is to be copied.
    console.print(Text(f"  {run.command}"), soft_wrap=True)
    machine = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    console.print(
        Text(
            f"{duration(run.seconds)} on {machine.cpu}, {machine.cores} cores ({', '.join(machine.instruction_sets)})",
            "dim",
        )
    )
    console.print(Text(versions, "dim"))


def _print_advice(run: RunRecord, console: Console) -> None:
    if run.advice is None:
        return
    _heading(console, "Known before training")
    for marked, lines in (("! ", run.advice.warnings), ("  ", run.advice.facts)):
        for line in lines:
            console.print(Text(f"{marked}{line}"))


def show_ablation(ablation: AblationRecord, console: Console) -> None:
    """Prints whether the teacher helped."""
    _heading(console, "Did the teacher help?")
    console.print(Text(ablation_sentence(ablation)))
    table = _table("")
    for name in ("points", "95 % interval", "verdict"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in pair_rows(ablation):
        difference, _, _, verdict = pair.cells
        table.add_row(
            Text(pair.head.text), *map(Text, (difference.text.removesuffix(" points"), difference.note, verdict.text))
        )
    console.print(table)
    arms = _table("")
    for name in ("mean", "each seed, %"):
        arms.add_column(name, justify="right")
    for row in arm_rows(ablation):
        arms.add_row(Text(row.head.text), *(Text(cell.text) for cell in row.cells))
    console.print(arms)
    console.print(Text(f"teacher: {figure(ablation.teacher.primary)}", "dim"))


def show_search(search: SearchRecord, run: Path, console: Console) -> None:
    """Prints what a search found: the front, the lines that make a recipe's student the chosen one."""
    from distiq.report.searches import HEADINGS, front_rows, search_sentence

    _heading(console, "The student that was found")
    console.print(Text(search_sentence(search)))
    table = _table("")
    for heading in HEADINGS[:-1]:
        table.add_column(heading.text, justify="right", no_wrap=True)
    table.add_column(HEADINGS[-1].text)
    for row in front_rows(search):
        style = "bold" if row.marked else ""
        table.add_row(Text(row.head.text, style), *(Text(cell.text, style) for cell in row.cells))
    console.print(table)
    console.print(Text(f"In a recipe:\n{search.student_toml}"), soft_wrap=True)
    console.print(Text(f"Its bundle: distiq deliver {run}"), soft_wrap=True)


def show_runs(record: RunsRecord, console: Console) -> None:
    """Prints several runs side by side, and the keys of their recipes that differ."""
    from distiq.report.runs import HEADINGS, run_rows, setting_rows

    table = _table("")
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"  # paths differ at their ends
    for heading in HEADINGS:
        table.add_column(heading, justify="right", overflow="fold")
    one_machine = len({run.machine for run in record.runs}) == 1
    for row in run_rows(record):
        head = [row.head.text] if one_machine else [row.head.text, row.head.note]
        cells = (Text("\n".join(filter(None, (cell.text, cell.note)))) for cell in row.cells)
        table.add_row(Text("\n".join(head)), *cells)
    console.print(table)
    if one_machine:
        console.print(Text(record.runs[0].machine, "dim"))
    if record.differing:
        _heading(console, "What their recipes do otherwise")
    for key, values in setting_rows(record):
        console.print(Text(f"  {key}: {'; '.join(values)}"), soft_wrap=True)


def show_diagnosis(diagnosis: DiagnosisRecord, console: Console) -> None:
    """Prints why accuracy dropped: the cause, what was checked, the noisiest tensors."""
    _heading(console, "Why did accuracy drop?")
    console.print(Text(f"{diagnosis.looked_at} {diagnosis.cause}"))
    for finding in diagnosis.findings:
        console.print(Text.assemble("! " if finding.suspect else "  ", (f"{finding.check}: ", "bold"), finding.text))
    table = _table("")
    for name in ("SQNR", "divergence", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in noise_rows(diagnosis.sensitivity, NOISIEST):
        name = f"{row.head.text} ({row.head.note})" if row.head.note else row.head.text
        table.add_row(Text(name), *(Text(cell.text) for cell in row.cells))
    console.print(table)
    if diagnosis.cure:
        console.print(Text.assemble(("Cure: ", "bold"), " ".join(f"--set '{entry}'" for entry in diagnosis.cure)))


def show_bench(bench: BenchRecord, console: Console) -> None:
    """Prints the times of files that were measured side by side."""
    table = _table("file")
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"  # paths differ at their ends
    largest = max(entry.batch for file in bench.files for entry in file.latency)
    peak = bench.peak if any(file.macs for file in bench.files) else None
    hears = any(file.sound_s for file in bench.files)
    more = [*(["ms per s of sound"] if hears else []), *(["GMAC/s"] if peak else [])]
    for name in ("size", "p50", "p95", "p99", f"batch {largest}", *more):
        table.add_column(name, justify="right", no_wrap=True)
    for file in bench.files:
        one = file.latency[0]
        many = next((entry for entry in file.latency if entry.batch == largest), None)
        times = [milliseconds(value) for value in (one.p50_ms, one.p95_ms, one.p99_ms)]
        throughput = per_second(many.throughput_per_s) if many else "not taken"
        cells = [file.file, kilobytes(file.size_bytes), *times, throughput]
        if hears:
            cells.append(milliseconds(one.p50_ms / file.sound_s) if file.sound_s else NOTHING)
        if peak:
            rate = gmac_per_s(file.macs, one.p50_ms) if file.macs else None
            share = percent(peak.share(rate, file.is_int8, one.threads), 0) if rate else ""
            cells.append(f"{amount(rate)} ({share})" if rate else NOTHING)
        table.add_row(*map(Text, cells))
    console.print(table)
    one, machine = bench.files[0].latency[0], bench.environment
    threads = sorted({file.latency[0].threads for file in bench.files})
    console.print(
        Text(
            f"one sample, {' or '.join(map(str, threads))} thread{'s' if threads != [1] else ''}, files in turns,"
            f" {one.runs} runs of the first; {machine.cpu} ({', '.join(machine.instruction_sets)})",
            "dim",
        )
    )
    if peak:
        console.print(Text(f"multiply-adds of one sample, share of the {peak_note(peak)}", "dim"))
    _print_settings(bench, console)


def _print_settings(bench: BenchRecord, console: Console) -> None:
    for file in bench.files:
        if file.tuning is None:
            continue
        _heading(console, f"{file.runtime}: {file.file}")
        table = _table("setting")
        for cell in SETTING_HEADINGS:
            table.add_column(cell.text.lower(), justify="right", no_wrap=True)
        for row in setting_rows(file.tuning):
            style = "bold" if row.marked else ""
            table.add_row(_marked(row), *(Text(cell.text) for cell in row.cells), style=style)
        table.columns[0].no_wrap, table.columns[0].max_width = False, None
        console.print(table)
    if any(file.tuning for file in bench.files):
        console.print(Text("* to be used: the fastest with the same predictions, if beyond the noise", "dim"))


def show_own_file(record: OwnFileRecord, console: Console) -> None:
    """Prints what an int8 file is beside the float32 file that it was made from."""
    show_bench(record.bench, console)
    before, after = record.bench.files
    layout = Table.grid(padding=(0, 2))
    held_out = f"{record.compared_samples} held-out samples, {record.calibration_samples} calibrated; no labels"
    rows = [] if record.agreement is None else [("Equal predictions", percent(record.agreement), held_out)]
    rows += [("SQNR of the outputs", decibels(record.sqnr_db), held_out if record.agreement is None else "")]
    rows += [(f"SQNR of {name}", decibels(value), "") for name, value in record.sqnr_by_output.items()]
    rows += [(f"Equal predictions of {name}", percent(value), "") for name, value in record.agreement_by_output.items()]
    rows += [("Size", comparison(before.size_bytes, after.size_bytes, "smaller", "larger"), record.scheme)]
    slower = []
    for was, now in zip(before.latency, after.latency, strict=False):
        faster = comparison(was.p50_ms, now.p50_ms, "faster", "slower")
        rows += [(f"Batch {was.batch}", faster, f"{milliseconds(was.p50_ms)} → {milliseconds(now.p50_ms)}")]
        slower += [f"batch {was.batch}"] if now.p50_ms > was.p50_ms else []
    left = record.float_operations
    rows += [("Float operations left", str(len(left)), operation_names(left))]
    if record.pair_sums:
        verdict, _, reason = record.pair_sums.partition(": ")
        rows += [("Sums in 16 bits", verdict, reason)]
    for what, value, note in rows:
        layout.add_row(Text(what), Text(value, "bold"), Text(note, "dim"))
    console.print(layout)
    for sentence in record.notes:
        console.print(Text(f"- {sentence}"))
    if slower and record.delivered == "int8":
        where = " and ".join(slower)
        console.print(
            Text(f"The int8 file measured slower than the float32 file at {where}: it saves size alone.", "red")
        )


def _print_verdict(run: RunRecord, console: Console) -> None:
    tone = "green" if run.verdict.met else "red"
    console.print(Text.assemble((verdict_heading(run), f"bold {tone}"), (f"  {run.name}", "dim")))
    console.print(Text(run.verdict.sentence))
    if run.accelerator is not None:
        console.print(Text(run.accelerator.sentence))
    if run.web is not None:
        console.print(Text(run.web.sentence))
    for breach in run.verdict.breaches:
        console.print(Text(f"- {breach_sentence(breach)}", tone))
    if run.verdict.next_step:
        console.print(Text.assemble(("Next step: ", "bold"), run.verdict.next_step))
    if limits := budget_lines(run):
        console.print(Text(f"Budget: {'; '.join(limits)}", "dim"))
    layout = Table.grid(padding=(0, 2))
    for headline in headlines(run):
        layout.add_row(Text(headline.label), Text(headline.value, "bold"), Text(headline.note, "dim"))
    console.print(Padding(layout, (1, 0, 0, 0)))


def _print_measurements(run: RunRecord, console: Console) -> None:
    quantized = "int8" if delivered_form(run) == FLOAT32 else delivered_form(run)
    _heading(console, f"Float32, {quantized} simulated, {quantized} deployed")
    columns = measurement_columns(run)
    if len(columns) <= 4:
        console.print(_measurements(run, columns))
        return
    for model in (run.teacher, run.student):
        console.print(_measurements(run, tuple(entry for entry in columns if entry[0] is model)))


def _measurements(run: RunRecord, columns: tuple[tuple[ModelRecord, Column], ...]) -> Table:
    table = _table("")
    for model, column in columns:
        table.add_column(Text(f"{model.role}\n{column.name}"), justify="right", no_wrap=True)
    for row in measurement_rows(run, columns):
        table.add_row(Text(row.head.text), *(Text(cell.text) for cell in row.cells))
    return table


def _print_ladder(run: RunRecord, console: Console) -> None:
    _heading(console, "The ladder")
    metric = run.teacher.column("float32").validation.primary
    table = _table("rung")
    for name in ("validation", "change", "test", "file", "latency", "SQNR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("broken")
    for row in ladder_rows(run):
        validation, test, file, latency, _, sqnr, _, broken, _ = row.cells
        change = validation.note.removesuffix(f" {metric.drop_unit}")
        texts = (validation.text, change, test.text, file.text, latency.text, sqnr.text, broken.text)
        table.add_row(_marked(row), *map(Text, texts), style="bold" if row.marked else "")
    console.print(table)
    console.print(
        Text(f"* delivered; change: of validation {metric.title} against the teacher, in {metric.drop_unit}", "dim")
    )
    for row in ladder_rows(run):
        console.print(Text.assemble(_marked(row), ": ", (row.head.note, "dim")))
    for rung, why in run.skipped.items():
        console.print(Text.assemble(f"  {rung}: ", (f"not tried: {why}", "dim"), (_cost(run, rung), "dim")))


def _cost(run: RunRecord, rung: str) -> str:
    return f" (cost: {run.estimates[rung]})" if rung in run.estimates else ""


def _print_runtimes(run: RunRecord, console: Console) -> None:
    rows = runtime_rows(run)
    if len(rows) < 2:
        return
    _heading(console, "In each runtime")
    table = _table("")
    for name in ("file", "latency", "p95", "against float32", "agreement"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        file, latency, gain, agreement, *_ = row.cells
        texts = (file.text, latency.text, latency.note.removeprefix("p95 "), gain.text, agreement.text)
        table.add_row(_marked(row), *map(Text, texts), style="bold" if row.marked else "")
    console.print(table)
    least = least_agreement(run)
    others = f"; of any two of these files: {percent(least)} or more" if least is not None else ""
    console.print(Text(f"* delivered; agreement: with the simulated graph, test set{others}", "dim"))


def _print_lengths(run: RunRecord, console: Console) -> None:
    rows = length_rows(run)
    if not rows:
        return
    _heading(console, "By length of text")
    table = _table("")
    for heading in length_headings(run):
        table.add_column(heading.text, justify="right", no_wrap=True)
    for row in rows:
        name = Text(f"{'*' if row.marked else ' '} {row.head.text}, {row.head.note}")
        table.add_row(name, *(Text(cell.text) for cell in row.cells), style="bold" if row.marked else "")
    console.print(table)
    console.print(Text("* delivered; the longest test text, cut to so many tokens, one at a time; median", "dim"))


def show_machines(records: Path, console: Console) -> None:
    """Prints the times of the delivered file on other machines, and whether the limit of latency holds there."""
    run = read_run(records)
    rows = machine_rows(run, read_measurements(records, run))
    if not rows:
        return
    _heading(console, "Measured on other machines")
    table = _table("")
    for name in ("latency", "p95", "limit", "throughput"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        latency, limit, throughput, *_ = row.cells
        texts = (latency.text, latency.note.removeprefix("p95 "), limit.text, throughput.text)
        table.add_row(Text(row.head.text), *map(Text, texts))
    console.print(table)
    for row in rows:
        *_, threads, sets, versions = row.cells
        facts = (row.head.note, f"{threads.text} thread{'s' if threads.text != '1' else ''}", sets.text, versions.note)
        console.print(Text.assemble(f"{row.head.text}: ", ("; ".join(facts), "dim")))


def _marked(row: Row) -> Text:
    return Text(f"{'*' if row.marked else ' '} {row.head.text}")


def _print_classes(run: RunRecord, console: Console) -> None:
    if not run.teacher.column("float32").test.per_class:
        return
    _heading(console, "Classes that lost most")
    table = _table("class")
    for name in ("teacher", "student", delivered_form(run), "change"):
        table.add_column(name, justify="right")
    for change in class_changes(run, most=len(run.teacher.column("float32").test.per_class))[:WORST_CLASSES]:
        shares = (change.teacher, change.student, change.deployed)
        table.add_row(Text(change.name), *(Text(percent(share)) for share in shares), Text(points(change.change)))
    console.print(table)


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", "bold"))


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, overflow="ellipsis", no_wrap=True, max_width=34)
    return table
