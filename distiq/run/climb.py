"""The attempts at an int8 file: rung by rung, each kept with its file, until the budget holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distiq.data.splits import Data
from distiq.quantization.scheme import Scheme
from distiq.recipe.recipe import Recipe
from distiq.recipe.target import target
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.trials import FloatModulesRecord
from distiq.run import ladder
from distiq.run.evidence import float_modules, noise_of
from distiq.run.ledger import Ledger
from distiq.run.measure import MeasuredNetwork
from distiq.run.narrow import Situation
from distiq.run.rungs import Rung, rung_named, rungs_of
from distiq.run.train import TrainedNetwork
from distiq.run.trial import Lesson, QuantizedRecord, Trial, quantize_student

CLEARLY_FASTER = 0.85  # of float32's time: each file is timed alone, with a few percent of noise


@dataclass(frozen=True)
class Climbed:
    """The trials of a run, in order, and what was learned on the way.

    Args:
        evidence: where the noise of plain quantization comes from, if a rung needed to know.
        skipped: why a rung was not tried. estimates: what each rung costs, as estimated before it was tried.
    """

    trials: tuple[Trial, ...]
    float_modules: FloatModulesRecord | None
    evidence: SensitivityRecord | None
    skipped: Mapping[str, str]
    estimates: dict[str, str]


def climb(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    source: TrainedNetwork,
    reference: MeasuredNetwork,
    student: MeasuredNetwork,
) -> Climbed:
    """Tries the rungs in order until the budget holds or none that is left can help.

    Args:
        source: the student's teacher, which teaches the quantized student, too.
        reference: the teacher, against which the budget is judged.
    """
    budget, rungs = recipe.budget, rungs_of(recipe.quantize, recipe.export.integer_io, recipe.measure.runtimes)
    modules = float_modules(ledger, data, student, recipe.quantize.float_modules, plain_scheme(recipe, None))
    plain = plain_scheme(recipe, modules)
    float_drop = student.scores.validation.primary.drop(reference.scores.validation.primary)
    trials: list[Trial] = []
    evidence: SensitivityRecord | None = None
    estimates: dict[str, str] = {}

    def noise(scheme: Scheme) -> SensitivityRecord:
        return noise_of(ledger, data, student, scheme, recipe.seed)

    def following() -> ladder.Next | None:
        if found := ladder.next_rung(rungs, trials, budget, float_drop, evidence):
            return found
        may_be_slower = recipe.quantize.fall_back and not _is_faster(trials[-1], student)
        return ladder.as_fast_as_float(rungs, trials) if may_be_slower else None

    while found := following():
        rung = found.rung
        estimates[rung.name] = _estimate(rung, recipe, data, student, trials)
        if evidence is None and rung.needs_evidence:
            evidence = noise(plain)
        first = trials[0].made if trials else None
        now = Situation(recipe, data, student, plain, start_of(plain, trials), first, evidence, noise, ledger.watch)
        title, scheme = f"{rung.name}: {rung.what} ({estimates[rung.name]})", rung.scheme(now)
        lesson = _lesson(recipe, source) if rung.trains else None
        step, files = quantize_student(ledger, recipe, data, rung.name, title, scheme, student, reference, lesson)
        breaches = ladder.judge(budget, reference.scores.validation, standing(step.record))
        trials.append(Trial(rung.name, found.reason, scheme, step.record, files, step.seconds, breaches))
        ledger.watch.note(_summary(trials[-1]))
        if evidence is None and not rung.in_float and any(breach.of_quality for breach in breaches):
            evidence = noise(plain)
    skipped = ladder.skipped(rungs, trials, budget, float_drop, evidence) if trials[-1].breaches else {}
    for rung in rungs:
        estimates.setdefault(rung.name, _estimate(rung, recipe, data, student, trials))
    return Climbed(tuple(trials), modules, evidence, skipped, estimates)


def start_of(plain: Scheme, trials: Sequence[Trial]) -> Scheme:
    """The scheme of integers that a costly rung starts from: the best without training, or narrowed weights if any are
    there."""
    untrained = [trial for trial in trials if trial.training is None and not rung_named(trial.rung).in_float]
    narrowed = [trial for trial in untrained if rung_named(trial.rung).narrows]
    return max(narrowed or untrained, key=lambda trial: trial.sqnr_db).scheme if untrained else plain


def _is_faster(trial: Trial, student: MeasuredNetwork) -> bool:
    """Whether a trial's file took clearly less than the float32 file of the first runtime, each timed alone."""
    assert student.cost is not None
    own, plain = (cost.timed("", cost.alone).at_batch(1).p50_ms for cost in (trial.made.cost, student.cost))
    return own < CLEARLY_FASTER * plain


def standing(made: QuantizedRecord) -> ladder.Measured:
    """What a trial is judged by during the climb: the validation split, and the latency of its file timed alone."""
    cost = made.cost
    return ladder.Measured(
        made.deployed.scores.validation, cost.size_bytes, cost.timed("", cost.alone).at_batch(1).p50_ms,
        made.bit_operations, cost.flash_bytes, cost.ram_bytes,
    )  # fmt: skip


def _summary(trial: Trial) -> str:
    broken = ", ".join(f"{breach.title} by {breach.excess:.3g} {breach.unit}" for breach in trial.breaches)
    return (
        f"{trial.made.deployed.scores.test.primary.in_words} on the test set; on the validation split"
        f" {'misses ' + broken if broken else 'every limit holds'}"
    )


def _estimate(rung: Rung, recipe: Recipe, data: Data, student: MeasuredNetwork, trials: Sequence[Trial]) -> str:
    """The estimated cost of a rung, in words."""
    samples = rung.samples(recipe, data)
    taught = student.trained.step.record.training
    seconds = samples * taught.seconds / (taught.steps * recipe.student.training.batch_size) if taught else None
    return ladder.estimate(rung, trials, seconds if samples else 0.0)


def _lesson(recipe: Recipe, source: TrainedNetwork) -> Lesson:
    settings, smoothing = recipe.distil.for_qat(), recipe.student.training.label_smoothing
    taught_by = source if settings.teacher != "none" else None
    quantize = recipe.quantize
    return Lesson(taught_by, settings, quantize.training, smoothing, recipe.views, quantize.learn_ranges)


def plain_scheme(recipe: Recipe, decided: FloatModulesRecord | None) -> Scheme:
    """The scheme that every rung of a run starts from.

    Args:
        decided: which modules stay in float32.
    """
    settings, profile = recipe.quantize, target(recipe.quantize.target)
    return Scheme(
        settings.weight_bits,
        settings.activation_bits,
        float_modules=decided.paths if decided and decided.kept else (),
        reduce_range=settings.reduce_range,
        mode=settings.mode,
        group_size=settings.group_size,
        integer_io=recipe.export.integer_io,
        attention=settings.attention,
        wide_modules=settings.wide_modules,
        symmetric_activations=profile is not None and profile.symmetric_activations,
    )
