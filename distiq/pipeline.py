"""compress(recipe): the whole story, top to bottom."""

import dataclasses
import datetime
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq import environment, ladder
from distiq.advice import advise
from distiq.bundle import write_bundle
from distiq.data.load import load as load_data
from distiq.data.splits import Data, check_data
from distiq.distillation.distil import output_losses
from distiq.errors import UserError
from distiq.evaluation.compare import paired_speed
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.files import save_tensors, write_atomically
from distiq.ledger import CHECKPOINT, Ledger, Step, replace_folder, source_hash
from distiq.measuring import ANSWERS, SIMULATED, Answers, Measuring
from distiq.models.audio import front_ends
from distiq.models.predictor import Predictor
from distiq.models.transformer import TokenLogits, save_transformers
from distiq.networks import TRAINING_CODE, WEIGHTS, Networks, basis_of
from distiq.numerics import sqnr_db
from distiq.peak import MOST_PEAK_SECONDS, measure_peak
from distiq.progress import Silent, Watch
from distiq.quantization.graph import check_paths, export_graph
from distiq.quantization.mixed import narrow_layers
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import SAMPLES, sensitivity
from distiq.recipe import Recipe, Rung, to_toml
from distiq.records import (
    FLOAT32,
    NOUNS,
    AdviceRecord,
    Breach,
    Column,
    ComparisonRecord,
    CostRecord,
    FloatModulesRecord,
    ModelRecord,
    Record,
    RunRecord,
    RuntimeRecord,
    SensitivityRecord,
    TrainingRecord,
    TrialRecord,
)
from distiq.report.report import write_report
from distiq.runtimes.export import RUNTIMES, checksums, require, size_bytes
from distiq.runtimes.onnx_runtime import with_mask
from distiq.training import Batch, Losses

MEASURING_CODE = ("measuring.py", "tuning.py", "peak.py", "evaluation", "runtimes", "data", "numerics.py", "records.py")
QUANTIZING_CODE = (*MEASURING_CODE, "quantization", "training.py")


NARROW_BITS = 4
TRANSFORMERS = "transformers"  # of a student of that library: a folder that it loads
NODE_BYTES = 64  # what a packed weight adds to the file: a node and its names


class Decided(Record):
    """The record of the step that decides which modules stay in float32."""

    modules: FloatModulesRecord | None


class Measured(Record):
    """The record of a step that leaves a file and its answers."""

    column: Column


def compress(
    recipe: Recipe,
    *,
    run: Path | None = None,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: Data | None = None,
    watch: Watch | None = None,
    command: str = "distiq.compress(recipe)",
) -> RunRecord:
    """Teacher, student, quantization, export, measurement, budget; leaves a run folder with bundle and report.

    Args:
        run: the run folder; by default runs/<name>. What it already holds for these inputs is reused.
        teacher: a trained network in place of the recipe's.
        student: an untrained network in place of the recipe's.
        data: in place of the recipe's.
        command: how to repeat this, for the report.

    Returns:
        The run's record; `verdict.met` says whether the budget holds.

    Raises:
        UserError: something in the recipe or the data is refused, or the folder cannot be used.
    """
    with Ledger(run or Path("runs") / recipe.name) as ledger:
        return _Story(recipe, ledger, watch or Silent(), command, teacher, student, data).tell()


@dataclass
class _Network:
    """A trained network, the step that made it, and what its float32 file answered."""

    model: nn.Module
    step: Step
    answers: Answers
    record: ModelRecord


class _Story:
    """One run. Each method is a chapter; `tell` is their order."""

    def __init__(
        self,
        recipe: Recipe,
        ledger: Ledger,
        watch: Watch,
        command: str,
        teacher: nn.Module | None,
        student: nn.Module | None,
        data: Data | None,
    ) -> None:
        self.recipe, self.ledger, self.watch, self.command = recipe, ledger, watch, command
        environment.keep_freed_memory()
        watch.stage("reading data")
        self.data = data or load_data(recipe.data, recipe.seed)
        check_data(self.data)
        self.data_record = found = self.data.record()
        watch.note(
            f"{found.source}: {found.train} training, {found.validation} validation, {found.calibration} calibration,"
            f" {found.test} test {NOUNS[found.kind]}"
        )
        for note in self.data.notes:
            watch.note(note)
        self.networks = Networks(recipe, ledger, self.data, self.watch, {"teacher": teacher, "student": student})
        self.measuring = Measuring(self.data, recipe)
        self.files: dict[str, Path] = {}
        self.decided: FloatModulesRecord | None = None
        self.beside = ""  # the teacher whose answers the columns are compared with
        self.measured_by = {
            "data": found.digest,
            "seed": recipe.seed,
            **recipe.measure.model_dump(exclude={"runtimes", "tune"}),
            "runtime": recipe.measure.runtimes[0],
            "export": recipe.export.model_dump(),
            "evaluation": recipe.evaluation.model_dump(),
            "cpu": environment.describe().cpu,
            "versions": environment.describe().versions,
        }

    def tell(self) -> RunRecord:
        self._refuse_early()
        write_atomically(self.ledger.folder / "recipe.toml", to_toml(self.recipe).encode())
        teacher = self._teacher()
        self._advise(teacher)
        student = self._student(teacher)
        trials = self._climb(teacher, student)
        return self._finish(teacher, student, trials)

    # Before any training ----------------------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        for name in self.recipe.measure.runtimes:
            require(RUNTIMES[name])
        if self.recipe.budget.auc_drop_points is not None and len(self.data.classes) != 2:
            raise UserError(
                f"budget.auc_drop_points is for two classes, the data has {len(self.data.classes)}; limit"
                " accuracy_drop_points instead"
            )
        several = self.data.several_labels
        if self.recipe.budget.f1_drop_points is not None and not several:
            raise UserError("budget.f1_drop_points is for several labels a sample; limit accuracy_drop_points instead")
        unfit = {"budget.auc_drop_points": self.recipe.budget.auc_drop_points is not None,
                 "evaluation.keyword": bool(self.recipe.evaluation.keyword),
                 "teacher.predict": bool(self.recipe.teacher.predict)}  # fmt: skip
        if several and (names := [name for name, is_set in unfit.items() if is_set]):
            raise UserError(f"{names[0]} is for one class a sample, but the data gives several labels; leave it out")
        keyword, classes = self.recipe.evaluation.keyword, self.data.classes
        if keyword and keyword not in classes:
            raise UserError(f'evaluation.keyword: no class is called "{keyword}"; the classes: {", ".join(classes)}')
        if keyword and classes.index(keyword) not in self.data.test.labels:
            raise UserError(f'evaluation.keyword: no sample of the test set is of the class "{keyword}"; give it some')
        pixels = self.data.train.inputs.dtype
        if self.recipe.export.pixels and (self.data.kind != "image" or pixels != torch.uint8):
            raise UserError(
                f"export.pixels is for images of uint8; the {NOUNS[self.data.kind]} of this run are"
                f" {str(pixels).removeprefix('torch.')}; set it to false"
            )
        for role, model in self.networks.refuse_early().items():
            if isinstance(model, Predictor):
                continue
            graph = export_graph(model, self.measuring.example)
            if role == "student":
                check_paths(graph, self.recipe.quantize.float_modules or ())

    # Teacher and student ----------------------------------------------------------------------------------------------

    def _teacher(self) -> _Network:
        teacher = self._network("teacher", self.networks.teacher())
        self.measuring.teacher, self.beside = teacher.answers, teacher.step.key
        quantized = () if isinstance(teacher.model, Predictor) else self._quantized_teacher(teacher)
        columns = (*teacher.record.columns, *quantized)
        teacher.record = teacher.record.model_copy(update={"columns": columns})
        return teacher

    def _advise(self, teacher: _Network) -> None:
        """Says what is known of the teacher before hours are spent on its student."""
        self.advice: AdviceRecord | None = None
        if self.recipe.distil.teacher == "none":
            return
        validation = self.data.validation.labels
        self.advice = advise(
            self.recipe,
            teacher.record.column("float32").validation,
            teacher.answers["validation"],
            validation,
            self.data.train.labels,
            self.data.classes,
            (teacher.record.parameters, parameter_count(self.networks.build("student"))),
        )
        for warning in self.advice.warnings:
            self.watch.note(f"warning: {warning}")

    def _student(self, teacher: _Network) -> _Network:
        self.source = self.networks.last_teacher(teacher.step)
        return self._network("student", self.networks.student(self.source, self.recipe.distil, self.recipe.seed))

    def _network(self, role: str, step: Step) -> _Network:
        """A trained network; its float32 file is exported and measured in a step of its own. A callable has no file."""
        model = self.networks.load(role, step)
        is_network = not isinstance(model, Predictor)

        def measure(folder: Path) -> Measured:
            if not is_network:
                self.watch.stage(f"asking the {role}")
                answers = self.measuring.answers(model)
                save_tensors(answers, folder / ANSWERS)
                return Measured(column=self.measuring.column("float32", answers, None, None))
            self.watch.stage(f"measuring the {role}'s float32 file")
            self.measuring.export(model, folder / self.measuring.model_file)
            return Measured(column=self.measuring.file("float32", f"{role}-float32", folder, model)[0])

        key = self.measured_by | {"network": step.key, "form": "float32", "beside": self.beside}
        measured = self.ledger.step(f"{role}-float32", key, MEASURING_CODE, Measured, measure)
        if is_network:
            self.files[f"{role}-float32"] = measured.folder / self.measuring.model_file
        given = self.networks.given[role]
        record = ModelRecord(
            role="teacher" if role == "teacher" else "student",
            model=self.networks.name(role) if given is None else type(model).__name__,
            origin=step.record.origin,
            parameters=parameter_count(model) if is_network else None,
            macs=multiply_adds(model, self.measuring.example) if is_network else None,
            columns=(measured.record.column,),
            training=step.record.training,
        )
        return _Network(model, step, load_file(measured.folder / ANSWERS), record)

    # Quantization -----------------------------------------------------------------------------------------------------

    def _calibrated(self, model: nn.Module, scheme: Scheme) -> QuantizedModel:
        return quantize(model, self.data.normalize(self.data.calibration.inputs), scheme)

    def _quantized_teacher(self, teacher: _Network) -> tuple[Column, Column]:
        """What quantizing the teacher itself would give: the reference that a student has to beat."""
        decided = self._float_modules("teacher", teacher, None)
        kept = decided.paths if decided and decided.kept else ()
        scheme = Scheme(float_modules=kept, mode=self.recipe.quantize.mode)

        def make(folder: Path) -> TrialRecord:
            self.watch.stage("quantizing the teacher, as a reference")
            quantized = self._calibrated(teacher.model, scheme)
            return self.measuring.quantized(
                folder, "teacher-int8", scheme.mode, "reference", quantized, teacher.model, teacher.answers
            )

        inputs = self.measured_by | {"network": teacher.step.key, "scheme": dataclasses.asdict(scheme)}
        step = self.ledger.step("teacher-int8", inputs, QUANTIZING_CODE, TrialRecord, make)
        self.files["teacher-int8"] = step.folder / self.measuring.model_file
        return step.record.simulated, step.record.deployed

    def _float_modules(self, role: str, network: _Network, asked: tuple[str, ...] | None) -> FloatModulesRecord | None:
        """Which modules stay in float32, and the measurement behind it."""
        if asked is None and not front_ends(network.model):
            return None

        def make(_folder: Path) -> Decided:
            self.watch.stage(f"what int8 does to the {role}'s front-end")
            return Decided(modules=self.measuring.float_modules(network.model, asked, scheme))

        scheme = self._plain() if role == "student" else Scheme(mode=self.recipe.quantize.mode)
        inputs = self.measured_by | {"network": network.step.key, "asked": asked, "scheme": dataclasses.asdict(scheme)}
        found = self.ledger.step(f"{role}-float-modules", inputs, QUANTIZING_CODE, Decided, make).record.modules
        if found is not None:
            says = "stays in float32" if found.kept else "goes to int8"
            self.watch.note(
                f"{', '.join(found.paths)} {says}: SQNR of the logits {found.sqnr_db_float:.1f} dB with it in float32,"
                f" {found.sqnr_db_int8:.1f} dB in int8"
            )
        return found

    def _climb(self, teacher: _Network, student: _Network) -> list[TrialRecord]:
        """The attempts, in order; each is kept with its file."""
        trials: list[TrialRecord] = []
        self.decided = self._float_modules("student", student, self.recipe.quantize.float_modules)
        budget, narrow = self.recipe.budget, self.recipe.quantize.weight_bits <= NARROW_BITS
        rungs = tuple(rung for rung in self.recipe.quantize.climbed() if rung != "mixed" or not narrow)
        top1 = [network.record.column("float32").validation.top1 for network in (teacher, student)]
        float_drop = 100 * (top1[0] - top1[1])
        self.evidence: SensitivityRecord | None = None
        while following := ladder.next_rung(rungs, trials, budget, float_drop, self.evidence):
            trial = self._attempt(following.rung, teacher, student, trials)
            trial = trial.model_copy(
                update={
                    "reason": following.reason,
                    "breaches": self._judge(teacher, trial, "validation"),
                    "test_breaches": self._judge(teacher, trial, "test"),
                }
            )
            trials.append(trial)
            broken = ", ".join(f"{breach.limit} by {breach.excess:.3g} {breach.unit}" for breach in trial.breaches)
            self.watch.note(
                f"{100 * trial.deployed.test.top1:.2f} % of the test set; on the validation split"
                f" {'misses ' + broken if broken else 'every limit holds'}"
            )
            if self.evidence is None and any(breach.limit in ladder.QUALITY for breach in trial.breaches):
                self.evidence = self._sensitivity(student)
        self.skipped = ladder.skipped(rungs, trials, budget, float_drop, self.evidence) if trials[-1].breaches else {}
        return trials

    def _plain(self, bits: int | None = None) -> Scheme:
        """What every scheme of this run begins with; `bits` of the weights in place of the recipe's."""
        kept = self.decided.paths if self.decided and self.decided.kept else ()
        settings = self.recipe.quantize
        return Scheme(
            bits or settings.weight_bits,  # type: ignore[arg-type]
            settings.activation_bits,
            float_modules=kept,
            reduce_range=settings.reduce_range,
            mode=settings.mode,
            group_size=settings.group_size,
        )

    def _sensitivity(self, student: _Network, bits: int | None = None) -> SensitivityRecord:
        """Where the noise of the plainest quantization comes from; `bits` of the weights in place of the recipe's."""
        scheme = self._plain(bits)

        def make(_folder: Path) -> SensitivityRecord:
            self.watch.stage(f"looking where the noise comes from ({scheme})")
            samples = self.data.normalize(self.data.calibration.inputs[:SAMPLES])
            return sensitivity(self._calibrated(student.model, scheme), samples, scheme.mode, self.watch)

        inputs = {"data": self.data_record.digest, "student": student.step.key, "scheme": dataclasses.asdict(scheme)}
        name = f"sensitivity-w{scheme.weight_bits}"
        record = self.ledger.step(name, inputs, QUANTIZING_CODE, SensitivityRecord, make).record
        share = 100 * record.weights_share
        self.watch.note(f"{share:.0f} % of the noise comes from weights, the rest from activations")
        return record

    def _narrowed(self, start: Scheme, student: _Network, too_large: float) -> Scheme:
        """The scheme with 4-bit weights in the layers where they add the least noise.

        Args:
            too_large: bytes that the file has to lose.
        """
        wide, narrow = (self._sensitivity(student, bits) for bits in (self.recipe.quantize.weight_bits, NARROW_BITS))
        before, after = wide.noise_of_weights(), narrow.noise_of_weights()
        layers = list(before)
        saved = {layer: _weights_in(student.model, layer) / 2 - NODE_BYTES for layer in layers}
        chosen = narrow_layers({layer: after[layer] - before[layer] for layer in layers}, saved, too_large)
        self.watch.note(f"4-bit weights in {len(chosen)} of {len(layers)} layers: {', '.join(chosen)}")
        bits = tuple((layer, NARROW_BITS) for layer in chosen)
        return dataclasses.replace(start, layer_bits=bits, float_modules=self._plain().float_modules, rounding="gptq")

    def _judge(self, teacher: _Network, trial: TrialRecord, split: str) -> tuple[Breach, ...]:
        cost = trial.deployed.cost
        assert cost is not None
        wanted, found = getattr(teacher.record.column("float32"), split), getattr(trial.deployed, split)
        auc_drop = wanted.auc - found.auc if wanted.auc is not None and found.auc is not None else None
        f1_drop = wanted.micro_f1 - found.micro_f1 if wanted.micro_f1 is not None else None
        latency_ms = cost.at_batch(1).p50_ms
        return ladder.judge(self.recipe.budget, wanted.top1, found.top1, cost.size_bytes, latency_ms, auc_drop, f1_drop)

    def _attempt(self, rung: Rung, teacher: _Network, student: _Network, trials: list[TrialRecord]) -> TrialRecord:
        scheme = self._scheme(rung, student, trials)
        inputs = self.measured_by | {
            "student": student.step.key,
            "beside": self.beside,
            "scheme": dataclasses.asdict(scheme),
        }
        if rung == "qat":
            inputs |= {
                "training": self.recipe.quantize.training.model_dump(),
                "views": self.recipe.views.model_dump(),
                "distil": self.recipe.distil.on_grids().model_dump(),
            }

        def make(folder: Path) -> TrialRecord:
            self.watch.stage(f"{rung}: {ladder.WHAT_IT_IS[rung]}")
            quantized = self._calibrated(student.model, scheme)
            training = self._train_on_grids(quantized, folder) if rung == "qat" else None
            save_tensors(quantized.state_dict(), folder / WEIGHTS)
            return self.measuring.quantized(
                folder, f"student-{rung}", rung, "", quantized, student.model, student.answers, training
            )

        code = (*QUANTIZING_CODE, *TRAINING_CODE, "pipeline.py") if rung == "qat" else QUANTIZING_CODE
        step = self.ledger.step(f"trial-{rung}", inputs, code, TrialRecord, make)
        self.files[f"student-{rung}"] = step.folder / self.measuring.model_file
        others = tuple(self._elsewhere(name, rung, scheme, step, student) for name in self.recipe.measure.runtimes[1:])
        return step.record.model_copy(update={"runtimes": (*step.record.runtimes, *others), "seconds": step.seconds})

    def _elsewhere(self, name: str, rung: Rung, scheme: Scheme, trial: Step, student: _Network) -> RuntimeRecord:
        """A trial's graph as the file of another runtime than the delivered one, beside its float32 file."""
        ending = RUNTIMES[name].ending
        file, float_file = f"student-{rung}-{name}", f"student-float32-{name}"
        inputs = {
            "runtime": name,
            "export": self.recipe.export.model_dump(),
            "data": self.data_record.digest,
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
        self.files |= {float_file: plain.folder / f"model{ending}", file: step.folder / f"model{ending}"}
        return step.record

    def _scheme(self, rung: Rung, student: _Network, trials: list[TrialRecord]) -> Scheme:
        """The scheme of a rung. Those that cost more than a calibration start from the best found without training;
        training starts from the narrowed weights, if the file had to shrink."""
        plain = self._plain()
        match rung:
            case "static" | "dynamic" | "weight_only":
                return plain
            case "mse":
                return dataclasses.replace(plain, ranges="mse")
            case "percentile":
                return dataclasses.replace(plain, ranges="percentile", percentile=self.recipe.quantize.percentile)
        rungs = [trial.rung for trial in trials]
        before = trials[: rungs.index(rung)] if rung in rungs else trials
        untrained = [trial for trial in before if trial.training is None]
        narrowed = [trial for trial in untrained if trial.rung == "mixed"]
        start = dataclasses.replace(plain, ranges="mse") if plain.mode == "static" else plain
        if untrained:
            best = max(narrowed or untrained, key=lambda trial: trial.sqnr_db).rung
            start = self._scheme(best, student, untrained)  # type: ignore[arg-type]
        match rung:
            case "equalize":
                self.evidence = self.evidence or self._sensitivity(student)
                has_neighbours = self.evidence.balanced_share is not None
                return dataclasses.replace(start, equalize=has_neighbours, correct_biases=True)
            case "rounding":
                return dataclasses.replace(start, rounding="gptq")
            case "float_layers":
                self.evidence = self.evidence or self._sensitivity(student)
                layers, _ = self.evidence.worst_layers(ladder.FLOAT_LAYERS)
                return dataclasses.replace(start, float_modules=(*plain.float_modules, *layers))
            case "mixed":
                size = before[0].deployed.cost.size_bytes if before and before[0].deployed.cost else 0
                return self._narrowed(start, student, size - 1000 * (self.recipe.budget.size_kb or 0))
        return start

    def _train_on_grids(self, quantized: QuantizedModel, folder: Path) -> TrainingRecord:
        settings = self.recipe.distil.on_grids()
        answering = self.networks.answering(self.source, settings, self.recipe.seed)
        smoothing = self.recipe.student.training.label_smoothing

        def loss_fn(logits: Tensor, batch: Batch) -> Losses:
            known = answering(batch) if answering is not None else None
            return output_losses(logits, batch, known, settings, smoothing)

        return train_quantized(
            quantized,
            loss_fn,
            self.data,
            self.recipe.quantize.training,
            views=self.recipe.views,
            seed=self.recipe.seed,
            checkpoint=folder / CHECKPOINT,
            watch=self.watch,
        )

    # The end ----------------------------------------------------------------------------------------------------------

    def _finish(self, teacher: _Network, student: _Network, trials: list[TrialRecord]) -> RunRecord:
        comparison = self._compare()
        student.record = _timed(student.record, comparison)
        trials = [self._timed_together(teacher, trial, comparison) for trial in trials]
        chosen = self._delivered(teacher, student, trials)
        cost = chosen.deployed.cost
        assert cost is not None
        file = self.files[cost.file]
        teacher_record = _timed(teacher.record, comparison)
        int8 = ladder.best(trials) if chosen.rung == FLOAT32 else chosen
        columns = (*student.record.columns, int8.simulated, int8.deployed)
        student_record = student.record.model_copy(update={"columns": columns})
        verdict = ladder.verdict(self.recipe.budget, trials, teacher_record, student_record, self.data.kind, chosen)
        # What was delivered from another runtime stands in its trial's place, the float32 student behind all trials.
        shown = [chosen if trial.rung == chosen.rung else trial for trial in trials]
        shown += [chosen] if chosen.rung == FLOAT32 else []
        record = RunRecord(
            name=self.recipe.name,
            command=self.command,
            recipe_toml=to_toml(self.recipe),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=sum(step.seconds for step in self.ledger.used.values()),
            steps={name.rpartition("-")[0]: name for name in self.ledger.used},
            basis=basis_of(self.recipe),
            code_version=source_hash(".")[:16],
            environment=environment.describe(),
            data=self.data_record,
            budget=self.recipe.budget.model_dump(),
            teacher=teacher_record,
            student=student_record,
            advice=self.advice,
            float_modules=self.decided,
            trials=tuple(shown),
            skipped=dict(self.skipped),
            sensitivity=self.evidence,
            comparison=comparison,
            flips=self.measuring.worst_flips(student.answers["test"], load_file(file.parent / ANSWERS)["test"]),
            verdict=verdict,
            delivered=checksums(file),
        )
        self.watch.stage("writing bundle and report")
        write_bundle(self.ledger.folder / "bundle", file, record, chosen, self.measuring.fed, self.networks.kept)
        if isinstance(student.model, TokenLogits):
            self._save_for_transformers(student.model, file)
        record.save(self.ledger.records / "run.json")
        write_report(self.ledger.records, self.ledger.folder / "report.html")
        return record

    def _save_for_transformers(self, student: TokenLogits, file: Path) -> None:
        """The float32 student as a folder for other programs; for Optimum with the delivered file, if it is ONNX."""
        partial = self.ledger.folder / f".{TRANSFORMERS}.partial"
        text = self.data.preparation.get("text", {})
        save_transformers(student, partial, self.data.classes, text, self.data.several_labels)
        if file.suffix == ".onnx":
            with_mask(file, partial / "model.onnx", self.data.tokens[1])
        replace_folder(partial, self.ledger.folder / TRANSFORMERS)

    def _timed_together(self, teacher: _Network, trial: TrialRecord, comparison: ComparisonRecord) -> TrialRecord:
        """The trial with the latencies that were measured side by side, and its limits judged by them."""
        runtimes = tuple(
            entry.model_copy(
                update={
                    "latency": comparison.files[entry.file],
                    "float_latency": comparison.files[entry.float_file],
                    "float_size_bytes": size_bytes(self.files[entry.float_file]),
                    "speed": paired_speed(
                        comparison.files[entry.float_file][0].turns_ms, comparison.files[entry.file][0].turns_ms
                    ),
                }
            )
            for entry in trial.runtimes
        )
        deployed = _timed_column(trial.deployed, comparison)
        return self._judged(teacher, trial.model_copy(update={"deployed": deployed, "runtimes": runtimes}))

    def _judged(self, teacher: _Network, trial: TrialRecord) -> TrialRecord:
        return trial.model_copy(
            update={
                "breaches": self._judge(teacher, trial, "validation"),
                "test_breaches": self._judge(teacher, trial, "test"),
            }
        )

    def _delivered(self, teacher: _Network, student: _Network, trials: list[TrialRecord]) -> TrialRecord:
        """The trial to deliver: the best, or what is faster than float32 where that is not."""
        best = ladder.best(trials)
        if not ladder.is_slower(best) or not self.recipe.quantize.fall_back:
            return best
        others = [
            self._judged(teacher, self._in_runtime(student, trial, number))
            for trial in trials
            for number in range(len(trial.runtimes))
        ]
        column = student.record.column("float32")
        own = best.runtimes[0].runtime
        float32 = TrialRecord(
            rung=FLOAT32,
            reason=f"int8 measured slower than float32 in {own}",
            scheme="float32, not quantized",
            simulated=column,
            deployed=column,
            agreement=1.0,
            sqnr_db=float("inf"),
            float_operations=(),
            breaches=(),
            test_breaches=(),
            seconds=0.0,
        )
        delivered = ladder.fall_back(best, others, self._judged(teacher, float32))
        cost = delivered.deployed.cost
        assert cost is not None
        self.watch.note(f"int8 measured slower than float32 in {own}; delivered: {cost.file} ({cost.runtime})")
        return delivered

    def _in_runtime(self, student: _Network, trial: TrialRecord, number: int) -> TrialRecord:
        """The trial with the file of another of its runtimes as the deployed one, which stands first then."""
        if number == 0:
            return trial
        entry, column = trial.runtimes[number], student.record.column("float32")
        assert column.cost is not None
        answers = load_file(self.files[entry.file].parent / ANSWERS)
        cost = CostRecord(
            file=entry.file,
            runtime=entry.runtime,
            size_bytes=entry.size_bytes,
            parameters=column.cost.parameters,
            macs=column.cost.macs,
            peak_memory_bytes=None,
            latency=entry.latency,
        )
        others = tuple(other for other in trial.runtimes if other is not entry)
        return trial.model_copy(
            update={
                "deployed": self.measuring.column("int8 deployed", answers, student.answers, cost),
                "agreement": entry.agreement,
                "sqnr_db": sqnr_db(student.answers["validation"], answers["validation"]),
                "float_operations": entry.float_operations,
                "intended_float_operations": entry.intended_float_operations,
                "runtimes": (entry, *others),
            }
        )

    def _compare(self) -> ComparisonRecord:
        """All files of the run, timed side by side."""

        def make(_folder: Path) -> ComparisonRecord:
            if self.recipe.measure.tune:
                self.watch.stage("timing the settings of each file's runtime")
            tuning = self.measuring.tuned(self.files)
            self.watch.stage("timing all files side by side")
            latencies = self.measuring.latencies(self.files, tuning)
            settings = self.recipe.measure
            peak = measure_peak(min(settings.rounds * settings.seconds, MOST_PEAK_SECONDS))
            return ComparisonRecord(threads=settings.threads, files=latencies, tuning=tuning, peak=peak)

        inputs = self.measured_by | {"tune": self.recipe.measure.tune}
        inputs |= {name: checksums(path) for name, path in self.files.items()}
        return self.ledger.step("comparison", inputs, MEASURING_CODE, ComparisonRecord, make).record


def _weights_in(model: nn.Module, layer: str) -> int:
    """How many weights, without biases, a layer itself has."""
    own = model.get_submodule(layer).parameters(recurse=False)
    return sum(parameter.numel() for parameter in own if parameter.ndim > 1)


def _timed_column(column: Column, comparison: ComparisonRecord) -> Column:
    if column.cost is None:
        return column
    latency = comparison.files[column.cost.file]
    return column.model_copy(update={"cost": column.cost.model_copy(update={"latency": latency})})


def _timed(record: ModelRecord, comparison: ComparisonRecord) -> ModelRecord:
    """The record with the latencies that were measured side by side."""
    return record.model_copy(update={"columns": tuple(_timed_column(entry, comparison) for entry in record.columns)})
