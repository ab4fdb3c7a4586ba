"""What a person sees while a run is under way: a live line on a terminal, plain lines elsewhere.

Stages call a `Watch`; they never print.
"""

import time
from collections.abc import Mapping
from typing import Protocol

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
            f"          {done}/{total}  {_format(values)}  {left:.0f} s left",
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
            self.progress.update(self.task, completed=done, total=total, values=_format(values))

    def epoch(self, number: int, goodness: float | None) -> None:
        pass  # the live line names it

    def note(self, text: str) -> None:
        # One call: what is printed without a line end is lost above a live line.
        line = Text.assemble(("✓ ", "green"), f"{self.title}: {text}")
        self.progress.console.print(line, highlight=False, soft_wrap=True)


def _format(values: Mapping[str, float | str]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
