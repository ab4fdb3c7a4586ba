"""The attempts at an int8 file: rung by rung, each kept with its file, until the budget holds."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from distiq import environment
from distiq.data.splits import Data
from distiq.distillation.distil import common, output_losses
from distiq.files import save_tensors
from distiq.models.audio import front_ends
from distiq.progress import Watch
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.mixed import choose_bits, products
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.rounding import CHUNK
from distiq.quantization.scheme import REDUCED_BITS, Scheme
from distiq.quantization.sensitivity import SAMPLES, sensitivity
from distiq.recipe.budget import Budget
from distiq.recipe.quantize import Rung
from distiq.recipe.recipe import Recipe
from distiq.records.data import DataRecord
from distiq.records.models import ModelRecord
from distiq.records.quality import AccuracyRecord
from distiq.records.record import Record
from distiq.records.sensitivity import SensitivityRecord
from distiq.records.training import TrainingRecord
from distiq.records.trials import Breach, FloatModulesRecord, RuntimeRecord, TrialRecord
from distiq.run import ladder
from distiq.run.ledger import CHECKPOINT, Ledger, Step
from distiq.run.measure import ANSWERS, SIMULATED, Answers, Measuring, with_one_another
from distiq.run.train import TRAINING_CODE, WEIGHTS, Networks, Source
from distiq.runtimes.export import RUNTIMES
from distiq.training import processes
from distiq.training.batches import Batch
from distiq.training.fit import Losses

MEASURING_CODE = ("run/measure.py", "timing", "evaluation", "runtimes", "data", "numerics.py", "records")
QUANTIZING_CODE = (*MEASURING_CODE, "quantization", "training")

NARROW_BITS = 4
NARROW = (6, 4, 3, 2)  # what layers may take where bit operations are limited
NODE_BYTES = 64  # what a packed weight adds to the file: a node and its names


class Decided(Record):
    """The record of the step that decides which modules stay in float32."""

    modules: FloatModulesRecord | None


@dataclass
class Network:
    """A trained network, the step that made it, and what its float32 file answered."""

    model: nn.Module
    step: Step
    answers: Answers
    record: ModelRecord


@dataclass
class Run:
    """What every chapter of a run works with.

    Args:
        measured_by: what decides a measurement, beside the network. files: of the run, by their names in its records.
        beside: key of the teacher whose answers the columns are compared with.
    """

    recipe: Recipe
    ledger: Ledger
    watch: Watch
    data: Data
    data_record: DataRecord
    networks: Networks
    measuring: Measuring
    measured_by: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)
    beside: str = ""


def calibrated(run: Run, model: nn.Module, scheme: Scheme) -> QuantizedModel:
    samples = run.data.normalize(run.data.calibration.inputs)
    return quantize(model, samples, scheme, seed=run.recipe.seed, watch=run.watch)


def float_modules(
    run: Run, role: str, network: Network, asked: tuple[str, ...] | None, scheme: Scheme
) -> FloatModulesRecord | None:
    """Which modules stay in float32 where all else is quantized by the scheme, and the measurement behind it."""
    if asked is None and not front_ends(network.model):
        return None

    def make(_folder: Path) -> Decided:
        run.watch.stage(f"what int8 does to the {role}'s front-end")
        return Decided(modules=run.measuring.float_modules(network.model, asked, scheme))

    inputs = run.measured_by | {"network": network.step.key, "asked": asked, "scheme": dataclasses.asdict(scheme)}
    found = run.ledger.step(f"{role}-float-modules", inputs, QUANTIZING_CODE, Decided, make).record.modules
    if found is not None:
        says = "stays in float32" if found.kept else "goes to int8"
        run.watch.note(
            f"{', '.join(found.paths)} {says}: SQNR of the logits {found.sqnr_db_float:.1f} dB with it in float32,"
            f" {found.sqnr_db_int8:.1f} dB in int8"
        )
    return found


def _judge(budget: Budget, teacher: Network, trial: TrialRecord, split: str) -> tuple[Breach, ...]:
    cost = trial.deployed.cost
    assert cost is not None
    wanted, found = getattr(teacher.record.column("float32"), split), getattr(trial.deployed, split)
    auc_drop = f1_drop = None
    if isinstance(wanted, AccuracyRecord):
        auc_drop = wanted.auc - found.auc if wanted.auc is not None and found.auc is not None else None
        f1_drop = wanted.micro_f1 - found.micro_f1 if wanted.micro_f1 is not None else None
    latency_ms, operations = cost.at_batch(1).p50_ms, trial.bit_operations
    qualities = wanted.quality, found.quality
    return ladder.judge(budget, *qualities, cost.size_bytes, latency_ms, auc_drop, operations, f1_drop)


def judged(budget: Budget, teacher: Network, trial: TrialRecord) -> TrialRecord:
    """The trial with the limits that it breaks."""
    breaches, on_test = (_judge(budget, teacher, trial, split) for split in ("validation", "test"))
    return trial.model_copy(update={"breaches": breaches, "test_breaches": on_test})


class Trials:
    """The attempts of one run, and what was learned on the way: `climb` makes them.

    Args:
        source: who taught the student, and teaches again on the grids.
    """

    def __init__(self, run: Run, teacher: Network, student: Network, source: Source) -> None:
        self.run, self.teacher, self.student, self.source = run, teacher, student, source
        self.recipe, self.ledger, self.watch = run.recipe, run.ledger, run.watch
        self.data, self.measuring = run.data, run.measuring
        self.made: list[TrialRecord] = []
        self.decided: FloatModulesRecord | None = None
        self.evidence: SensitivityRecord | None = None
        self.skipped: dict[Rung, str] = {}
        self.estimates: dict[str, str] = {}  # what each rung costs, as far as it was known before it

    def climb(self) -> None:
        """Makes the attempts, in order; each is kept with its file."""
        asked = self.recipe.quantize.float_modules
        self.decided = float_modules(self.run, "student", self.student, asked, self._plain())
        budget, narrow = self.recipe.budget, self.recipe.quantize.weight_bits <= NARROW_BITS
        needless = {"mixed"} if narrow else set()
        if self.recipe.export.integer_io:  # for devices without float32
            needless.add("float_layers")
        rungs = tuple(rung for rung in self.recipe.quantize.climbed() if rung not in needless)
        quality = [network.record.column("float32").validation.quality for network in (self.teacher, self.student)]
        float_drop = 100 * (quality[0] - quality[1])
        while following := ladder.next_rung(rungs, self.made, budget, float_drop, self.evidence):
            self.estimates[following.rung] = self._estimate(following.rung)
            trial = judged(budget, self.teacher, self._attempt(following.rung))
            trial = trial.model_copy(update={"reason": following.reason})
            self.made.append(trial)
            broken = ", ".join(f"{breach.limit} by {breach.excess:.3g} {breach.unit}" for breach in trial.breaches)
            self.watch.note(
                f"{trial.deployed.test.in_words}; on the validation split"
                f" {'misses ' + broken if broken else 'every limit holds'}"
            )
            if self.evidence is None and any(breach.limit in ladder.QUALITY for breach in trial.breaches):
                self.evidence = self._sensitivity()
        if self.made[-1].breaches:
            self.skipped = ladder.skipped(rungs, self.made, budget, float_drop, self.evidence)
        for rung in rungs:
            self.estimates.setdefault(rung, self._estimate(rung))

    def _estimate(self, rung: Rung) -> str:
        """What a rung costs here, in words."""
        samples = {
            "qat": self.recipe.quantize.training.epochs * len(self.data.train),
            "reconstruct": Scheme.iterations * CHUNK,  # in each step every block learns from so many, one after another
        }.get(rung, 0)
        taught = self.student.record.training
        seconds = (
            samples * taught.seconds / (taught.steps * self.recipe.student.training.batch_size) if taught else None
        )
        return ladder.estimate(rung, self.made, seconds if samples else 0.0)

    def _plain(self, bits: int | None = None) -> Scheme:
        """What every scheme of this run begins with; `bits` of the weights in place of the recipe's."""
        kept = self.decided.paths if self.decided and self.decided.kept else ()
        settings = self.recipe.quantize
        return Scheme(
            bits or settings.weight_bits,  # type: ignore[arg-type]
            settings.activation_bits,
            float_modules=kept,
            reduce_range=settings.reduce_range and not bits,  # fewer have no need of it
            mode=settings.mode,
            group_size=settings.group_size,
            integer_io=self.recipe.export.integer_io,
            attention=settings.attention,
        )

    def _sensitivity(self, bits: int | None = None) -> SensitivityRecord:
        """Where the noise of the plainest quantization comes from; `bits` of the weights in place of the recipe's."""
        scheme = self._plain(bits)

        def make(_folder: Path) -> SensitivityRecord:
            self.watch.stage(f"looking where the noise comes from ({scheme})")
            samples = self.data.normalize(self.data.calibration.inputs[:SAMPLES])
            return sensitivity(calibrated(self.run, self.student.model, scheme), samples, scheme.mode, self.watch)

        inputs = {
            "data": self.run.data_record.digest,
            "student": self.student.step.key,
            "scheme": dataclasses.asdict(scheme),
        }
        name = f"sensitivity-w{scheme.weight_bits}"
        record = self.ledger.step(name, inputs, QUANTIZING_CODE, SensitivityRecord, make).record
        share = 100 * record.weights_share
        self.watch.note(f"{share:.0f} % of the noise comes from weights, the rest from activations")
        return record

    def _narrowed(self, start: Scheme, before: list[TrialRecord]) -> Scheme:
        """The scheme with narrow weights in the layers where they add the least noise, so that the limits hold that
        they can mend: of size, by 4 bits alone, since files store fewer as 4; of bit operations, by any.

        Args:
            before: the trials so far; how far the first is beyond a limit is what the layers have to save.
        """
        budget, wide = self.recipe.budget, self.recipe.quantize.weight_bits
        choices = [bits for bits in (NARROW if budget.bit_operations_m else (NARROW_BITS,)) if bits < wide]
        # The widest is that of the ladder's evidence.
        records = {wide: self._sensitivity()} | {bits: self._sensitivity(bits) for bits in choices}
        noise = {bits: record.noise_of_weights() for bits, record in records.items()}
        example = self.measuring.example
        multiplied = products(prepare(export_graph(self.student.model, example), start), example)
        most_bits = REDUCED_BITS if start.reduce_range else wide
        sizes: dict[str, dict[int, float]] = {}
        operations: dict[str, dict[int, float]] = {}
        for layer in noise[wide]:
            own = self.student.model.get_submodule(layer).parameters(recurse=False)
            count = sum(parameter.numel() for parameter in own if parameter.ndim > 1)
            packed = count / 2 + NODE_BYTES
            sizes[layer] = {bits: packed if bits <= NARROW_BITS else float(count) for bits in noise}
            step = float(sum(one.macs * one.activation_bits for one in multiplied if one.layer == layer))
            operations[layer] = {bits: step * min(bits, most_bits) for bits in noise}
        first = before[0] if before else None
        limits: list[tuple[dict[str, dict[int, float]], float]] = []
        if budget.size_kb and first and first.deployed.cost:
            too_large = first.deployed.cost.size_bytes - 1000 * budget.size_kb
            limits.append((sizes, sum(costs[wide] for costs in sizes.values()) - too_large))
        if budget.bit_operations_m and first and first.bit_operations:
            too_many = first.bit_operations - 1e6 * budget.bit_operations_m
            limits.append((operations, sum(costs[wide] for costs in operations.values()) - too_many))
        powers = {layer: {bits: noise[bits][layer] for bits in noise} for layer in noise[wide]}
        chosen = {layer: bits for layer, bits in choose_bits(powers, limits).items() if bits != wide}
        said = ", ".join(f"{layer} ({bits})" for layer, bits in chosen.items())
        self.watch.note(f"fewer bits of weights in {len(chosen)} of {len(powers)} layers: {said}")
        return dataclasses.replace(
            start,
            layer_bits=tuple(chosen.items()),
            float_modules=self._plain().float_modules,
            rounding="gptq",
        )

    def _attempt(self, rung: Rung) -> TrialRecord:
        student, scheme = self.student, self._scheme(rung, self.made)
        inputs = self.run.measured_by | {
            "student": student.step.key,
            "beside": self.run.beside,
            "scheme": dataclasses.asdict(scheme),
        }
        if rung == "qat":
            inputs |= {
                "training": self.recipe.quantize.training.model_dump(),
                "learn_ranges": self.recipe.quantize.learn_ranges,
                "views": self.recipe.views.model_dump(),
                "distil": self.recipe.distil.for_qat().model_dump(),
            }

        def make(folder: Path) -> TrialRecord | None:
            self.watch.stage(f"{rung}: {ladder.WHAT_IT_IS[rung]} ({self.estimates[rung]})")
            quantized = calibrated(self.run, student.model, scheme)
            training = self._train_quantized(quantized, folder) if rung == "qat" else None
            if not processes.is_main():
                return None
            save_tensors(quantized.state_dict(), folder / WEIGHTS)
            return self.measuring.quantized(
                folder, f"student-{rung}", rung, "", quantized, student.model, student.answers, training
            )

        code = (*QUANTIZING_CODE, *TRAINING_CODE, "run/climb.py") if rung == "qat" else QUANTIZING_CODE
        step = self.ledger.step(f"trial-{rung}", inputs, code, TrialRecord, make, together=rung == "qat")
        self.run.files[f"student-{rung}"] = step.folder / self.measuring.model_file
        others = tuple(self._elsewhere(name, rung, scheme, step) for name in self.recipe.measure.runtimes[1:])
        runtimes = (*step.record.runtimes, *others)
        answers = {one.runtime: load_file(self.run.files[one.file].parent / ANSWERS)["test"] for one in runtimes}
        update = {"runtimes": with_one_another(runtimes, answers, self.data.multi_label), "seconds": step.seconds}
        return step.record.model_copy(update=update)

    def _elsewhere(self, name: str, rung: Rung, scheme: Scheme, trial: Step) -> RuntimeRecord:
        """A trial's graph as the file of another runtime than the delivered one, beside its float32 file."""
        student, ending = self.student, RUNTIMES[name].ending
        file, float_file = f"student-{rung}-{name}", f"student-float32-{name}"
        inputs = {
            "runtime": name,
            "export": self.recipe.export.model_dump(),
            "data": self.run.data_record.digest,
            "cpu": environment.describe().cpu,
            "versions": environment.describe().versions,
        }

        def make_float(folder: Path) -> Record:
            self.watch.stage(f"the student's float32 file for {RUNTIMES[name].title}")
            self.measuring.export(student.model, folder / f"model{ending}")
            return Record()

        def make(folder: Path) -> RuntimeRecord:
            self.watch.stage(f"{rung}: the file for {RUNTIMES[name].title}")
            weights = load_file(trial.folder / WEIGHTS)
            quantized = restore(student.model, self.measuring.example, scheme, weights)
            path = self.measuring.export(quantized, folder / f"model{ending}")
            answers = self.measuring.file_answers(path)
            save_tensors(answers, folder / ANSWERS)
            simulated = load_file(trial.folder / SIMULATED)
            return self.measuring.in_runtime(path, file, quantized, simulated["test"], answers["test"])

        code = QUANTIZING_CODE
        plain = self.ledger.step(float_file, inputs | {"network": student.step.key}, code, Record, make_float)
        step = self.ledger.step(f"trial-{rung}-{name}", inputs | {"trial": trial.key}, code, RuntimeRecord, make)
        self.run.files |= {float_file: plain.folder / f"model{ending}", file: step.folder / f"model{ending}"}
        return step.record

    def _scheme(self, rung: Rung, trials: list[TrialRecord]) -> Scheme:
        """The scheme of a rung. Those that cost more than a calibration start from the best found without training;
        training starts from the narrowed weights, if the file had to shrink."""
        plain = self._plain()
        match rung:
            case "static" | "dynamic" | "weight_only":
                return plain
            case "minmax":
                return dataclasses.replace(plain, ranges="minmax", rounding="gptq")
            case "percentile":
                share = self.recipe.quantize.percentile
                return dataclasses.replace(plain, ranges="percentile", percentile=share, rounding="gptq")
        rungs = [trial.rung for trial in trials]
        before = trials[: rungs.index(rung)] if rung in rungs else trials
        untrained = [trial for trial in before if trial.training is None]
        narrowed = [trial for trial in untrained if trial.rung == "mixed"]
        start = plain
        if untrained:
            best = max(narrowed or untrained, key=lambda trial: trial.sqnr_db).rung
            start = self._scheme(best, untrained)  # type: ignore[arg-type]
        match rung:
            case "equalize":
                self.evidence = self.evidence or self._sensitivity()
                has_neighbours = self.evidence.balanced_share is not None
                return dataclasses.replace(start, equalize=has_neighbours, correct_biases=True)
            case "rounding":
                return dataclasses.replace(start, rounding="gptq")
            case "reconstruct":
                return dataclasses.replace(start, rounding="brecq")
            case "float_layers":
                self.evidence = self.evidence or self._sensitivity()
                layers, _ = self.evidence.worst_layers(ladder.FLOAT_LAYERS)
                return dataclasses.replace(start, float_modules=(*plain.float_modules, *layers))
            case "mixed":
                return self._narrowed(start, before)
        return start

    def _train_quantized(self, quantized: QuantizedModel, folder: Path) -> TrainingRecord:
        settings = self.recipe.distil.for_qat()
        answering = self.run.networks.answering(self.source, settings, self.recipe.seed)
        smoothing = self.recipe.student.training.label_smoothing

        def loss_fn(logits: Tensor, batch: Batch) -> Losses:
            known = answering(batch) if answering is not None else None
            logits, known, batch = common(logits, known, batch)
            return output_losses(logits, batch, known, settings, smoothing)

        return train_quantized(
            quantized,
            loss_fn,
            self.data,
            self.recipe.quantize.training,
            views=self.recipe.views,
            learn_ranges=self.recipe.quantize.learn_ranges,
            seed=self.recipe.seed,
            checkpoint=folder / CHECKPOINT,
            watch=self.watch,
        )
