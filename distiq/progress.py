"""What a person sees of a run under way: a live line on a terminal, an output in a notebook, plain lines elsewhere.

Stages call a `Watch`; they never print.
"""

import html
import importlib
import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class Watch(Protocol):
    """Receives what happens: a stage begins, a step or an epoch is done, something is worth a line.

    epoch: of a training, from 1, and its metric on the validation split, turned so that a higher one is better; None
    where it is not validated.
    """

    def stage(self, title: str) -> None: ...
    def epoch(self, number: int, goodness: float | None) -> None: ...
    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None: ...
    def note(self, text: str) -> None: ...


class Silent:
    """Shows nothing."""

    def stage(self, title: str) -> None:
        pass

    def epoch(self, number: int, goodness: float | None) -> None:
        pass

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Lines:
    """Plain lines, at most one of progress every `seconds`: for logs and pipes."""

    def __init__(self, console: Console, seconds: float = 10.0) -> None:
        self.console, self.seconds = console, seconds
        self.began = self.shown = time.monotonic()
        self.first = (self.began, 0, 0)  # when, done, total of the work that is under way

    def stage(self, title: str) -> None:
        self.shown = time.monotonic()
        self.first = (self.shown, 0, 0)
        self.console.print(f"[{self.shown - self.began:5.0f} s] {title}", highlight=False, markup=False, soft_wrap=True)

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        now = time.monotonic()
        began, first, whole = self.first
        if total != whole or done <= first:
            self.first = began, first, _ = now, done - 1, total  # a resumed training begins in the middle
        if now - self.shown < self.seconds:
            return
        self.shown = now
        left = (now - began) / max(1, done - first) * (total - done)
        self.console.print(
            f"          {done}/{total}  {in_words(values)}  {left:.0f} s left",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def epoch(self, number: int, goodness: float | None) -> None:
        pass  # the lines of its steps name it

    def note(self, text: str) -> None:
        self.console.print(f"          {text}", highlight=False, markup=False, soft_wrap=True)


class Live:
    """One live line a stage, with a bar and the time left: for a terminal. Use it as a context."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[values]}"),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.title = ""

    def __enter__(self) -> "Live":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def stage(self, title: str) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.title = title
        self.task = self.progress.add_task(title, total=None, values="")

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total, values=in_words(values))

    def epoch(self, number: int, goodness: float | None) -> None:
        pass  # the live line names it

    def note(self, text: str) -> None:
        # One call: what is printed without a line end is lost above a live line.
        line = Text.assemble(("✓ ", "green"), f"{self.title}: {text}")
        self.progress.console.print(line, highlight=False, soft_wrap=True)


class NotebookWatch:
    """One output of a cell, drawn anew as a run goes on: what is done, and a bar of what is under way.

    Use it as a context: at its end the bar goes, and what was done stays in the notebook.

    Args:
        seconds: between two drawings of the bar, at least.

    Raises:
        ImportError: IPython is not installed.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        display = importlib.import_module("IPython.display").display
        quiet_libraries()
        self.began = self.drawn = time.monotonic()
        self.seconds = seconds
        self.lines: list[str] = []
        self.title, self.bar = "", ""
        self.handle: Any = display(self, display_id=True)

    def __enter__(self) -> "NotebookWatch":
        return self

    def __exit__(self, *_: object) -> None:
        self.title = ""
        self._draw()

    def __repr__(self) -> str:
        return "\n".join([*self.lines, self.title])

    def _repr_html_(self) -> str:
        lines = html.escape("\n".join(self.lines))
        form = "font-family:monospace;line-height:1.3;word-break:normal;white-space:pre-wrap"
        under_way = f"<div><b>{html.escape(self.title)}</b> {self.bar}</div>" if self.title else ""
        return f'<pre style="{form}">{lines}</pre>{under_way}'

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        if self.handle is not None:  # None outside of a notebook
            self.handle.update(self)

    def stage(self, title: str) -> None:
        self.title, self.bar = title, ""
        self._draw()

    def epoch(self, number: int, goodness: float | None) -> None:
        pass  # the bar names it

    def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
        self.bar = f'<progress value="{done}" max="{total}"></progress> {html.escape(in_words(values))}'
        if time.monotonic() - self.drawn >= self.seconds:
            self._draw()

    def note(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:5.0f} s  {self.title}: {text}")
        self._draw()


def quiet_libraries() -> None:
    """Leaves out what libraries warn of at import: it concerns their authors alone."""
    for noisy in ("torchao", "torch.utils._pytree"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, of a notebook without widgets


def in_words(values: Mapping[str, float | str]) -> str:
    """A step's values in a line."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
