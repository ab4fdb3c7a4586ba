"""The sentences of a verdict, from records alone."""

from collections.abc import Mapping, Sequence

from distiq.records.models import ModelRecord
from distiq.records.record import ONE, Modality
from distiq.records.run import DropRecord
from distiq.records.trials import FLOAT32, Breach, TrialRecord


def verdict_sentence(
    limits: Mapping[str, object],
    modality: Modality,
    best: TrialRecord,
    delivered: TrialRecord,
    drop: DropRecord | None = None,
) -> str:
    """How the run ended.

    Limits are judged on the test set here; the ladder was steered by the validation split.

    Args:
        limits: of the budget, those that are set.
        best: of the int8 files in the first runtime. delivered: it, or what was delivered instead.
        drop: what the delivered file loses against the teacher, with its interval.
    """
    broken, cost = delivered.test_breaches, delivered.deployed.cost
    assert cost is not None
    facts = (
        f"{delivered.deployed.test.primary.in_words} on the test set, {cost.size_bytes / 1000:.1f} kB,"
        f" {cost.at_batch(1).p50_ms:.3f} ms for {ONE[modality]}"
    )
    if not limits:
        sentence = f"No budget was set. The {delivered.rung} file: {facts}."
    elif not broken:
        sentence = f"The budget holds: the {delivered.rung} file gives {facts}."
    else:
        over = " and ".join(f"{breach.title} by {breach.excess:.3g} {breach.unit}" for breach in broken)
        sentence = f"The budget is missed: {over}. The best file found ({delivered.rung}) gives {facts}."
        if not delivered.breaches:
            sentence += " On the validation split, which steers the ladder, every limit held."
    return sentence + _about_chance(drop) + _about_speed(best, delivered)


def _about_chance(drop: DropRecord | None) -> str:
    """Whether other test samples could have decided otherwise about the loss against the teacher."""
    if drop is None or drop.allowed is None or not drop.within_chance:
        return ""
    low, high = drop.interval
    said = f"the {drop.title} is {drop.value:.2f} {drop.unit}, its 95 % interval {low:.2f} to {high:.2f}"
    is_met = drop.value <= drop.allowed
    return f" {'Met' if is_met else 'Missed'}, but not beyond chance: {said}, and {drop.allowed:g} is allowed."


def _about_speed(best: TrialRecord, delivered: TrialRecord) -> str:
    """A sentence where int8 did not measure faster than float32; empty where it did.

    Turns that two files take side by side are compared one by one: their mean ratio may differ from that of the medians
    over all calls, which the tables show. The sentence gives both.
    """
    speed = best.runtimes[0].speed if best.runtimes else None
    if speed is None or speed.ratio >= 1:
        return ""
    own = best.runtimes[0]
    medians = " → ".join(f"{entries[0].p50_ms:.3f}" for entries in (own.float_latency, own.latency))
    measured = f"medians {medians} ms; turn by turn {1 / speed.ratio:.2f} times its time"
    if speed.verdict != "slower":
        return (
            f" In {own.runtime} {best.form} did not measure faster than its own float32 file ({measured}, within the"
            " noise): it is small, not fast."
        )
    assert speed.interval is not None
    low, high = (1 / limit for limit in speed.interval[::-1])
    name = best.rung if best.form == best.rung else f"{best.rung} int8"
    sentence = (
        f" In {own.runtime} the {name} file measured slower than its own float32 file ({measured}, 95 % interval"
        f" {low:.2f} to {high:.2f})"
    )
    if delivered.rung == FLOAT32:
        return f"{sentence}, and no other int8 file is faster than float32: the float32 student is delivered."
    own = delivered.runtimes[0]
    if own.file == best.runtimes[0].file:
        return f"{sentence}: it is small, not fast, and delivered for its size alone."
    is_faster = own.speed is not None and own.speed.verdict == "faster"
    if not is_faster and own.float_size_bytes is not None:
        return (
            f"{sentence}; delivered is the {delivered.rung} file for {own.runtime}, as fast as float32 there and"
            f" {own.float_size_bytes / own.size_bytes:.2f} times smaller."
        )
    faster = own.speed.ratio if own.speed else 1.0
    return (
        f"{sentence}; delivered is the {delivered.rung} file for {own.runtime}, {faster:.2f} times faster than float32"
        " there."
    )


def _float_drop(breach: Breach, teacher: ModelRecord, student: ModelRecord) -> float:
    """How much of the breached metric the float32 student alone loses on the test set."""
    reference, own = (network.column("float32").test for network in (teacher, student))
    name = breach.limit.removeprefix("metrics.") if breach.limit != "drop" else own.primary.name
    before, after = reference.metric(name), own.metric(name)
    return after.drop(before) if before and after else 0.0


def next_step(
    broken: Sequence[Breach], teacher: ModelRecord, student: ModelRecord, untried_training: str
) -> str | None:
    """The cheapest change that is likely to mend the worst breach; None where nothing is broken.

    Args:
        untried_training: the rung that trains, where it was not tried; else empty.
    """
    if not broken:
        return None
    worst = max(broken, key=lambda breach: breach.excess / max(abs(breach.allowed), 1e-3))
    float_drop = _float_drop(worst, teacher, student)
    if worst.limit == "size_kb":
        return (
            f"Make the student smaller: the file is {worst.measured / worst.allowed:.2f} times the limit; lower its"
            " width or the channels of its head (student.options)."
        )
    if worst.limit == "flash_kb":
        return (
            f"Make the student smaller: it takes {worst.measured / worst.allowed:.2f} times the flash; lower its width"
            " or the channels of its head (student.options)."
        )
    if worst.limit == "ram_kb":
        return (
            f"Make the student's feature maps smaller: it takes {worst.measured / worst.allowed:.2f} times the RAM;"
            " raise the stride of its first layers, or lower their width (student.options)."
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
    if untried_training:
        return (
            f'Put "{untried_training}" first in quantize.rungs: float32 alone is within the limit, quantization costs'
            " the rest."
        )
    return "Train the quantized network longer (quantize.training.epochs): the float32 student is within the limit."
