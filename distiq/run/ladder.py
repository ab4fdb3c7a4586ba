"""What to try next, why, and when to stop. It decides; it never trains or measures."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from distiq.recipe.budget import Budget
from distiq.recipe.quantize import Rung
from distiq.records.models import ModelRecord
from distiq.records.quality import Metric, Quality
from distiq.records.record import ONE, Modality
from distiq.records.run import VerdictRecord
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.speed import SpeedRecord
from distiq.records.training import TrainingRecord
from distiq.records.trials import FLOAT32, Breach, TrialRecord

WHAT_IT_IS: dict[Rung, str] = {
    "static": "post-training quantization, ranges of least squared error, weights rounded to the nearest",
    "minmax": "closed-form rounding, ranges as wide as all values, for outliers that carry information",
    "percentile": "closed-form rounding, ranges without outliers",
    "equalize": "scales moved between neighbouring layers, with corrected biases",
    "rounding": "closed-form rounding of the weights, layer by layer, with corrected biases",
    "reconstruct": "rounding learned block by block from the closed form (BRECQ with QDrop)",
    "float_layers": "the layers whose weights make the most noise left in float32",
    "mixed": "narrow weights in the layers where they cost least, until the limit holds",
    "qat": "quantization-aware training with the teacher",
    "dynamic": "linear layers in int8, on grids that each batch makes anew",
    "weight_only": "weights as integers, computed in float32",
}
COST: dict[Rung, str] = {
    "static": "a pass over the calibration samples",
    "minmax": "the same with other ranges",
    "percentile": "the same with other ranges",
    "equalize": "a few more passes",
    "rounding": "every layer solved on 256 calibration samples",
    "reconstruct": "300 steps for every block",
    "float_layers": "the noise of every grid, if it is not known yet",
    "mixed": "the noise of every grid with wide and narrow weights, then rounding",
    "qat": "epochs of training",
    "dynamic": "no pass at all",
    "weight_only": "no pass at all",
}
WITH_MORE = ("rounding", "float_layers", "mixed")
"""Rungs of which it is known that they take longer than a plain file, and not how much."""
FLOAT_LAYERS = 2
LITTLE, MOST = 0.2, 0.5
"""Shares of the noise: below `LITTLE` a cure is not worth trying, `MOST` is enough to blame a few layers."""


class Next(NamedTuple):
    """The rung to try and the reason."""

    rung: Rung
    reason: str


class Measured(NamedTuple):
    """What a budget is held against: quality on one split, bytes, milliseconds of one sample, bit operations."""

    quality: Quality
    size_bytes: int
    latency_ms: float
    bit_operations: int | None = None


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
    checks = [
        (limit, drop_title(reference), allowed, metric.drop(reference), metric.drop_unit)
        for limit, allowed, reference, metric in drops
        if reference is not None and metric is not None
    ] + [
        ("size_kb", "size", budget.size_kb, trial.size_bytes / 1000, "kB"),
        ("latency_ms", "latency", budget.latency_ms, trial.latency_ms, "ms"),
        ("bit_operations_m", "bit operations", budget.bit_operations_m, (trial.bit_operations or 0) / 1e6, "million"),
    ]
    return tuple(
        Breach(limit=limit, title=title, allowed=allowed, measured=measured, excess=measured - allowed, unit=unit)
        for limit, title, allowed, measured, unit in checks
        if allowed is not None and measured > allowed
    )


def drop_title(metric: Metric) -> str:
    """What a loss of the metric is called: "accuracy drop", "RMSE rise"."""
    return f"{metric.title} {'drop' if metric.higher_is_better else 'rise'}"


def estimate(rung: Rung, trials: Sequence[Tried], training_seconds: float | None = 0.0) -> str:
    """What a rung costs with this network, in words, with seconds where the run has measured what they can be told by.

    Args:
        trials: those before; the first without training tells how long a file takes to make and to measure.
        training_seconds: of the steps that the rung trains, at the measured pace of the student's training; None where
            that is not known.
    """
    made = next((trial.seconds for trial in trials if trial.training is None), None)
    if training_seconds is None or (made is None and not training_seconds):
        return COST[rung]
    least = "more than" if rung in WITH_MORE else "about"
    measured = " and its measurements" if made is None else ""
    return f"{COST[rung]}: {least} {(made or 0.0) + training_seconds:.0f} s{measured}"


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
        return Next(rungs[0], f"the first rung: {WHAT_IT_IS[rungs[0]]}")
    last = trials[-1]
    broken = {breach.limit: breach for breach in last.breaches}
    tried = {trial.rung for trial in trials}
    if "mixed" in rungs and "mixed" not in tried:
        if size := broken.get("size_kb"):
            return Next("mixed", f"the file is {size.excess:.1f} kB too large: {WHAT_IT_IS['mixed']}")
        if operations := broken.get("bit_operations_m"):
            return Next("mixed", f"{operations.excess:.3g} million bit operations too many: {WHAT_IT_IS['mixed']}")
    lost = [breach for breach in last.breaches if breach.of_quality]
    if not lost:
        # The budget holds, or only size or speed is missing: the files of all other rungs have the same of both.
        return None
    without = skipped(rungs, trials, budget, float_drop, evidence)
    left = [rung for rung in rungs if rung not in tried and rung not in without]
    if not left:
        return None
    reason = f"{last.rung} lost {lost[0].excess:.2f} {lost[0].unit} too many"
    for why in dict.fromkeys(why for rung, why in without.items() if rungs.index(rung) < rungs.index(left[0])):
        reason += f"; {why}"
    return Next(left[0], f"{reason}: {WHAT_IT_IS[left[0]]}")


def skipped(
    rungs: Sequence[Rung],
    trials: Sequence[Tried],
    budget: Budget,
    float_drop: float,
    evidence: SensitivityRecord | None,
) -> dict[Rung, str]:
    """The untried rungs that cannot help, and why."""
    tried = {trial.rung for trial in trials}
    allowed = budget.drop
    found: dict[Rung, str] = {}
    for rung in rungs:
        if rung in tried or rung == "qat":
            continue
        if "mixed" in tried:
            found[rung] = (
                "the file would be too large again"
                if budget.size_kb
                else "there would be too many bit operations again"
            )
        elif rung == "mixed":
            found[rung] = "the bit operations are few enough" if budget.bit_operations_m else "the file is small enough"
        elif allowed is not None and float_drop > allowed:
            # All of these bring the grids closer to float32, which is not good enough itself.
            found[rung] = f"nothing without training can help, since float32 itself loses {float_drop:.2f}"
        elif evidence is not None and (why := _cannot_help(rung, evidence, "rounding" in tried)):
            found[rung] = why
    return found


def _cannot_help(rung: Rung, evidence: SensitivityRecord, has_rounded: bool) -> str | None:
    """Why the noise of plain quantization says so; `has_rounded`: the closed form, which mends the means, was tried."""
    weights = evidence.weights_share
    if rung in ("minmax", "percentile") and 1 - weights < LITTLE:
        return f"ranges are not the cause, since activations make {100 * (1 - weights):.0f} % of the noise"
    mendable = 0.0 if has_rounded else evidence.mean_share
    if rung == "equalize" and (evidence.balanced_share or 0.0) < LITTLE and mendable < LITTLE:
        where = (
            "there are no neighbours that scales could be moved between"
            if evidence.balanced_share is None
            else f"grids that moved scales would change make {100 * evidence.balanced_share:.0f} % of the noise"
        )
        if has_rounded:
            return f"{where}, and rounding has corrected the biases already"
        return f"{where}, and {100 * evidence.mean_share:.0f} % of it is an error of the mean, which biases could mend"
    if rung in ("rounding", "reconstruct", "float_layers") and weights < LITTLE:
        return f"weights are not the cause, since they make {100 * weights:.0f} % of the noise"
    if rung == "float_layers":
        layers, share = evidence.worst_layers(FLOAT_LAYERS)
        if share < MOST:
            return f"the noise is spread over the layers: the worst {len(layers)} make {100 * share:.0f} % of it"
    return None


def best(trials: Sequence[TrialRecord]) -> TrialRecord:
    """The trial to deliver: the first that breaks nothing, else the one that breaks its limits by the least share."""
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

    The fastest of the other int8 files that is faster than every float32 file; else the float32 student, if its size is
    within the budget. None may break the limits by more than `best` does. Else `best` itself, for its size.

    Args:
        others: the int8 files of all trials and runtimes, each as a trial whose `deployed` and first runtime it is.
        float32: the student's float32 file as a trial.
    """
    limit = _overrun(best.breaches)
    fast = [trial for trial in others if _is_fast(trial) and _overrun(trial.breaches) <= limit]
    if fast:
        return min(fast, key=lambda trial: trial.runtimes[0].latency[0].p50_ms)
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


def verdict(
    budget: Budget,
    trials: Sequence[TrialRecord],
    teacher: ModelRecord,
    student: ModelRecord,
    modality: Modality = "image",
    delivered: TrialRecord | None = None,
) -> VerdictRecord:
    """How the run ended, in a sentence, with the cheapest next step where a limit is broken.

    Limits are judged on the test set here; the ladder was steered by the validation split.

    Args:
        trials: the attempts, each with the file of the first runtime.
        delivered: what was delivered instead of the best of them; see `fall_back`.
    """
    wanted = best(trials)
    chosen = delivered or wanted
    broken = chosen.test_breaches
    cost = chosen.deployed.cost
    assert cost is not None
    facts = (
        f"{chosen.deployed.test.primary.in_words} on the test set, {cost.size_bytes / 1000:.1f} kB,"
        f" {cost.at_batch(1).p50_ms:.3f} ms for {ONE[modality]}"
    )
    if not budget.limits:
        sentence = f"No budget was set. The {chosen.rung} file: {facts}."
    elif not broken:
        sentence = f"The budget holds: the {chosen.rung} file gives {facts}."
    else:
        over = " and ".join(f"{breach.title} by {breach.excess:.3g} {breach.unit}" for breach in broken)
        sentence = f"The budget is missed: {over}. The best file found ({chosen.rung}) gives {facts}."
        if not chosen.breaches:
            sentence += " On the validation split, which steers the ladder, every limit held."
    sentence += _about_speed(wanted, chosen)
    trained = any(trial.training is not None for trial in trials)
    worst = _worst(broken) if broken else None
    step = _next_step(trained, worst, _float_drop(worst, teacher, student)) if worst else None
    return VerdictRecord(met=not broken, chosen=chosen.rung, breaches=broken, sentence=sentence, next_step=step)


def _about_speed(wanted: TrialRecord, delivered: TrialRecord) -> str:
    """What has to be said where int8 did not measure faster than float32; empty where it did.

    Turns that two files take side by side are compared one by one: their mean ratio may differ from that of the medians
    over all calls, which the tables show. Both are said.
    """
    speed = _speed(wanted)
    if speed is None or speed.ratio >= 1:
        return ""
    own = wanted.runtimes[0]
    medians = " → ".join(f"{entries[0].p50_ms:.3f}" for entries in (own.float_latency, own.latency))
    measured = f"medians {medians} ms; turn by turn {1 / speed.ratio:.2f} times its time"
    if speed.verdict != "slower":
        return (
            f" In {own.runtime} int8 did not measure faster than its own float32 file ({measured}, within the noise):"
            " it is small, not fast."
        )
    assert speed.interval is not None
    low, high = (1 / end for end in speed.interval[::-1])
    sentence = (
        f" In {own.runtime} the {wanted.rung} int8 file measured slower than its own float32 file ({measured}, 95 %"
        f" interval {low:.2f} to {high:.2f})"
    )
    if delivered.rung == FLOAT32:
        return f"{sentence}, and no other int8 file is faster than float32: the float32 student is delivered."
    own = delivered.runtimes[0]
    if own.file == wanted.runtimes[0].file:
        return f"{sentence}: it is small, not fast, and delivered for its size alone."
    faster = own.speed.ratio if own.speed else 1.0
    return (
        f"{sentence}; delivered is the {delivered.rung} file for {own.runtime}, {faster:.2f} times faster than float32"
        " there."
    )


def _worst(broken: Sequence[Breach]) -> Breach:
    return max(broken, key=lambda breach: breach.excess / max(abs(breach.allowed), 1e-3))


def _float_drop(breach: Breach, teacher: ModelRecord, student: ModelRecord) -> float:
    """What the float32 student alone loses on the test set of the metric that a breach is of."""
    reference, own = (network.column("float32").test for network in (teacher, student))
    name = breach.limit.removeprefix("metrics.") if breach.limit != "drop" else own.primary.name
    before, after = reference.metric(name), own.metric(name)
    return after.drop(before) if before and after else 0.0


def _next_step(trained: bool, worst: Breach, float_drop: float) -> str:
    """The cheapest thing that is likely to mend the worst breach.

    Args:
        trained: quantization-aware training was tried.
        float_drop: what the student loses in float32 already, where the breach is of a metric.
    """
    if worst.limit == "size_kb":
        return (
            f"Make the student smaller: the file is {worst.measured / worst.allowed:.2f} times the limit; lower its"
            " width or the channels of its head (student.options)."
        )
    if worst.limit == "bit_operations_m":
        return (
            f"Make the student cheaper: it takes {worst.measured / worst.allowed:.2f} times the bit operations; lower"
            " its width or raise a stride earlier in the network (student.options)."
        )
    if worst.limit == "latency_ms":
        return (
            f"Make the student cheaper: it takes {worst.measured / worst.allowed:.2f} times the limit; lower its width,"
            " raise a stride earlier in the network, or allow more threads (measure.threads)."
        )
    if float_drop > worst.allowed:
        return (
            f"Train the student longer or make it wider: its float32 alone is {float_drop:.2f} {worst.unit} worse than"
            f" the teacher, quantization adds {worst.measured - float_drop:.2f} (student.training.epochs,"
            " student.options)."
        )
    if not trained:
        return 'Put "qat" first in quantize.rungs: float32 alone is within the limit, quantization costs the rest.'
    return "Train longer on the grids (quantize.training.epochs): the float32 student is within the limit."
