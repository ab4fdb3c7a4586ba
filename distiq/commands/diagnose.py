"""diagnose(run): why did accuracy drop? The field's checklist for quantized networks, as an algorithm.

It looks at the best int8 file of the run, the delivered one but where float32 was delivered in its place.
After Nagel et al. 2021, "A white paper on neural network quantization" (arXiv:2106.08295), section 3.6 and figure 4.8.
"""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq.bundle.open import PREPROCESSING, Bundle
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.device.run import RAW
from distiq.errors import UserError
from distiq.evaluation.evaluate import agreement, outputs
from distiq.numerics import sqnr_db
from distiq.progress import Silent, Watch
from distiq.quantization.fake_quantize import ActivationFakeQuantize
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.ranges import activation_range, percentile_range
from distiq.quantization.scheme import RangeMethod, Scheme
from distiq.quantization.sensitivity import SAMPLES, grids, sensitivity
from distiq.recipe.quantize import Rung
from distiq.recipe.read import parse_recipe
from distiq.records.diagnosis import DiagnosisRecord, FindingRecord
from distiq.records.run import RunRecord
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.trials import FLOAT32, TrialRecord
from distiq.report.reading import chosen_trial, read_run
from distiq.run.ladder import FLOAT_LAYERS, MOST, best
from distiq.run.ledger import Ledger
from distiq.run.measure import ANSWERS
from distiq.run.train import WEIGHTS, Networks

NEGLIGIBLE_POINTS = 0.1
SAME_ANSWERS = 0.999
OUTLIER = 4.0  # a range so many times as wide as what 99.9 % of the values need
BETTER_DB = 3.0
NOTHING: tuple[str, ...] = ()
RANGES: dict[Rung, RangeMethod] = {"static": "mse", "minmax": "minmax", "percentile": "percentile"}
WHY: dict[Rung, str] = {
    "static": "they weigh clipping and rounding together",
    "minmax": "the outliers carry information",
    "percentile": "a few outliers stretch the others",
}


def diagnose(run: Path, watch: Watch | None = None) -> DiagnosisRecord:
    """Looks for the cause of the best int8 file's loss and keeps what it found in the run's records.

    Args:
        run: the folder of a finished run; its networks are loaded, nothing is trained.

    Raises:
        UserError: the run is not finished, or another process writes there.
    """
    watch = watch or Silent()
    if not (run / "records" / "run.json").is_file():
        raise UserError(f"{run}: no finished run; `distiq run RECIPE --run {run}` makes one")
    with Ledger(run) as ledger:
        record = _Patient(ledger, watch).examine()
        record.save(ledger.records / "diagnosis.json")
        return record


@dataclass
class _Finding:
    """A check that was made; `cause` and `cure` are what it stands for if it is suspect."""

    check: str
    suspect: bool
    text: str
    cause: str
    cure: tuple[str, ...] = ()


class _Patient:
    """The student of a finished run with everything that the checks look at."""

    def __init__(self, ledger: Ledger, watch: Watch) -> None:
        self.ledger, self.watch = ledger, watch
        self.run: RunRecord = read_run(ledger.records)
        self.recipe = parse_recipe(tomllib.loads(self.run.recipe_toml), str(ledger.folder / "records" / "run.json"))
        settings = self.recipe.quantize
        if settings.mode != "static" or settings.activation_bits != 8:
            raise UserError(
                f"{ledger.folder}: its scheme is {self.run.trials[0].scheme}; diagnose looks for the causes of static"
                ' int8 alone; nearest: the same recipe with quantize.mode = "static" and activation_bits = 8'
            )
        watch.stage("reading data and student")
        self.data: Data = load_data(self.recipe.data, self.recipe.seed)
        if self.data.record().digest != self.run.data.digest:
            raise UserError(f"{self.recipe.data.source}: the data is no longer that of the run; restore it")
        networks = Networks(self.recipe, ledger, self.data, watch)
        self.student: nn.Module = networks.build("student")
        try:
            self.student.load_state_dict(load_file(self._step("student") / WEIGHTS))
        except RuntimeError:
            raise UserError(
                f"{ledger.folder}: the run's student was handed in from Python and is not the recipe's; use"
                " distiq.quantization.sensitivity on the network itself"
            ) from None
        self.student.eval()
        self.calibration = self.data.normalize(self.data.calibration.inputs)
        self.validation = self.data.normalize(self.data.validation.inputs[: len(self.calibration)])
        kept = self.run.float_modules.paths if self.run.float_modules and self.run.float_modules.kept else ()
        self.trial: TrialRecord = chosen_trial(self.run)
        if self.trial.rung == FLOAT32:
            self.trial = best([trial for trial in self.run.trials if trial.rung != FLOAT32])
        # Rounding and training leave no float32 weights to compare with: then the grids of "static" are looked at.
        self.rung: Rung = next((rung for rung in RANGES if rung == self.trial.rung), "static")
        self.scheme = Scheme(
            settings.weight_bits,
            ranges=RANGES[self.rung],
            percentile=settings.percentile,
            float_modules=kept,
            reduce_range=settings.reduce_range,
            integer_io=self.recipe.export.integer_io,
            attention=settings.attention,
        )
        self.quantized = quantize(self.student, self.calibration, self.scheme)

    def _step(self, name: str) -> Path:
        """The folder of a step of the run."""
        folder = self.ledger.folder / "steps" / self.run.steps.get(name, name)
        if not folder.is_dir():
            raise UserError(f"{folder}: this step of the run is gone; `distiq run RECIPE` again makes it")
        return folder

    def examine(self) -> DiagnosisRecord:
        self.watch.stage("switching every grid on alone")
        self.noise: SensitivityRecord = sensitivity(self.quantized, self.calibration[:SAMPLES], self.rung, self.watch)
        checks: tuple[Callable[[], Iterator[_Finding]], ...] = (
            self._float_student, self._float_file, self._preprocessing, self._deployment, self._calibration,
            self._ranges, self._outliers, self._one_layer, self._weights_or_activations,
        )  # fmt: skip
        findings = [finding for check in checks for finding in check()]
        lost = 100 * (self.run.teacher.column("float32").test.quality - self.trial.deployed.test.quality)
        if lost <= NEGLIGIBLE_POINTS:
            cause, cure = f"Nothing to explain: the file loses {lost:.2f} points against the teacher.", NOTHING
        else:
            first = next(finding for finding in findings if finding.suspect)
            cause, cure = first.cause, first.cure
        return DiagnosisRecord(
            rung=self.trial.rung,
            basis=self.run.basis,
            findings=tuple(
                FindingRecord(check=finding.check, suspect=finding.suspect, text=finding.text) for finding in findings
            ),
            cause=cause,
            cure=cure,
            sensitivity=self.noise,
        )

    def _float_student(self) -> Iterator[_Finding]:
        teacher, student = (model.column("float32").test.quality for model in (self.run.teacher, self.run.student))
        before, after = 100 * (teacher - student), 100 * (student - self.trial.deployed.test.quality)
        yield _Finding(
            "float32 student",
            before > max(after, NEGLIGIBLE_POINTS),
            f"float32 loses {before:.2f} points against the teacher, quantization another {after:.2f}",
            f"Most of the loss is there before quantization: the float32 student is {before:.2f} points below its"
            " teacher. Train it longer or make it wider.",
            (f"student.training.epochs={2 * self.recipe.student.training.epochs}",),
        )

    def _float_file(self) -> Iterator[_Finding]:
        stored = load_file(self._step("student-float32") / ANSWERS)["validation"]
        same = agreement(stored, outputs(self.student, self.data, self.data.validation), self.data.multi_label)
        yield _Finding(
            "float32 file",
            same < SAME_ANSWERS,
            f"the exported float32 file answers like PyTorch on {100 * same:.2f} % of the validation samples",
            f"The export is at fault: already the float32 file answers otherwise on {100 * (1 - same):.2f} % of the"
            " samples.",
        )

    def _preprocessing(self) -> Iterator[_Finding]:
        folder = self.ledger.folder / "bundle"
        if not (folder / PREPROCESSING).is_file():
            return
        raw = RAW.get(self.data.kind)
        if raw is None:
            return  # rows and texts are encoded once, when they are read
        bundle = Bundle(folder)
        vectors = bundle.vectors()
        difference = float((bundle.normalize(vectors[raw]).float() - vectors["inputs"].float()).abs().max())
        yield _Finding(
            "preprocessing",
            difference > 1e-4,
            f"the bundle's preprocessing gives the training's inputs to within {difference:.1g}",
            f"The bundle prepares its inputs otherwise than the training did (by up to {difference:.3g}).",
        )

    def _deployment(self) -> Iterator[_Finding]:
        same = self.trial.agreement
        yield _Finding(
            "runtime",
            same < SAME_ANSWERS,
            f"the deployed file answers like its simulation on {100 * same:.2f} % of the test samples",
            f"The runtime computes otherwise than the simulation on {100 * (1 - same):.2f} % of the samples.",
        )

    def _calibration(self) -> Iterator[_Finding]:
        """Would other samples have given better ranges? Judged on samples that neither has seen."""
        half = len(self.validation) // 2
        seen, unseen = self.validation[:half], self.validation[half:]
        other = quantize(self.student, seen, self.scheme)
        reference = self._answers(self.student, unseen)
        ours, theirs = (sqnr_db(reference, self._answers(model, unseen)) for model in (self.quantized, other))
        yield _Finding(
            "calibration",
            theirs - ours > BETTER_DB,
            f"{ours:.1f} dB on held-out validation samples; calibrated on validation samples it would be"
            f" {theirs:.1f} dB",
            f"The calibration samples are drawn from elsewhere than the validation samples: calibrated on the latter,"
            f" the noise falls by {theirs - ours:.1f} dB. Hold out more samples for calibration.",
            (f"data.calibration={2 * self.recipe.data.calibration}",),
        )

    def _ranges(self) -> Iterator[_Finding]:
        """Would wider or narrower ranges have been better? Judged on samples that calibration has not seen."""
        reference, found = self._answers(self.student, self.validation), {}
        for rung, ranges in RANGES.items():
            other = quantize(self.student, self.calibration, dataclasses.replace(self.scheme, ranges=ranges))
            found[rung] = sqnr_db(reference, self._answers(other, self.validation))
        most = max(found, key=found.__getitem__)
        gain = found[most] - found[self.rung]
        yield _Finding(
            "ranges",
            gain > BETTER_DB,
            "held-out validation samples, by range: " + ", ".join(f"{rung} {db:.1f} dB" for rung, db in found.items()),
            f'The ranges do not fit: with those of "{most}" the noise falls by {gain:.1f} dB ({WHY[most]}).',
            self._rungs(most),
        )

    def _outliers(self) -> Iterator[_Finding]:
        """Are there ranges that a few values stretch?"""
        ratios = _stretched(self.student, self.calibration, self.scheme)
        place, ratio = max(ratios.items(), key=lambda entry: entry[1])
        share = 1 - self.noise.weights_share
        yield _Finding(
            "range outliers",
            ratio > OUTLIER and share > MOST,
            f'the widest range, behind "{place}", is {ratio:.1f} times what 99.9 % of its values need',
            f'A few outliers stretch the range behind "{place}" to {ratio:.1f} times what 99.9 % of the values need,'
            f" and activations make {100 * share:.0f} % of the noise.",
            self._rungs("equalize", "qat"),
        )

    def _one_layer(self) -> Iterator[_Finding]:
        layers, share = self.noise.worst_layers(FLOAT_LAYERS)
        names = " and ".join(f'"{layer}"' for layer in layers)
        yield _Finding(
            "single layers",
            share > MOST and self.noise.weights_share > MOST,
            f"the weights of {names} make {100 * share:.0f} % of the noise of all weights",
            f"The weights of {names} make {100 * share:.0f} % of the noise of all weights.",
            self._rungs("rounding", "float_layers"),
        )

    def _weights_or_activations(self) -> Iterator[_Finding]:
        weights, activations = self.noise.weights.sqnr_db, self.noise.activations.sqnr_db
        share = self.noise.weights_share
        blame = "weights" if share > MOST else "activations"
        cure: tuple[Rung, ...] = ("equalize", "rounding", "qat") if share > MOST else ("equalize", "qat")
        part = 100 * max(share, 1 - share)
        yield _Finding(
            "weights or activations",
            True,  # one of the two it is
            f"weights alone {weights:.1f} dB, activations alone {activations:.1f} dB",
            f"The noise comes mostly from {blame} ({part:.0f} %) and is spread over the network.",
            self._rungs(*cure),
        )

    def _rungs(self, *wanted: Rung) -> tuple[str, ...]:
        """The cure that climbs those of these rungs that the run has not tried; else training on the grids, or more."""
        tried = {trial.rung for trial in self.run.trials}
        left = [rung for rung in wanted if rung not in tried]
        if not left and "qat" in tried:
            return (f"quantize.training.epochs={2 * self.recipe.quantize.training.epochs}",)
        return (f"quantize.rungs={json.dumps(left or ['qat'])}",)

    @staticmethod
    @torch.no_grad()
    def _answers(model: nn.Module, samples: Tensor) -> Tensor:
        return torch.cat([model(chunk) for chunk in samples.split(SAMPLES)])


@torch.no_grad()
def _stretched(model: nn.Module, samples: Tensor, scheme: Scheme) -> dict[str, float]:
    """Width of each activation's range by the scheme over that of what 99.9 % of its values need, by place."""
    watching = QuantizedModel(prepare(export_graph(model, samples[:2]), scheme), scheme)
    for chunk in samples.split(SAMPLES):
        watching(chunk)
    found: dict[str, float] = {}
    for place, _, point in grids(watching):
        if not isinstance(point, ActivationFakeQuantize):
            continue
        histogram = point.histogram
        ranges = activation_range(histogram, scheme), percentile_range(histogram, 99.9)
        width, needed = (max(high, 0.0) - min(low, 0.0) for low, high in ranges)
        found[place] = max(found.get(place, 1.0), width / needed if needed else 1.0)
    return found
