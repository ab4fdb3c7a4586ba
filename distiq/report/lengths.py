"""The table of texts of several lengths, as text cells, for the page and for the terminal alike."""

from distiq.records.run import RunRecord
from distiq.report.cells import Cell, Row
from distiq.report.figures import count, milliseconds
from distiq.report.reading import chosen_trial
from distiq.report.trials import int8_trial


def length_headings(run: RunRecord) -> tuple[Cell, ...]:
    """The lengths that were timed."""
    return tuple(Cell(f"{count(entry.tokens)} tokens") for entry in run.comparison.lengths)


def length_rows(run: RunRecord) -> tuple[Row, ...]:
    """One row for each float32 file of teacher and student and each int8 file of the delivered trial, or of the last.

    Their cells stand under `length_headings`; the delivered file's row is marked. Empty where no length was timed.
    """
    if not run.comparison.lengths:
        return ()
    trial = int8_trial(run)
    costs = {role: model.column("float32").cost for role, model in (("teacher", run.teacher), ("student", run.student))}
    named = {cost.file: Cell(f"{role}, float32", cost.runtime) for role, cost in costs.items() if cost}
    for entry in trial.runtimes:
        named.setdefault(entry.float_file, Cell("student, float32", entry.runtime))
        named[entry.file] = Cell(f"student, {trial.form}", entry.runtime)
    delivered, own = chosen_trial(run).runtimes, costs["student"]
    file = delivered[0].file if delivered else own.file if own else ""
    return tuple(Row(head, _cells(run, name), marked=name == file) for name, head in named.items())


def _cells(run: RunRecord, file: str) -> tuple[Cell, ...]:
    timed = [entry.files.get(file) for entry in run.comparison.lengths]
    fixed = run.comparison.fixed_lengths.get(file)
    not_taken = Cell("not taken", f"always {fixed} tokens")
    return tuple(
        Cell(milliseconds(one.p50_ms), f"p95 {milliseconds(one.p95_ms)}") if one else not_taken for one in timed
    )
