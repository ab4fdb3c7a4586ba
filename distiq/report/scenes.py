"""What a detector or a segmenter finds in the test images: the table of confusion, precision against recall."""

from matplotlib.axes import Axes

from distiq.records.scenes import ScenesRecord
from distiq.report.cells import Cell, Row
from distiq.report.drawing import INK, PARTS, drawn, write
from distiq.report.figures import NOTHING, count, percent

LINES = ("solid", (0, (4, 2)), (0, (1, 1.5)))


def confusion_rows(scenes: ScenesRecord) -> tuple[Row, ...]:
    """The share of each row in each column, and how many there are."""
    rows = []
    for name, counts in zip(scenes.rows, scenes.confusion, strict=True):
        total = sum(counts)
        cells = [Cell(percent(one / total, 1) if one else NOTHING) for one in counts]
        rows.append(Row(Cell(name), (*cells, Cell(count(total)))))
    return tuple(rows)


def precision_recall(scenes: ScenesRecord) -> str:
    """Precision against recall of each class, at an overlap of a half."""

    def draw(axes: Axes) -> None:
        recalls = list(range(101))
        for number, (name, precision) in enumerate(scenes.precision.items()):
            style = LINES[number // len(PARTS) % len(LINES)]
            ink = PARTS[number % len(PARTS)]
            axes.plot(recalls, [100 * value for value in precision], color=INK[ink], linestyle=style)
            write(axes, name, (3, 8 + 9 * number), (0, 0), ink)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.grid(axis="y")
        axes.set_title("precision, %")
        axes.set_xlabel("recall, %")

    return drawn(draw, "Precision against recall by class", height=278, boxes=[(42, 34, 346, 220)])
