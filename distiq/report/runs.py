"""Several runs side by side, in the terminal and as one HTML file."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from distiq.files import write_atomically
from distiq.records.comparison import ComparedRun, PairedRecord, RunsRecord
from distiq.report.cells import Cell, Row
from distiq.report.figures import figure, figure_interval, kilobytes, milliseconds, points_interval, signed

HEADINGS = ("Delivered", "Test", "Against the first", "Size", "One sample", "Budget")
TELL_APART = "cannot be told apart"


def run_rows(record: RunsRecord) -> tuple[Row, ...]:
    """One row for each run, under HEADINGS."""
    return tuple(_row(run, record) for run in record.runs)


def _row(run: ComparedRun, record: RunsRecord) -> Row:
    is_first, unit = run is record.runs[0], "points" if run.test.unit == "%" else run.test.unit
    metric = "" if len({one.test.title for one in record.runs}) == 1 else run.test.title
    return Row(
        Cell(run.folder, run.machine),
        (
            Cell(f"{run.model}, {run.delivered}", run.runtime),
            Cell(figure(run.test), ", ".join(filter(None, (metric, figure_interval(run.test))))),
            Cell("–") if is_first else _against(run.paired, run.unpaired, unit),
            Cell(kilobytes(run.size_bytes)),
            Cell(milliseconds(run.latency_ms)),
            Cell("met" if run.met else "missed"),
        ),
        marked=is_first,
    )


def _against(paired: PairedRecord | None, why: str, unit: str) -> Cell:
    if paired is None:
        return Cell("–", why)
    low, high = paired.interval
    note = points_interval(paired.interval)
    return Cell(f"{signed(paired.difference)} {unit}", f"{note}; {TELL_APART}" if low <= 0 <= high else note)


def setting_rows(record: RunsRecord) -> tuple[tuple[str, Sequence[str]], ...]:
    """The keys of the recipes that differ, and each run's value."""
    return tuple((key, [value or "–" for value in values]) for key, values in record.differing.items())


def plotted(record: RunsRecord) -> tuple[tuple[int, ComparedRun], ...]:
    """The runs that a plot can show on one axis: those with a time and the first's metric, with their row's number."""
    rows = enumerate(record.runs, start=1)
    return tuple(
        (number, run)
        for number, run in rows
        if run.latency_ms is not None and run.test.title == record.runs[0].test.title
    )


def runs_plot(record: RunsRecord) -> str:
    """Quality on the test set by the time of one sample; the larger the file, the larger the mark."""
    from matplotlib.axes import Axes

    from distiq.report.drawing import INK, drawn, write

    largest = max(run.size_bytes for run in record.runs)

    def draw(axes: Axes) -> None:
        for number, run in plotted(record):
            at = (run.latency_ms or 0.0, run.test.value * run.test.scale)
            ink = "teacher" if run is record.runs[0] else "deployed"
            if run.test.interval:
                low, high = (end * run.test.scale for end in run.test.interval)
                axes.plot([at[0], at[0]], [low, high], color=INK["line"], linewidth=1.2, zorder=1)
            axes.scatter(*at, s=20 + 80 * run.size_bytes / largest, color=INK[ink], zorder=2)
            write(axes, str(number), at, (7, 5), "ink")
        axes.grid(axis="y")
        axes.set_xlabel("one sample, ms")

    return drawn(draw, f"{record.runs[0].test.title} on the test set by time", height=250, boxes=[(52, 34, 320, 190)])


def write_runs(record: RunsRecord, target: Path) -> None:
    """Writes the comparison as one HTML file that needs nothing but itself."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("distiq.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("runs.html.jinja").render(
        rows=run_rows(record), headings=HEADINGS, settings=setting_rows(record), plot=Markup(runs_plot(record)),
        runs=record.runs, metric=record.runs[0].test, left_out=len(record.runs) - len(plotted(record)),
    )  # fmt: skip
    write_atomically(target, page.encode())
