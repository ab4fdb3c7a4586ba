"""The cells of a report's tables, for the page and for the terminal alike."""

from dataclasses import dataclass


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
