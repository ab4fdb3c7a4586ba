"""What every plot of a report shares: the inks, the frame that turns drawing into inline SVG, places for labels.

Lengths are in points, and one point is one pixel of the figure: labels are placed with plain arithmetic.
"""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, BboxBase

PARTS = ("part1", "part2", "part3", "part4")

# matplotlib knows colours by value alone, so each name is drawn as a marker colour and put back in the SVG text.
_NAMES = ("ink", "muted", "line", "paper", "teacher", "student", "deployed", "limit", "good", *PARTS)
INK = {name: f"#0a0b{number:02x}" for number, name in enumerate(_NAMES, start=16)}

WIDTH = 400.0  # of every plot: at this width its text is readable on a phone
_FONT_SIZE = 10.5

Box = tuple[float, float, float, float]


def drawn(draw: Callable[..., None], title: str, height: float, boxes: Sequence[Box]) -> str:
    """Makes one axes for each of `boxes` (left, bottom, width, height), calls `draw` with them, returns an <svg>.

    The element is as wide as its place in the page, carries `title` for screen readers, and takes colours and font
    from the page. The same drawing gives the same text.
    """
    with warnings.catch_warnings(), style.context(["default", _style(title)]):
        # The browser's fonts write the text; what matplotlib's own font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        draw(*(figure.add_axes((x / WIDTH, y / height, w / WIDTH, h / height)) for x, y, w, h in boxes))
        stream = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    return _inlined(stream.getvalue(), title)


@dataclass(frozen=True)
class Taken:
    """A place that a label should not cover, and what covering one square point of it costs in points of distance."""

    box: Bbox
    weight: float

    @classmethod
    def by_text(cls, x: float, y: float, width: float, height: float) -> "Taken":
        """Text or a marker: covering it makes both unreadable."""
        return cls(Bbox.from_bounds(x, y, width, height), 4.0)

    @classmethod
    def by_line(cls, x: float, y: float, width: float, height: float) -> "Taken":
        """A thin line: text over it is still readable."""
        return cls(Bbox.from_bounds(x, y, width, height), 0.6)


def free_place(anchor: Sequence[float], width: float, taken: Sequence[Taken], frame: BboxBase) -> Bbox:
    """The place for one line of text beside `anchor`, inside `frame`, that covers the least, then is the nearest."""
    height = 12.0

    def candidate(gap: float, rise: float, side: int, slope: float) -> tuple[float, Bbox]:
        left = anchor[0] + gap * side + width * (side - 1) / 2
        bottom = anchor[1] + rise * slope - height / 2
        return gap + rise * abs(slope) / 4, Bbox.from_bounds(left, bottom, width, height)

    def price(choice: tuple[float, Bbox]) -> float:
        distance, box = choice
        covered = sum(place.weight * _shared_area(box, place.box) for place in taken)
        return distance + covered + 40 * (width * height - _shared_area(box, frame))

    choices = itertools.product((8, 16, 26), (12, 24, 36, 48), (1, -1), (0, 0.5, -0.5, 1, -1))
    return min(itertools.starmap(candidate, choices), key=price)[1]


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights upward by as little as keeps them `gap` apart, in their order from below."""
    moved, lowest = list(heights), float("-inf")
    for index in sorted(range(len(moved)), key=moved.__getitem__):
        moved[index] = max(moved[index], lowest)
        lowest = moved[index] + gap
    return moved


def text_width(text: str) -> float:
    """About the width of `text`, whatever the browser's font."""
    return 0.58 * _FONT_SIZE * len(text) + 2


def write(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], ink: str, **how: Any) -> None:
    """Writes `text` in `ink`, `shift` points from `at`: in data, or in the coordinates that `xycoords` names."""
    axes.annotate(text, at, shift, textcoords="offset points", color=INK[ink], **how)


def _shared_area(a: BboxBase, b: BboxBase) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)


def _style(title: str) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # ids that differ between the plots of one page
        "text.parse_math": False,  # the name of a class may hold dollar signs
        "font.size": _FONT_SIZE,
        "text.color": INK["ink"],
        "lines.linewidth": 1.6,
        "axes.titlesize": _FONT_SIZE,
        "axes.titlecolor": INK["muted"],
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.labelcolor": INK["muted"],
        "axes.edgecolor": INK["line"],
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "grid.color": INK["line"],
        "grid.linewidth": 0.6,
        "xaxis.labellocation": "right",
        "xtick.color": INK["line"],
        "xtick.labelcolor": INK["muted"],
        "xtick.major.size": 3,
        "ytick.color": INK["line"],
        "ytick.labelcolor": INK["muted"],
        "ytick.major.size": 0,
    }


def _inlined(svg: str, title: str) -> str:
    root = svg.index("<svg")
    opening, body = svg[root : svg.index(">", root) + 1], svg[svg.index(">", root) + 1 :]
    view_box = opening[opening.index("viewBox") :].split('"')[1]
    referred = set(re.findall(r"#\w+", body))  # other ids name parts, alike in every plot of the page
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)  # a style element would reach the page
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if f"#{match[1]}" in referred else "", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for name, value in INK.items():
        body = body.replace(value, f"var(--{name})")
    return (
        f'<svg viewBox="{view_box}" role="img" stroke-linejoin="round"><title>{escape(title)}</title>\n{body.strip()}'
    )
