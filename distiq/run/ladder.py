"""What to try next, why, and when to stop. It decides; it never trains or measures."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from distiq.recipe.budget import Budget
from distiq.records.quality import Metric, Quality
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.speed import SpeedRecord
from distiq.records.training import TrainingRecord
from distiq.records.trials import Breach, TrialRecord
from distiq.run.rungs import RUNGS, Rung


class Next(NamedTuple):
    """The rung to try and the reason."""

    rung: Rung
    reason: str


class Measured(NamedTuple):
    """What a budget is held against: quality on one split, bytes, milliseconds of one sample, bit operations,
    bytes of a microcontroller's flash and RAM."""

    quality: Quality
    size_bytes: int
    latency_ms: float
    bit_operations: int | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None


class Tried(Protocol):
    """What the ladder reads of an attempt."""

    @property
    def rung(self) -> str: ...
    @property
    def breaches(self) -> tuple[Breach, ...]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def training(self) -> TrainingRecord | None: ...


def judge(budget: Budget, teacher: Quality, trial: Measured) -> tuple[Breach, ...]:
    """The limits that do not hold; both qualities are of the same samples."""
    drops = [("drop", budget.drop, teacher.primary, trial.quality.primary)] + [
        (f"metrics.{name}", allowed, teacher.metric(name), trial.quality.metric(name))
        for name, allowed in budget.metrics.items()
    ]
    by_class = [
        (f"recall.{name}", allowed, teacher.recall(name), trial.quality.recall(name))
        for name, allowed in budget.recalls(teacher.measured_parts).items()
    ]
    checks = (
        [
            (limit, drop_title(reference), allowed, metric.drop(reference), metric.drop_unit)
            for limit, allowed, reference, metric in (*drops, *by_class)
            if reference is not None and metric is not None
        ]
        + [
            (limit, f"{limit} (not measured)", allowed, 100.0, "points")  # a limit that cannot be judged does not hold
            for limit, allowed, reference, metric in by_class
            if reference is None or metric is None
        ]
        + [
            ("size_kb", "size", budget.size_kb, trial.size_bytes / 1000, "kB"),
            ("latency_ms", "latency", budget.latency_ms, trial.latency_ms, "ms"),
            ("flash_kb", "flash", budget.flash_kb, (trial.flash_bytes or 0) / 1000, "kB"),
            ("ram_kb", "RAM", budget.ram_kb, (trial.ram_bytes or 0) / 1000, "kB"),
            (
                "bit_operations_m",
                "bit operations",
                budget.bit_operations_m,
                (trial.bit_operations or 0) / 1e6,
                "million",
            ),
        ]
    )
    return tuple(
        Breach(limit=limit, title=title, allowed=allowed, measured=measured, excess=measured - allowed, unit=unit)
        for limit, title, allowed, measured, unit in checks
        if allowed is not None and measured > allowed
    )


def drop_title(metric: Metric) -> str:
    """What a loss of the metric is called: "accuracy drop", "RMSE rise"."""
    return f"{metric.title} {'drop' if metric.higher_is_better else 'rise'}"


def estimate(rung: Rung, trials: Sequence[Tried], training_seconds: float | None = 0.0) -> str:
    """What a rung costs with this network, in words, with seconds where the run has measured enough to estimate them.

    Args:
        trials: the earlier ones; the first without training shows how long a file takes to make and to measure.
        training_seconds: of the steps that the rung trains, at the measured pace of the student's training; None where
            that is not known.
    """
    made = next((trial.seconds for trial in trials if trial.training is None), None)
    if training_seconds is None or (made is None and not training_seconds):
        return rung.cost
    least = "more than" if rung.takes_longer else "about"
    measured = " and its measurements" if made is None else ""
    return f"{rung.cost}: {least} {(made or 0.0) + training_seconds:.0f} s{measured}"


def next_rung(
    rungs: Sequence[Rung],
    trials: Sequence[Tried],
    budget: Budget,
    float_drop: float,
    evidence: SensitivityRecord | None = None,
) -> Next | None:
    """The next attempt, or None when the budget holds or nothing that is left can help.

    Args:
        float_drop: what the float32 student loses of the primary metric against the teacher on the validation split.
        evidence: where the noise of the first trial comes from.
    """
    if not trials:
        return Next(rungs[0], f"the first rung: {rungs[0].what}")
    last = trials[-1]
    broken = {breach.limit: breach for breach in last.breaches}
    tried = {trial.rung for trial in trials}
    # A file of float16 weights is larger than the int8 file before it: narrower integers are no remedy for that.
    is_in_float = any(rung.in_float and rung.name == last.rung for rung in rungs)
    narrowing = [rung for rung in rungs if rung.narrows and not is_in_float]
    if narrowing and not any(rung.name in tried for rung in narrowing):
        if size := broken.get("size_kb"):
            return Next(narrowing[0], f"the file is {size.excess:.1f} kB too large: {narrowing[0].what}")
        if operations := broken.get("bit_operations_m"):
            reason = f"{operations.excess:.3g} million bit operations too many: {narrowing[0].what}"
            return Next(narrowing[0], reason)
    lost = [breach for breach in last.breaches if breach.of_quality]
    if not lost:
        # The budget holds, or only size or speed falls short: the files of all other rungs have the same of each.
        return None
    without = skipped(rungs, trials, budget, float_drop, evidence)
    left = [number for number, rung in enumerate(rungs) if rung.name not in tried and rung.name not in without]
    if not left:
        return None
    reason = f"{last.rung} lost {lost[0].excess:.2f} {lost[0].unit} too many"
    for why in dict.fromkeys(without[rung.name] for rung in rungs[: left[0]] if rung.name in without):
        reason += f"; {why}"
    return Next(rungs[left[0]], f"{reason}: {rungs[left[0]].what}")


def as_fast_as_float(rungs: Sequence[Rung], trials: Sequence[Tried]) -> Next | None:
    """The next rung whose file computes in float32. Called once the ladder ends at a file that is not clearly faster
    than float32: one that is smaller and as fast as float32 may then be delivered.

    None where one of them holds the limit on size already, or where the int8 files before them broke it.
    """
    own = {rung.name: rung for rung in rungs if rung.in_float}
    large = {trial.rung: any(breach.limit == "size_kb" for breach in trial.breaches) for trial in trials}
    integers = [rung for rung in large if rung not in own]
    if any(not large[rung] for rung in large if rung in own) or (integers and large[integers[-1]]):
        return None
    untried = [rung for name, rung in own.items() if name not in large]
    return Next(untried[0], f"int8 may be no faster than float32: {untried[0].what}") if untried else None


def skipped(
    rungs: Sequence[Rung],
    trials: Sequence[Tried],
    budget: Budget,
    float_drop: float,
    evidence: SensitivityRecord | None,
) -> dict[str, str]:
    """The untried rungs that cannot help, by name, and why."""
    tried = {trial.rung for trial in trials}
    has_narrowed = any(rung.narrows for rung in rungs if rung.name in tried)
    biases_corrected = any(rung.corrects_biases for rung in rungs if rung.name in tried)
    why: dict[str, str] = {}
    for rung in rungs:
        if rung.name in tried or rung.trains:
            continue
        if has_narrowed:
            again = "the file would be too large" if budget.size_kb else "there would be too many bit operations"
            why[rung.name] = f"{again} again"
        elif rung.narrows:
            enough = "the bit operations are few enough" if budget.bit_operations_m else "the file is small enough"
            why[rung.name] = enough
        elif budget.drop is not None and float_drop > budget.drop:
            # All of these bring the quantized network closer to float32, which is not good enough itself.
            why[rung.name] = f"nothing without training can help, since float32 itself loses {float_drop:.2f}"
        elif evidence is not None and (reason := rung.useless(evidence, biases_corrected)):
            why[rung.name] = reason
    return why


def best(trials: Sequence[TrialRecord]) -> TrialRecord:
    """The trial to deliver: the first that breaks nothing, else the one that exceeds its limits by the least share."""
    kept = [trial for trial in trials if not trial.breaches]
    if kept:
        return kept[0]
    return min(trials, key=lambda trial: (_overrun(trial.breaches), -trial.deployed.validation.primary.goodness))


def is_slower(trial: TrialRecord) -> bool:
    """Whether the trial's file measured slower than the float32 file of the same student there, beyond the noise."""
    speed = _speed(trial)
    return speed is not None and speed.verdict == "slower"


def fall_back(best: TrialRecord, others: Sequence[TrialRecord], float32: TrialRecord) -> TrialRecord:
    """What is delivered in place of an int8 file that measured slower than float32.

    The fastest of the other files that is faster than every float32 file; else that of float16 or integer weights, if
    it is no slower than float32; else the float32 student, if its size is within the budget. None may break the limits
    by more than `best` does. If none qualifies, `best` itself, for its size.

    Args:
        others: the files of all trials and runtimes, each as a trial with that file as `deployed` and first runtime.
        float32: the student's float32 file as a trial.
    """
    limit = _overrun(best.breaches)
    fast = [trial for trial in others if _is_fast(trial) and _overrun(trial.breaches) <= limit]
    if fast:
        return min(fast, key=lambda trial: trial.runtimes[0].latency[0].p50_ms)
    in_float = {rung.name for rung in RUNGS if rung.in_float}
    small = [
        trial
        for trial in others
        if trial.rung in in_float and not is_slower(trial) and _overrun(trial.breaches) <= limit
    ]
    if small:
        return min(small, key=lambda trial: trial.runtimes[0].latency[0].p50_ms)
    fits = all(breach.limit != "size_kb" for breach in float32.breaches) and _overrun(float32.breaches) <= limit
    return float32 if fits else best


def _is_fast(trial: TrialRecord) -> bool:
    speed = _speed(trial)
    if speed is None or speed.verdict != "faster":
        return False
    fastest = min(entry.float_latency[0].p50_ms for entry in trial.runtimes)
    return trial.runtimes[0].latency[0].p50_ms < fastest


def _speed(trial: TrialRecord) -> SpeedRecord | None:
    return trial.runtimes[0].speed if trial.runtimes else None


def _overrun(breaches: Sequence[Breach]) -> float:
    return sum(breach.excess / max(abs(breach.allowed), 1e-3) for breach in breaches)
