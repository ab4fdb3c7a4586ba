"""diagnose(run): why did accuracy drop? The field's checklist for quantized networks, as an algorithm.

It looks at the best int8 file of the run: the delivered one, unless another kind was delivered in its place.
After Nagel et al. 2021, "A white paper on neural network quantization" (arXiv:2106.08295), section 3.6 and figure 4.8.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq.bundle.open import PREPROCESSING, Bundle
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.evaluation.evaluate import outputs
from distiq.numerics import drawn, sqnr_db
from distiq.progress import Watch
from distiq.quantization.fake_quantize import ActivationFakeQuantize
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.ranges import activation_range, percentile_range
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import SAMPLES, enough, quantized_tensors, sensitivity
from distiq.recipe.read import read_recipe
from distiq.recipe.recipe import Recipe
from distiq.records.diagnosis import DiagnosisRecord, FindingRecord
from distiq.records.run import RunRecord
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.trials import INT8, TrialRecord
from distiq.report.reading import chosen_trial, read_run
from distiq.run.climb import plain_scheme
from distiq.run.ladder import best
from distiq.run.ledger import Ledger
from distiq.run.measure import LOGITS
from distiq.run.networks import build_network
from distiq.run.prepare import with_task
from distiq.run.rungs import FLOAT_LAYERS, MOST, RUNGS, Cause, Rung, is_worth, training_rung
from distiq.run.train import WEIGHTS
from distiq.tasks.choose import task_of

NEGLIGIBLE_POINTS = 0.1
SAME_PREDICTIONS = 0.999
OUTLIER = 4.0  # a range so many times as wide as what 99.9 % of the values need
BETTER_DB = 3.0
NOTHING: tuple[str, ...] = ()


BY_RANGES = tuple(rung for rung in RUNGS if rung.ranges is not None)
"""Rungs that differ in how they find ranges."""


def diagnose(run: Path, watch: Watch | None = None, trust: bool = False) -> DiagnosisRecord:
    """Looks for the cause of the best int8 file's loss and keeps the diagnosis in the run's records.

    Args:
        run: the folder of a finished run; its networks are loaded, nothing is trained.
        trust: run the code that its recipe names, if it names some; see `Recipe.code`.

    Raises:
        UserError: the run is not finished, names code and is not trusted, or another process writes there.
    """
    if not (run / "records" / "run.json").is_file():
        raise UserError(f"{run}: no finished run; `distiq run RECIPE --run {run}` makes one")
    with Ledger(run, watch) as ledger:
        if (code := recipe_of(run).code()) and not trust:
            raise UserError(
                f"{run}: its recipe runs code: {', '.join(code)}; look whether you trust it, then say so (--trust)"
            )
        case = read_case(ledger)
        findings = [finding for check in CHECKS for finding in check(case)]
        record = _diagnosis(case, findings)
        record.save(ledger.records / "diagnosis.json")
        return record


def recipe_of(run: Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a finished run, as its record holds it."""
    return read_recipe(read_run(run / "records").recipe_toml.encode(), str(run / "records" / "run.json"), overrides)


@dataclass(frozen=True)
class Finding:
    """A check that was made; `cause` and `cure` apply if it is suspect."""

    check: str
    suspect: bool
    text: str
    cause: str
    cure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """The student of a finished run with everything that the checks look at.

    Args:
        calibration, validation: normalized inputs; at most as many of the latter as of the former.
        trial: that of the best int8 file. rung: the one whose ranges are examined.
        quantized: the student, by the scheme of that rung. noise: that of each of its tensors quantized alone.
    """

    folder: Path
    run: RunRecord
    recipe: Recipe
    data: Data
    student: nn.Module
    calibration: Tensor
    validation: Tensor
    trial: TrialRecord
    rung: Rung
    scheme: Scheme
    quantized: QuantizedModel
    noise: SensitivityRecord


def read_case(ledger: Ledger) -> Case:
    """What the checks look at, from the run's records, its data and its student's weights.

    Raises:
        UserError: the data is no longer that of the run, or a part of the run is missing.
    """
    run = read_run(ledger.records)
    recipe = recipe_of(ledger.folder)
    _refuse_others(ledger.folder, run, recipe)
    ledger.watch.stage("reading data and student")
    data = with_task(load_data(recipe.data, recipe.seed, ledger.cache, ledger.watch), recipe.task)
    if data.record().digest != run.data.digest:
        raise UserError(f"{recipe.data.source}: the data is no longer that of the run; restore it")
    student = load_student(ledger.folder, run, recipe, data)
    calibration = data.normalize(data.calibration.inputs)
    trial = chosen_trial(run)
    if trial.form != INT8:
        trial = best([other for other in run.trials if other.form == INT8])
    # Rounding and training leave no float32 weights to compare with: then the plain ranges are looked at.
    rung = next((rung for rung in BY_RANGES if rung.name == trial.rung), BY_RANGES[0])
    assert rung.ranges is not None
    scheme = replace(plain_scheme(recipe, run.float_modules), ranges=rung.ranges, percentile=recipe.quantize.percentile)
    quantized = quantize(student, calibration, scheme)
    looked_at = calibration[drawn(len(calibration), enough(calibration[0].numel()))]
    ledger.watch.stage("quantizing every tensor alone")
    return Case(
        ledger.folder,
        run,
        recipe,
        data,
        student,
        calibration,
        data.normalize(data.validation.drawn(len(calibration)).inputs),
        trial,
        rung,
        scheme,
        quantized,
        sensitivity(quantized, looked_at, rung.name, ledger.watch, task_of(data)),
    )


def _refuse_others(folder: Path, run: RunRecord, recipe: Recipe) -> None:
    settings = recipe.quantize
    if settings.mode != "static" or settings.activation_bits != 8:
        raise UserError(
            f"{folder}: its scheme is {run.trials[0].scheme}; diagnose looks for the causes of static int8 alone;"
            ' nearest: the same recipe with quantize.mode = "static" and activation_bits = 8'
        )
    if all(trial.form != INT8 for trial in run.trials):
        raise UserError(f"{folder}: the run made no int8 file to look at; add a rung of integers to quantize.rungs")


def load_student(folder: Path, run: RunRecord, recipe: Recipe, data: Data) -> nn.Module:
    """The float32 student of a finished run.

    Raises:
        UserError: it was handed in from Python, or its step is gone.
    """
    teacher = build_network(recipe, data, "teacher").module if recipe.student.is_cut else None
    student = build_network(recipe, data, "student", teacher=teacher).module
    try:
        student.load_state_dict(load_file(_step(folder, run, "student") / WEIGHTS))
    except RuntimeError:
        raise UserError(
            f"{folder}: the run's student was handed in from Python and is not the recipe's; use"
            " distiq.quantization.sensitivity on the network itself"
        ) from None
    return student.eval()


def _step(folder: Path, run: RunRecord, name: str) -> Path:
    """The folder of a step of the run."""
    step = folder / "steps" / run.steps.get(name, name)
    if not step.is_dir():
        raise UserError(f"{step}: this step of the run is gone; `distiq run RECIPE` again makes it")
    return step


def _diagnosis(case: Case, findings: Sequence[Finding]) -> DiagnosisRecord:
    """The record of the findings; the first that is suspect names the cause, if there is a loss to explain."""
    lost = case.trial.deployed.test.primary.drop(case.run.teacher.column("float32").test.primary)
    if lost <= NEGLIGIBLE_POINTS:
        cause, cure = f"Nothing to explain: the file loses {lost:.2f} {_unit(case)} against the teacher.", NOTHING
    else:
        first = next(finding for finding in findings if finding.suspect)
        cause, cure = first.cause, first.cure
    return DiagnosisRecord(
        rung=case.trial.rung,
        basis=case.run.basis,
        step=case.run.steps.get(f"trial-{case.trial.rung}", ""),
        findings=tuple(
            FindingRecord(check=finding.check, suspect=finding.suspect, text=finding.text) for finding in findings
        ),
        cause=cause,
        cure=cure,
        sensitivity=case.noise,
    )


# The checks, in their order -------------------------------------------------------------------------------------------


def _unit(case: Case) -> str:
    """The unit of what is lost."""
    return case.trial.deployed.test.primary.drop_unit


def _float_student(case: Case) -> Iterator[Finding]:
    teacher, student = (model.column("float32").test.primary for model in (case.run.teacher, case.run.student))
    before, after = student.drop(teacher), case.trial.deployed.test.primary.drop(student)
    yield Finding(
        "float32 student",
        before > max(after, NEGLIGIBLE_POINTS),
        f"float32 loses {before:.2f} {_unit(case)} against the teacher, quantization another {after:.2f}",
        f"Most of the loss is there before quantization: the float32 student is {before:.2f}"
        f" {_unit(case)} worse than its teacher. Train it longer or make it wider.",
        (f"student.training.epochs={2 * case.recipe.student.training.epochs}",),
    )


def _float_file(case: Case) -> Iterator[Finding]:
    stored = load_file(_step(case.folder, case.run, "student-float32") / LOGITS)["validation"]
    same = task_of(case.data).agreement(stored, outputs(case.student, case.data, case.data.validation))
    yield Finding(
        "float32 file",
        same < SAME_PREDICTIONS,
        f"the exported float32 file predicts what PyTorch does on {100 * same:.2f} % of the validation samples",
        f"The export is at fault: the float32 file already predicts otherwise on {100 * (1 - same):.2f} % of the"
        " samples.",
    )


def _preprocessing(case: Case) -> Iterator[Finding]:
    folder = case.folder / "bundle"
    if not (folder / PREPROCESSING).is_file():
        return
    raw = case.data.preprocessing.raw_name
    if not raw:
        return  # rows and texts are encoded once, when they are read
    bundle = Bundle(folder)
    vectors = bundle.vectors()
    difference = float((bundle.normalize(vectors[raw]).float() - vectors["inputs"].float()).abs().max())
    yield Finding(
        "preprocessing",
        difference > 1e-4,
        f"the bundle's preprocessing gives the training's inputs to within {difference:.1g}",
        f"The bundle prepares its inputs otherwise than the training did (by up to {difference:.3g}).",
    )


def _deployment(case: Case) -> Iterator[Finding]:
    same = case.trial.agreement
    yield Finding(
        "runtime",
        same < SAME_PREDICTIONS,
        f"the deployed file predicts what its simulation does on {100 * same:.2f} % of the test samples",
        f"The runtime computes otherwise than the simulation on {100 * (1 - same):.2f} % of the samples.",
    )


def _calibration(case: Case) -> Iterator[Finding]:
    """Would other samples have given better ranges? Judged on samples that neither has seen."""
    is_seen = torch.zeros(len(case.validation), dtype=torch.bool)
    is_seen[drawn(len(is_seen), len(is_seen) // 2)] = True
    seen, unseen = case.validation[is_seen], case.validation[~is_seen]
    other = quantize(case.student, seen, case.scheme)
    reference = _logits(case, case.student, unseen)
    now, then = (sqnr_db(reference, _logits(case, model, unseen)) for model in (case.quantized, other))
    yield Finding(
        "calibration",
        then - now > BETTER_DB,
        f"{now:.1f} dB on held-out validation samples; calibrated on validation samples it would be {then:.1f} dB",
        f"The calibration samples are drawn from elsewhere than the validation samples: calibrated on the latter,"
        f" the noise falls by {then - now:.1f} dB. Hold out more samples for calibration.",
        (f"data.calibration={2 * case.recipe.data.calibration}",),
    )


def _ranges(case: Case) -> Iterator[Finding]:
    """Would wider or narrower ranges have been better? Judged on samples that calibration has not seen."""
    reference, sqnr = _logits(case, case.student, case.validation), dict[str, float]()
    for rung in BY_RANGES:
        assert rung.ranges is not None
        other = quantize(case.student, case.calibration, replace(case.scheme, ranges=rung.ranges))
        sqnr[rung.name] = sqnr_db(reference, _logits(case, other, case.validation))
    most = max(BY_RANGES, key=lambda rung: sqnr[rung.name])
    gain = sqnr[most.name] - sqnr[case.rung.name]
    yield Finding(
        "ranges",
        gain > BETTER_DB,
        "held-out validation samples, by range: " + ", ".join(f"{name} {db:.1f} dB" for name, db in sqnr.items()),
        f'The ranges do not fit: with those of "{most.name}" the noise falls by {gain:.1f} dB ({most.because}).',
        cure_by(case, most),
    )


def _outliers(case: Case) -> Iterator[Finding]:
    """Are there ranges that a few values stretch?"""
    ratios = _stretched(case.student, case.calibration, case.scheme)
    place, ratio = max(ratios.items(), key=lambda entry: entry[1])
    share = 1 - case.noise.weights_share
    yield Finding(
        "range outliers",
        ratio > OUTLIER and share > MOST,
        f'the widest range, behind "{place}", is {ratio:.1f} times what 99.9 % of its values need',
        f'A few outliers stretch the range behind "{place}" to {ratio:.1f} times what 99.9 % of the values need,'
        f" and activations make {100 * share:.0f} % of the noise.",
        cure_by(case, *_against("outliers")),
    )


def _one_layer(case: Case) -> Iterator[Finding]:
    layers, share = case.noise.worst_layers(FLOAT_LAYERS)
    names = " and ".join(f'"{layer}"' for layer in layers)
    yield Finding(
        "single layers",
        share > MOST and case.noise.weights_share > MOST,
        f"the weights of {names} make {100 * share:.0f} % of the noise of all weights",
        f"The weights of {names} make {100 * share:.0f} % of the noise of all weights.",
        cure_by(case, *_against("single layers")),
    )


def _weights_or_activations(case: Case) -> Iterator[Finding]:
    weights, activations = case.noise.weights.sqnr_db, case.noise.activations.sqnr_db
    share = case.noise.weights_share
    blame: Cause = "weights" if share > MOST else "activations"
    part = 100 * max(share, 1 - share)
    yield Finding(
        "weights or activations",
        True,  # it must be one of the two
        f"weights alone {weights:.1f} dB, activations alone {activations:.1f} dB",
        f"The noise comes mostly from {blame} ({part:.0f} %) and is spread over the network.",
        cure_by(case, *_against(blame)),
    )


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _float_student, _float_file, _preprocessing, _deployment, _calibration, _ranges, _outliers, _one_layer,
    _weights_or_activations,
)  # fmt: skip


def _against(cause: Cause) -> tuple[Rung, ...]:
    return tuple(rung for rung in RUNGS if cause in rung.cures)


def cure_by(case: Case, *rungs: Rung) -> tuple[str, ...]:
    """The cure: to climb those of these rungs that the run has not tried, else quantization-aware training, or more of
    it."""
    tried = {trial.rung for trial in case.run.trials}
    runtimes = case.recipe.measure.runtimes
    left = [rung.name for rung in rungs if rung.name not in tried and is_worth(rung, runtimes)]
    if not left and training_rung() in tried:
        return (f"quantize.training.epochs={2 * case.recipe.quantize.training.epochs}",)
    return (f"quantize.rungs={json.dumps(left or [training_rung()])}",)


@torch.no_grad()
def _logits(case: Case, model: nn.Module, samples: Tensor) -> Tensor:
    return torch.cat([task_of(case.data).read(model(chunk)) for chunk in samples.split(SAMPLES)])


@torch.no_grad()
def _stretched(model: nn.Module, samples: Tensor, scheme: Scheme) -> dict[str, float]:
    """Width of each activation's range by the scheme over that of what 99.9 % of its values need, by place."""
    observed = QuantizedModel(prepare(export_graph(model, samples[:2]), scheme), scheme)
    for chunk in samples.split(SAMPLES):
        observed(chunk)
    stretched: dict[str, float] = {}
    for place, _, fake_quantize in quantized_tensors(observed):
        if not isinstance(fake_quantize, ActivationFakeQuantize):
            continue
        histogram = fake_quantize.histogram
        ranges = activation_range(histogram, scheme), percentile_range(histogram, 99.9)
        width, needed = (max(high, 0.0) - min(low, 0.0) for low, high in ranges)
        stretched[place] = max(stretched.get(place, 1.0), width / needed if needed else 1.0)
    return stretched
