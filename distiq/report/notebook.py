"""show(run): a run inside a notebook, or in the terminal."""

import io
import re
from pathlib import Path

from rich.console import Console

from distiq.report.reading import read_run
from distiq.report.show import show as show_records

WIDTH = 100  # of the tables, in columns
TEXT = "font-family:monospace;line-height:1.3;word-break:normal"  # notebooks may give <pre> the font of prose
FRAME = "max-width:640px;background:#ffffff"  # the colours of plots are those of light pages


class Shown:
    """A run as notebooks render it: verdict, tables, plots; elsewhere its text."""

    def __init__(self, folder: Path) -> None:
        self.records = Path(folder) / "records"
        self.run = read_run(self.records)

    def __repr__(self) -> str:
        return self._recorded().export_text()

    def _repr_html_(self) -> str:
        from distiq.report import plots  # loads matplotlib

        trainings = (("teacher", self.run.teacher.training), ("student", self.run.student.training))
        curves = [plots.training_curves(one, name) for name, one in trainings if one is not None and one.epochs]
        trade_offs = [plots.quality_against_size(self.run), plots.quality_against_latency(self.run)]
        pictures = "".join(f'<div style="{FRAME}">{_coloured(one)}</div>' for one in (*trade_offs, *curves))
        form = f"<pre style='{TEXT};overflow-x:auto'>{{code}}</pre>"
        return self._recorded().export_html(inline_styles=True, code_format=form) + pictures

    def _recorded(self) -> Console:
        # force_jupyter: rich would show each of its lines in the cell by itself.
        console = Console(record=True, file=io.StringIO(), width=WIDTH, highlight=False, force_jupyter=False)
        show_records(self.records, console)
        return console


def _coloured(plot: str) -> str:
    """A plot with the values of its colours, since a cell has no style sheet that names them."""
    sheet = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"(--\w+): (#\w+);", sheet.partition("@media")[0]))
    return re.sub(r"var\((--\w+)\)", lambda name: light[name[1]], plot)


def show(run: Path | str) -> Shown:
    """A run for the last line of a notebook's cell.

    Args:
        run: its folder, such as runs/fashion_mnist.

    Raises:
        UserError: it is no run that came to its end.
    """
    return Shown(Path(run))
