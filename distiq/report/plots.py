"""The plots of a report: pure functions from records to SVG text that stands inside an HTML page.

Colours are names, not values: the page's style sheet defines `--ink`, `--teacher` and so on, in light and in dark.
Text stays text in the page's own font. The same records give the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from distiq.records.ablation import AblationRecord
from distiq.records.quality import Metric
from distiq.records.record import ONE
from distiq.records.run import RunRecord
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.speed import CostRecord
from distiq.records.training import TrainingRecord
from distiq.records.trials import FLOAT32
from distiq.report.drawing import INK, PARTS, Taken, apart, drawn, free_place, text_width, write
from distiq.report.figures import MINUS, amount, decibels
from distiq.report.reading import ClassChange, chosen_trial, class_changes, median_ms, quality_limit
from distiq.report.sensitivity import noise_shares


def quality_against_size(run: RunRecord) -> str:
    """The primary metric on the test set over file size in kB of every measured file, with the budget's limits."""
    return _trade_off(run, "file size, kB", lambda cost: cost.size_bytes / 1000, run.budget.get("size_kb"))


def quality_against_latency(run: RunRecord) -> str:
    """The same over the median time of one sample in ms."""
    return _trade_off(
        run, f"latency of {ONE[run.data.modality]}, ms", lambda cost: median_ms(run, cost), run.budget.get("latency_ms")
    )


def training_curves(training: TrainingRecord, name: str) -> str:
    """The parts of the loss by epoch and, below, the metric on the validation split; the kept epoch is marked."""
    epochs = [entry.epoch for entry in training.epochs]
    validated = [(entry.epoch, entry.validation) for entry in training.epochs if entry.validation is not None]

    def draw(losses: Axes, validation: Axes | None = None) -> None:
        _draw_losses(losses, training)
        _count_epochs(losses, epochs)
        if validation is not None:
            _draw_validation(validation, validated, training.kept)
            _count_epochs(validation, epochs)
        (validation or losses).set_xlabel("epoch")

    title = f"Training of the {name}: loss{f' and validation {validated[0][1].title}' if validated else ''} by epoch"
    if not validated:
        return drawn(draw, title, height=172, boxes=[(46, 34, 256, 112)])
    return drawn(draw, title, height=304, boxes=[(46, 166, 256, 112), (46, 34, 256, 84)])


def class_accuracy(run: RunRecord, most: int) -> str:
    """Test accuracy of the `most` changed classes: teacher and student in float32, int8 deployed; losses first."""
    changes = class_changes(run, most)
    height = 19.0 * max(len(changes), 1)

    def draw(axes: Axes) -> None:
        for row, change in enumerate(changes):
            _draw_class(axes, row, change)
        axes.set_ylim(max(len(changes), 1) - 0.5, -0.5)
        axes.set_yticks(range(len(changes)), [_shortened(change.name, 17) for change in changes], color=INK["ink"])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.set_xlabel(f"test {run.task.class_figure}, %", loc="left")
        write(axes, "points", (1, 0), (10, -26), "muted", xycoords="axes fraction")

    title = f"Test {run.task.class_figure} by class: teacher float32, student float32, int8 deployed"
    return drawn(draw, title, height=height + 44, boxes=[(104, 34, 236, height)])


def keyword_errors(run: RunRecord) -> str:
    """False rejects over false accepts of the keyword in the test set: teacher, student float32, int8 deployed.

    Empty where no keyword was named.
    """
    models = [
        ("teacher", run.teacher.column("float32")),
        ("student", run.student.column("float32")),
        ("deployed", chosen_trial(run).deployed),
    ]
    tests = [(ink, column.test) for ink, column in models]
    curves = [(ink, test.keyword) for ink, test in tests if test.keyword]
    if not curves:
        return ""
    allowed = curves[0][1].allowed_false_accepts
    # Good networks leave most of the square empty: the axes stop beyond their equal errors.
    end = min(1.0, max(0.05, 3 * allowed, *(3 * curve.equal_error_rate for _, curve in curves)))

    def draw(axes: Axes) -> None:
        axes.plot([0, 100 * end], [0, 100 * end], color=INK["line"], linewidth=0.9, zorder=0)
        axes.axvline(100 * allowed, color=INK["limit"], linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for width, (ink, curve) in zip((4.0, 2.4, 1.2), curves, strict=False):  # they often lie upon one another
            errors = [[100 * share for share in shares] for shares in (curve.false_accepts, curve.false_rejects)]
            axes.plot(*errors, color=INK[ink], linewidth=width)
        axes.set_xlim(0, 100 * end)
        axes.set_ylim(0, 100 * end)
        axes.grid(axis="y")
        axes.set_title("false rejects, %")
        axes.set_xlabel("false accepts, %")

    return drawn(draw, "False rejects against false accepts", height=278, boxes=[(42, 34, 346, 220)])


def teacher_effect(ablation: AblationRecord) -> str:
    """Each comparison of an ablation as a difference in points with its interval; zero is drawn through."""
    height = 34.0 * len(ablation.pairs)

    def draw(axes: Axes) -> None:
        for row, pair in enumerate(ablation.pairs):
            ink = INK[{"helps": "good", "hurts": "limit", "cannot tell": "muted"}[pair.verdict]]
            axes.hlines(row, *pair.interval_points, color=ink, linewidth=2)
            axes.plot(pair.difference_points, row, "o", markersize=8, color=ink, zorder=4)
            axes.plot(pair.per_seed_points, [row + 0.28] * len(pair.per_seed_points), "|", color=INK["muted"])
            write(axes, f"{pair.first} against {pair.second}: {pair.verdict}", (0, row), (0, 10), "ink",
                  xycoords=axes.get_yaxis_transform())  # fmt: skip
        axes.axvline(0, color=INK["line"], linewidth=1.2, zorder=0)
        axes.set_ylim(len(ablation.pairs) - 0.4, -0.7)
        axes.set_yticks([])
        axes.margins(x=0.08)
        axes.grid(axis="x")
        axes.set_xlabel("points of test accuracy")

    return drawn(draw, "Effect of the teacher on test accuracy", height=height + 50, boxes=[(16, 34, 368, height)])


def noise_by_tensor(record: SensitivityRecord, most: int) -> str:
    """The noisiest tensors as bars: the share of the noise that each makes alone, weights and activations apart."""
    shown = noise_shares(record)[:most]
    height = 19.0 * len(shown)

    def draw(axes: Axes) -> None:
        for row, (noise, share) in enumerate(shown):
            axes.barh(row, 100 * share, 0.62, color=INK["student" if noise.part == "weights" else "deployed"])
            write(axes, decibels(noise.sqnr_db), (100 * share, row), (6, 0), "muted", va="center")
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, 118 * shown[0][1])
        axes.set_yticks(
            range(len(shown)), [_ending(noise.place or "output", 24) for noise, _ in shown], color=INK["ink"]
        )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.set_xlabel("share of the noise, %")

    return drawn(
        draw, "Noise by quantized tensor: weights and activations", height=height + 44, boxes=[(152, 34, 232, height)]
    )


@dataclass(frozen=True)
class _Point:
    """A measured file: `x` is its size or its latency, `solid` are the models that were asked for or delivered."""

    label: str
    ink: str
    solid: bool
    x: float
    metric: Metric

    @property
    def y(self) -> float:
        return self.metric.scale * self.metric.value

    @property
    def bar(self) -> tuple[float, float]:
        low, high = self.metric.interval or (self.metric.value, self.metric.value)
        return self.metric.scale * low, self.metric.scale * high


@dataclass(frozen=True)
class _Limits:
    """The budget in the units of the plot; None is no limit."""

    x: float | None
    y: float | None


def _trade_off(
    run: RunRecord, x_name: str, measure: Callable[[CostRecord], float | None], x_limit: float | None
) -> str:
    points = _points(run, measure)
    limit, metric = quality_limit(run), run.teacher.column("float32").test.primary
    limits = _Limits(x_limit, None if limit is None else metric.scale * limit)

    def draw(axes: Axes) -> None:
        _set_ranges(axes, points, limits)
        if not metric.higher_is_better:
            axes.invert_yaxis()
        _draw_limits(axes, limits)
        for point in points:
            _draw_point(axes, point)
        _label_points(axes, points, _label_limits(axes, limits, metric.title))
        axes.set_title(_axis("test", metric))
        axes.set_xlabel(x_name)

    return drawn(draw, f"Test {metric.title} against {x_name}", height=278, boxes=[(42, 34, 346, 220)])


def _axis(split: str, metric: Metric) -> str:
    """What an axis shows: "test accuracy, %"."""
    return ", ".join(filter(None, (f"{split} {metric.title}", metric.unit)))


def _points(run: RunRecord, measure: Callable[[CostRecord], float | None]) -> list[_Point]:
    """The files to draw, the delivered one last so that it lies on top."""
    trials = sorted(run.trials, key=lambda trial: trial.rung == run.verdict.chosen)
    candidates = [
        ("teacher", "teacher", True, run.teacher.column("float32")),
        ("student float32", "student", True, run.student.column("float32")),
        *(
            (trial.rung, "deployed", trial.rung == run.verdict.chosen, trial.deployed)
            for trial in trials
            if trial.rung != FLOAT32  # the student's own point is its file
        ),
    ]
    return [
        _Point(label, ink, solid, x, column.test.primary)
        for label, ink, solid, column in candidates
        if column.cost is not None and (x := measure(column.cost)) is not None
    ]


def _set_ranges(axes: Axes, points: Sequence[_Point], limits: _Limits) -> None:
    xs = [x for x in (limits.x, *(point.x for point in points)) if x is not None]
    ys = [y for y in (limits.y, *(edge for point in points for edge in point.bar)) if y is not None]
    axes.set_xscale("log")
    if xs and ys:
        margin = 0.12 * max(max(ys) - min(ys), 0.5)
        axes.set_xlim(min(xs) / 1.7, max(xs) * 1.7)
        axes.set_ylim(min(ys) - margin, max(ys) + margin)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")


def _draw_limits(axes: Axes, limits: _Limits) -> None:
    dashes: dict[str, Any] = {"color": INK["limit"], "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    if limits.x is not None:
        axes.axvline(limits.x, **dashes)
        right = limits.x
    if limits.y is not None:
        axes.axhline(limits.y, **dashes)
        bottom = limits.y
    if limits != _Limits(None, None):
        axes.fill_between([left, right], bottom, top, color=INK["good"], alpha=0.10, linewidth=0, zorder=0)


def _draw_point(axes: Axes, point: _Point) -> None:
    colour, solid = INK[point.ink], point.solid
    width, alpha = (1.1, 0.9) if solid else (0.7, 0.6)
    axes.vlines(point.x, *point.bar, color=colour, linewidth=width, alpha=alpha, zorder=2)
    axes.plot(
        point.x,
        point.y,
        marker="o",
        markersize=8 if solid and point.ink == "deployed" else 6.5,
        markerfacecolor=colour if solid else INK["paper"],
        markeredgecolor=colour,
        markeredgewidth=1.3,
        zorder=4 if solid else 3,
    )


def _label_limits(axes: Axes, limits: _Limits, title: str) -> list[Taken]:
    """Writes the names of the limits beside their lines, and tells which places they take."""
    frame, taken = axes.get_window_extent(), []
    if limits.y is not None:
        name, y = f"{title} limit", axes.transData.transform((1, limits.y))[1]
        write(axes, name, (1, limits.y), (-2, 3), "limit", xycoords=axes.get_yaxis_transform(), ha="right")
        taken.append(Taken.by_text(frame.x1 - text_width(name), y + 3, text_width(name), 12))
        taken.append(Taken.by_line(frame.x0, y - 1, frame.width, 2))
    if limits.x is not None:
        name, x = "limit", axes.transData.transform((limits.x, 1))[0]
        write(axes, name, (limits.x, 0), (3, 4), "limit", xycoords=axes.get_xaxis_transform())
        taken.append(Taken.by_text(x, frame.y0, text_width(name), 16))
        taken.append(Taken.by_line(x - 1, frame.y0, 2, frame.height))
    return taken


def _label_points(axes: Axes, points: Sequence[_Point], taken: list[Taken]) -> None:
    """Writes each label at the free place nearest to its point: the delivered file's first, then the others'."""
    for point in points:
        (x, low), (_, y), (_, high) = (
            axes.transData.transform((point.x, y)) for y in (point.bar[0], point.y, point.bar[1])
        )
        taken += [Taken.by_text(x - 5, y - 5, 10, 10), Taken.by_line(x - 1, low, 2, high - low)]
    for point in reversed(points):
        x, y = axes.transData.transform((point.x, point.y))
        box = free_place((x, y), text_width(point.label), taken, axes.get_window_extent())
        taken.append(Taken.by_text(*box.bounds))
        left = box.x1 < x
        far = max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1) > 10
        write(
            axes,
            point.label,
            (point.x, point.y),
            ((box.x1 if left else box.x0) - x, (box.y0 + box.y1) / 2 - y),
            point.ink,
            ha="right" if left else "left",
            va="center",
            weight="bold" if point.solid else "normal",
            arrowprops={"arrowstyle": "-", "color": INK["muted"], "linewidth": 0.5, "shrinkB": 5} if far else None,
        )


def _draw_losses(axes: Axes, training: TrainingRecord) -> None:
    axes.set_title("loss")
    parts = dict.fromkeys(part for entry in training.epochs for part in entry.losses)
    ends = []
    for number, part in enumerate(parts):
        curve = [(entry.epoch, entry.losses[part]) for entry in training.epochs if part in entry.losses]
        ink = PARTS[number % len(PARTS)]
        how: dict[str, Any] = {"marker": "o" if len(curve) < 3 else None, "markersize": 4, "clip_on": False}
        dashes = "-" if number < len(PARTS) else "--"
        axes.plot(*zip(*curve, strict=True), color=INK[ink], linestyle=dashes, label=part, **how)
        ends.append((curve[-1], amount(curve[-1][1]), ink))
    axes.legend(loc="upper right", frameon=False, labelcolor="linecolor", handlelength=1.4)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")
    heights = [axes.transData.transform(end)[1] for end, _, _ in ends]
    for (end, label, ink), height, free in zip(ends, heights, apart(heights, gap=13), strict=True):
        write(axes, label, end, (8, free - height), ink, va="center")


def _draw_validation(axes: Axes, validated: Sequence[tuple[int, Metric]], kept: int) -> None:
    axes.set_title(_axis("validation", validated[0][1]))
    values = [(epoch, metric.scale * metric.value) for epoch, metric in validated]
    axes.plot(*zip(*values, strict=True), color=INK["ink"])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")
    for epoch, value in values:
        if epoch == kept:
            axes.plot(epoch, value, "o", color=INK["ink"], markersize=5, clip_on=False)
            write(
                axes, f"kept {value:.2f}", (1, value), (8, 0), "ink", xycoords=axes.get_yaxis_transform(), va="center"
            )


def _count_epochs(axes: Axes, epochs: Sequence[int]) -> None:
    span = epochs[-1] - epochs[0]
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_xlim(epochs[0] - 0.02 * span - (not span), epochs[-1] + (not span))


def _draw_class(axes: Axes, row: int, change: ClassChange) -> None:
    shares = [share for share in (change.teacher, change.student, change.deployed) if share is not None]
    axes.hlines(row, 100 * min(shares), 100 * max(shares), color=INK["line"], linewidth=3, zorder=1)
    axes.plot(100 * change.teacher, row, "o", color=INK["teacher"], markersize=6, zorder=2, clip_on=False)
    axes.plot(100 * change.deployed, row, "o", color=INK["deployed"], markersize=6, zorder=3, clip_on=False)
    if change.student is not None:
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK["student"], "markeredgewidth": 1.4}
        axes.plot(100 * change.student, row, "o", markersize=7, zorder=4, clip_on=False, **ring)
    text = f"{100 * change.change:+.1f}".replace("-", MINUS)
    write(axes, text, (1, row), (10, 0), "muted", xycoords=axes.get_yaxis_transform(), va="center")


def _ending(path: str, most: int) -> str:
    return path if len(path) <= most else "…" + path[1 - most :]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
