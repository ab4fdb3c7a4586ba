"""What to try next, why, and when to stop. It decides; it never trains or measures."""

from collections.abc import Sequence
from typing import NamedTuple

from distiq.recipe import Budget, Rung
from distiq.records import Breach, ModelRecord, TrialRecord, VerdictRecord

WHAT_IT_IS: dict[Rung, str] = {
    "static": "post-training quantization with min-max ranges",
    "percentile": "post-training quantization, ranges without outliers",
    "mse": "post-training quantization, ranges of least squared error",
    "rounding": "closed-form rounding of the weights, layer by layer, with corrected biases",
    "qat": "quantization-aware training with the teacher",
}


class Next(NamedTuple):
    """The rung to try and the reason."""

    rung: Rung
    reason: str


def judge(budget: Budget, teacher_top1: float, top1: float, size_bytes: int, latency_ms: float) -> tuple[Breach, ...]:
    """The limits that do not hold. Accuracies are fractions of 1 on the same samples."""
    drop = round(100 * (teacher_top1 - top1), 9)  # 100 * (0.92 - 0.91) is a little more than 1
    checks = (
        ("accuracy_drop_points", budget.accuracy_drop_points, drop, "points"),
        ("size_kb", budget.size_kb, size_bytes / 1000, "kB"),
        ("latency_ms", budget.latency_ms, latency_ms, "ms"),
    )
    return tuple(
        Breach(limit=limit, allowed=allowed, measured=measured, excess=measured - allowed, unit=unit)
        for limit, allowed, measured, unit in checks
        if allowed is not None and measured > allowed
    )


def next_rung(
    rungs: Sequence[Rung], trials: Sequence[TrialRecord], budget: Budget, float_drop_points: float
) -> Next | None:
    """The next attempt, or None when the budget holds or nothing that is left can help.

    Args:
        float_drop_points: what the float32 student loses against the teacher on the validation split.
    """
    if not trials:
        return Next(rungs[0], f"the first rung: {WHAT_IT_IS[rungs[0]]}")
    last = trials[-1]
    accuracy = [breach for breach in last.breaches if breach.limit == "accuracy_drop_points"]
    if not accuracy or budget.accuracy_drop_points is None:
        # The budget holds, or only size or speed is missing: every rung's file has the same of both.
        return None
    tried = {trial.rung for trial in trials}
    left = [rung for rung in rungs if rung not in tried]
    reason = f"{last.rung} lost {accuracy[0].excess:.2f} points too many"
    if float_drop_points > budget.accuracy_drop_points:
        # Ranges bring the grid closer to float32, which is not good enough itself; only training can pass it.
        skipped = [rung for rung in left if rung != "qat"]
        left = [rung for rung in left if rung == "qat"]
        if skipped:
            reason += f"; nothing without training can help, since float32 itself loses {float_drop_points:.2f}"
    return Next(left[0], f"{reason}: {WHAT_IT_IS[left[0]]}") if left else None


def best(trials: Sequence[TrialRecord]) -> TrialRecord:
    """The trial to deliver: the first that breaks nothing, else the one that breaks its limits by the least share."""
    kept = [trial for trial in trials if not trial.breaches]
    if kept:
        return kept[0]
    return min(trials, key=lambda trial: (_overrun(trial.breaches), -trial.deployed.validation.top1))


def _overrun(breaches: Sequence[Breach]) -> float:
    return sum(breach.excess / max(abs(breach.allowed), 1e-3) for breach in breaches)


def verdict(budget: Budget, trials: Sequence[TrialRecord], teacher: ModelRecord, student: ModelRecord) -> VerdictRecord:
    """How the run ended, in a sentence, with the cheapest next step where a limit is broken.

    Limits are judged on the test set here; the ladder was steered by the validation split.
    """
    chosen = best(trials)
    broken = chosen.test_breaches
    cost = chosen.deployed.cost
    assert cost is not None
    asked = any(value is not None for value in budget.model_dump().values())
    top1, float_top1 = chosen.deployed.test.top1, student.column("float32").test.top1
    facts = (
        f"{100 * top1:.2f} % of the test set, {cost.size_bytes / 1000:.1f} kB,"
        f" {cost.at_batch(1).p50_ms:.3f} ms an image"
    )
    if not asked:
        sentence = f"No budget was set. The {chosen.rung} file: {facts}."
    elif not broken:
        sentence = f"The budget holds: the {chosen.rung} file gives {facts}."
    else:
        over = " and ".join(f"{breach.limit} by {breach.excess:.3g} {breach.unit}" for breach in broken)
        sentence = f"The budget is missed: {over}. The best file found ({chosen.rung}) gives {facts}."
        if not chosen.breaches:
            sentence += " On the validation split, which steers the ladder, every limit held."
    if chosen.runtimes and (gain := chosen.runtimes[0].gain()) is not None and gain < 1:
        sentence += f" The int8 file is {1 / gain:.2f} times slower than its own float32 file: it is small, not fast."
    trained = any(trial.training is not None for trial in trials)
    step = _next_step(trained, broken, teacher.column("float32").test.top1, float_top1) if broken else None
    return VerdictRecord(met=not broken, chosen=chosen.rung, breaches=broken, sentence=sentence, next_step=step)


def _next_step(trained: bool, broken: Sequence[Breach], teacher_top1: float, float_top1: float) -> str:
    """The cheapest thing that is likely to mend the worst breach.

    Args:
        trained: training on the grids was tried.
    """
    worst = max(broken, key=lambda breach: breach.excess / max(abs(breach.allowed), 1e-3))
    if worst.limit == "size_kb":
        return (
            f"Make the student smaller: the file is {worst.measured / worst.allowed:.2f} times the limit; lower its"
            " width or the channels of its head (student.options)."
        )
    if worst.limit == "latency_ms":
        return (
            f"Make the student cheaper: it takes {worst.measured / worst.allowed:.2f} times the limit; lower its width,"
            " raise a stride earlier in the network, or allow more threads (measure.threads)."
        )
    float_drop, total = 100 * (teacher_top1 - float_top1), worst.measured
    if float_drop > worst.allowed:
        return (
            f"Train the student longer or make it wider: its float32 alone is {float_drop:.2f} points below the"
            f" teacher, quantization adds {total - float_drop:.2f} (student.training.epochs, student.options)."
        )
    if not trained:
        return 'Put "qat" first in quantize.rungs: float32 alone is within the limit, quantization costs the rest.'
    return "Train longer on the grids (quantize.training.epochs): the float32 student is within the limit."
