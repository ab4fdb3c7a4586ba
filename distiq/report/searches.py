"""What a search found, in words, rows and a picture."""

import json
import math

from matplotlib.axes import Axes

from distiq.records.search import Candidate, ForecastRecord, SearchRecord
from distiq.report.cells import Cell, Row
from distiq.report.drawing import INK, drawn, write
from distiq.report.figures import count

HEADINGS = (Cell("Validation"), Cell("ms"), Cell("kB"), Cell("Parameters"), Cell("Student"))


def search_sentence(search: SearchRecord) -> str:
    """What was chosen, on the test set, and how it stands to the recipe's own student."""
    chosen, metric = search.candidate(search.chosen), search.test.primary
    trained = sum(one.outcome == "trained" for one in search.candidates)
    timed = sum(not one.has_no_file for one in search.candidates)
    left_out = f" ({count(len(search.candidates) - timed)} more would break a limit, as predicted)"
    said = (
        f"Of {count(timed)} candidates{left_out * (timed < len(search.candidates))} {trained} were trained to their"
        f" end. The best on the validation split, number {chosen.number} ({chosen.model}), has {metric.in_words} on"
        f" {count(search.test.samples)} test samples"
    )
    if chosen.cost:
        said += f", {chosen.cost.latency_ms:.3g} ms and {chosen.cost.size_kb:.1f} kB as a quantized file"
    forecasts = "".join(f" {forecast_sentence(one)}" for one in search.forecasts)
    if (compared := search.compared) is None:
        return f"{said}.{forecasts}"
    own, (low, high) = compared.own_cost, compared.interval
    number = len(compared.own_values)
    seeds = f"{count(number)} seeds" if number > 1 else "one seed"
    return (
        f"{said}; the recipe's own student has {compared.own.primary.in_words}, {own.latency_ms:.3g} ms and"
        f" {own.size_kb:.1f} kB: {compared.difference:+.2f} {metric.drop_unit} (95 %"
        f" interval {low:+.2f} to {high:+.2f}, {seeds}).{forecasts}"
    )


def forecast_sentence(record: ForecastRecord) -> str:
    """The errors of what was predicted."""
    title = {"latency_ms": "Latency", "size_kb": "Size"}[record.cost]
    errors = ((record.crossed, "of them by the others"), (record.checked, "candidates that were measured later"))
    parts = [
        f"{100 * error.median:.1f} % in the median on {error.networks} {whom} (rank correlation"
        f" {error.rank_correlation:.3f})"
        for error, whom in errors
        if error
    ]
    return f"{title} was predicted from {record.learned} files that were measured first: off by {', by '.join(parts)}."


def front_rows(search: SearchRecord) -> tuple[Row, ...]:
    """The front, best first, under HEADINGS."""
    rows = []
    for number in search.front:
        one = search.candidate(number)
        assert one.cost is not None
        assert one.validation is not None
        cells = (
            Cell(one.validation.figure), Cell(f"{one.cost.latency_ms:.3g}"), Cell(f"{one.cost.size_kb:.1f}"),
            Cell(count(one.cost.parameters)), Cell(f"{one.model} {json.dumps(one.options)}"),
        )  # fmt: skip
        rows.append(Row(Cell(f"candidate {number}"), cells, marked=number == search.chosen))
    return tuple(rows)


def search_plot(search: SearchRecord) -> str:
    """Trained candidates by latency and quality on the validation split, the larger the file the larger the mark; the
    front is joined, marks say more when one points at them."""
    trained = [one for one in search.candidates if one.outcome == "trained" and one.cost and one.validation]
    front = sorted((search.candidate(number) for number in search.front), key=lambda one: _at(one)[0])

    def draw(axes: Axes) -> None:
        largest = max(one.cost.size_kb for one in trained if one.cost)
        axes.plot(*zip(*map(_at, front), strict=True), color=INK["line"], linewidth=1.2, zorder=1)
        for one in trained:
            ink = "deployed" if one.number == search.chosen else "student" if one in front else "muted"
            size = 90 * (one.cost.size_kb / largest if one.cost else 1)
            axes.scatter(*_at(one), s=size + 8, color=INK[ink], zorder=2 if one in front else 1)
        for one in front:
            write(axes, str(one.number), _at(one), (6, 5), "ink")
        slowest = max(_at(one)[0] for one in trained)
        limit = search.limits.get("latency_ms", math.inf)
        if limit < 2 * slowest:  # a far one would press all candidates together
            axes.axvline(limit, color=INK["limit"], linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        axes.grid(axis="y")
        axes.set_title(f"validation {metric.title}{f', {metric.unit}' * bool(metric.unit)}")
        axes.set_xlabel("latency of one sample, ms")

    metric = search.test.primary
    return drawn(
        draw, f"Candidates: {metric.title} on the validation split by latency", height=250, boxes=[(52, 34, 320, 190)]
    )


def _at(candidate: Candidate) -> tuple[float, float]:
    assert candidate.cost is not None
    assert candidate.validation is not None
    return candidate.cost.latency_ms, candidate.validation.value * candidate.validation.scale
