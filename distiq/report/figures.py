"""How numbers are written in a report: one function for each kind of quantity, text out.

A quantity that was not measured (None) is written as a dash.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from distiq.records.quality import Metric
from distiq.records.run import DropRecord
from distiq.records.speed import SpeedRecord

WIDEST = 100  # the upper limit of a ratio's interval beyond which it is not written
NOTHING = "–"
MINUS = "\N{MINUS SIGN}"
NAMED = 4
"""Operations that are listed by their names; of more, how many there are of each kind."""


def percent(fraction: float | None, digits: int = 2) -> str:
    """0.9123 -> "91.23 %"."""
    return NOTHING if fraction is None else f"{100 * fraction:.{digits}f} %"


def percent_interval(interval: tuple[float, float]) -> str:
    """(0.9061, 0.9181) -> "90.61 to 91.81 %"."""
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def figure(metric: Metric | None) -> str:
    """A metric's value in its unit: "91.23 %", "0.125 levels"."""
    if metric is None:
        return NOTHING
    return percent(metric.value) if metric.unit == "%" else f"{amount(metric.value)} {metric.unit}".rstrip()


def figure_interval(metric: Metric) -> str:
    """Its interval: "90.61 to 91.81 %"; empty where there is none."""
    if metric.interval is None:
        return ""
    if metric.unit == "%":
        return percent_interval(metric.interval)
    return f"{' to '.join(map(amount, metric.interval))} {metric.unit}".rstrip()


def change(metric: Metric, reference: Metric) -> str:
    """The signed difference of two values of a metric: "−0.42 points"."""
    difference = signed(metric.scale * (metric.value - reference.value))
    return f"{difference} {metric.drop_unit}".rstrip()


def heading(title: str) -> str:
    """A title as it stands at the head of a row: "micro F1" -> "Micro F1", "AUC" and "mAP" stay."""
    return title if title[1:2].isupper() else title[:1].upper() + title[1:]


def points(change: float | None) -> str:
    """A signed difference of two fractions in percentage points: -0.0042 -> "−0.42 points"."""
    return NOTHING if change is None else f"{signed(100 * change)} points"


def points_interval(interval: tuple[float, float]) -> str:
    """Percentage points: (-0.12, 0.3) -> "−0.12 to +0.30"."""
    return f"{signed(interval[0])} to {signed(interval[1])}"


def p_value(p: float) -> str:
    """0.0312 -> "0.031"; below a thousandth "< 0.001"."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def kilobytes(size_bytes: int | None) -> str:
    """Kilobytes of 1000 bytes: 123456 -> "123.5 kB"; from a megabyte on without decimals."""
    if size_bytes is None:
        return NOTHING
    return f"{size_bytes / 1000:,.{1 if size_bytes < 1_000_000 else 0}f} kB"


def memory(size_bytes: int | None) -> str:
    """Megabytes or gigabytes, powers of 1000: 142300000 -> "142.3 MB", 24000000000 -> "24.0 GB"."""
    if size_bytes is None:
        return NOTHING
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def milliseconds(duration_ms: float | None) -> str:
    """Three significant digits: 0.12345 -> "0.123 ms"."""
    return NOTHING if duration_ms is None else f"{amount(duration_ms)} ms"


def decibels(level_db: float) -> str:
    """31.64 -> "31.6 dB"."""
    return f"{level_db:.1f} dB"


def nats(divergence: float) -> str:
    """0.00012 -> "0.00012 nat": two significant digits."""
    return f"{divergence:.2g} nat"


def times(ratio: float | None) -> str:
    """3.94 -> "3.9×"; from ten on without decimals."""
    return NOTHING if ratio is None else f"{ratio:.{1 if ratio < 10 else 0}f}×"


def count(number: int | None) -> str:
    """1234567 -> "1,234,567"."""
    return NOTHING if number is None else f"{number:,}"


def per_second(rate: float | None) -> str:
    """12345.6 -> "12,346 /s"."""
    return NOTHING if rate is None else f"{amount(rate)} /s"


def duration(seconds: float) -> str:
    """93.4 -> "1 min 33 s"; 7300 -> "2 h 1 min"; below a minute "33.4 s"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def amount(number: float) -> str:
    """Three significant digits without an exponent: 0.12345 -> "0.123", 12.345 -> "12.3", 12345 -> "12,345"."""
    digits = max(0, 2 - math.floor(math.log10(abs(number)))) if number else 0
    return f"{number:,.{digits}f}".replace("-", MINUS)


def quantity(number: float, unit: str) -> str:
    """A figure that a person set, as it was set: (100.0, "kB") -> "100 kB", (1.0, "points") -> "1 point"."""
    return f"{number:g} {unit.removesuffix('s') if number == 1 and unit == 'points' else unit}".rstrip()


def tally(names: Iterable[str]) -> str:
    """Names in order of first appearance, repeats counted: (Clip, Softmax, Clip) -> "Clip ×2, Softmax"."""
    return ", ".join(name if n == 1 else f"{name} ×{n}" for name, n in Counter(names).items())


def operation_names(names: Sequence[str]) -> str:
    """Operations as records name them, "place (kind)": a few by their names, more of them counted by kind."""
    if len(names) <= NAMED:
        return tally(names)
    return tally(name.rpartition("(")[2].removesuffix(")") for name in names)


def change_interval(drop: DropRecord) -> str:
    """The interval of a drop as one of a change: "−0.60 to +0.02 points"."""
    low, high = drop.interval
    return f"{signed(-high)} to {signed(-low)} {drop.unit}".rstrip()


def signed(number: float) -> str:
    text = f"{abs(number):.2f}"
    sign = "" if not float(text) else "+" if number > 0 else MINUS
    return sign + text


def comparison(before: float, after: float, better: str, worse: str) -> str:
    """How many times one figure is another: (656.3, 76.6, "smaller", "larger") -> "8.6× smaller"."""
    word, ratio = (better, before / after) if after <= before else (worse, after / before)
    return f"{times(ratio)} {word}"


def speed_interval(speed: SpeedRecord) -> str:
    """Of a ratio; two or three turns that differ leave it so wide that its end says nothing."""
    if speed.interval is None:
        return NOTHING
    low, high = speed.interval
    return f"{low:.2f} to {high:.2f}" if high < WIDEST else f"{low:.2f} to > {WIDEST}"
