"""Tables of classes beside masks: their names, and the colours that stand for them."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distiq.data.named_files import plain_lines
from distiq.data.part_file import part_names
from distiq.errors import UserError

NAMES = "classes.txt"
TABLES = ("class_dict.csv", "labelmap.txt", "label_colors.txt")
"""name, r, g, b (CamVid's and others); name:r,g,b:: (CVAT's); r g b name."""
NUMBERED = "_classes.csv"
"""Pixel Value, Class (Roboflow's), in the folder or in that of its training part."""
Colour = tuple[int, int, int]


class Classes(NamedTuple):
    """The classes that a folder names, the value of pixels of none, and the number of each colour; `void` of those of
    none."""

    names: tuple[str, ...]
    void: int
    colours: dict[Colour, int]

    def numbers(self, colours: np.ndarray, path: Path) -> np.ndarray:
        """A mask of colours (H, W, 3) as one of numbers (H, W); of equal channels the first is taken.

        Raises:
            UserError: no table gives the colours, or it lacks one.
        """
        if not self.colours:
            if (colours == colours[..., :1]).all():
                return colours[..., 0]
            raise UserError(
                f"{path}: this mask holds colours; save it as an image of class numbers (grey or palette), or put"
                f" {TABLES[0]} with the columns name, r, g, b into the folder"
            )
        packed = (colours.astype(np.int64) << np.array([16, 8, 0])).sum(-1)
        mask = np.full(packed.shape, -1, np.int64)
        for (red, green, blue), number in self.colours.items():
            mask[packed == (red << 16 | green << 8 | blue)] = number
        if (mask < 0).any():
            strange = colours[tuple(np.argwhere(mask < 0)[0])].tolist()
            raise UserError(
                f"{path}: holds the colour {strange}, which the folder's table of classes lacks; add it, or save the"
                " mask without compression that blurs colours (PNG)"
            )
        return mask


def classes_of(folder: Path, void: int) -> Classes:
    """The classes that a folder names in classes.txt, one a line, or in a table of colours. What is called "void" is
    none, and stands last in classes.txt.

    Args:
        void: the value of pixels of no class, beside 255.

    Raises:
        UserError: a table is none, or void stands before a class.
    """
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is not None:
        return _of_table(table, void)
    numbered = (place / NUMBERED for place in (folder, *(folder / name for name in part_names("train"))))
    if (of_numbers := next((file for file in numbered if file.is_file()), None)) and not (folder / NAMES).is_file():
        return _of_numbers(of_numbers, void)
    path = folder / NAMES
    if not path.is_file():
        return Classes((), void, {})
    names = plain_lines(path)
    lowered = [name.lower() for name in names]
    if "void" in lowered:
        place = lowered.index("void")
        if place != len(names) - 1:
            raise UserError(
                f'{path}: "void" stands on line {place + 1}, before a class; name it last, as the largest value'
            )
        return Classes(tuple(names[:-1]), place, {})
    return Classes(tuple(names), void, {})


def _of_numbers(path: Path, void: int) -> Classes:
    """The classes of a table of their numbers, 0 to N - 1."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(plain_lines(path)) if len(row) == 2]
    names = {int(number): name for number, name in rows if number.isdecimal()}
    if not names or set(names) != set(range(len(names))):
        raise UserError(f"{path}: no table of classes; give it their numbers, 0, 1, 2 and so on, and names")
    return Classes(tuple(names[number] for number in range(len(names))), void, {})


def _of_table(path: Path, void: int) -> Classes:
    rows = [row for line in plain_lines(path) if line[0] != "#" and (row := _row(line))]
    if not rows:
        raise UserError(f"{path}: no table of classes; give it name, r, g, b in each line")
    names = list(dict.fromkeys(name for name, _ in rows if name.lower() != "void"))
    by_colour: dict[Colour, str] = {}
    for name, colour in rows:
        if by_colour.setdefault(colour, name) != name:
            raise UserError(
                f"{path}: {by_colour[colour]} and {name} both have the colour {list(colour)}; give each its own"
            )
    return Classes(tuple(names), void, {colour: names.index(name) if name in names else void for name, colour in rows})


def _row(line: str) -> tuple[str, Colour] | None:
    """A line's class and colour; None of a header."""
    cells = [cell.strip() for cell in next(csv.reader([line.replace(":", ",")], skipinitialspace=True))]
    numbers = [int(cell) for cell in cells if re.fullmatch(r"\d{1,3}", cell)]
    names = [cell for cell in cells if cell and not re.fullmatch(r"\d{1,3}", cell)]
    if len(numbers) < 3 and (spaced := re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(.+)", line)):
        numbers, names = [int(number) for number in spaced.groups()[:3]], [spaced.group(4).strip()]
    if len(numbers) < 3 or not names:
        return None
    red, green, blue = numbers[-3:]
    return names[0], (red, green, blue)
