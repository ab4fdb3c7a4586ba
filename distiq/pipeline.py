"""compress(recipe): the whole story, top to bottom."""

import dataclasses
import datetime
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from distiq import environment, ladder
from distiq.advice import advise
from distiq.bundle import write_bundle
from distiq.data.load import load as load_data
from distiq.data.splits import Data, check_data
from distiq.distillation.distil import output_losses
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.files import save_tensors, sha256_of_file, write_atomically
from distiq.ledger import CHECKPOINT, Ledger, Step, source_hash
from distiq.measuring import ANSWERS, SIMULATED, Answers, Measuring
from distiq.networks import TRAINING_CODE, WEIGHTS, Networks, basis_of
from distiq.progress import Silent, Watch
from distiq.quantization.graph import export_graph
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.scheme import Scheme
from distiq.recipe import Recipe, Rung, to_toml
from distiq.records import (
    AdviceRecord,
    Breach,
    Column,
    ComparisonRecord,
    ModelRecord,
    Record,
    RunRecord,
    RuntimeRecord,
    TrainingRecord,
    TrialRecord,
)
from distiq.report.report import write_report
from distiq.runtimes.export import RUNTIMES, export, load, require, size_bytes
from distiq.training import Batch, Losses

MEASURING_CODE = ("measuring.py", "evaluation", "runtimes", "data", "numerics.py", "records.py")
QUANTIZING_CODE = (*MEASURING_CODE, "quantization", "training.py")


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
        self.began = time.monotonic()
        environment.keep_freed_memory()
        watch.stage("reading data")
        self.data = data or load_data(recipe.data, recipe.seed)
        check_data(self.data)
        self.data_record = found = self.data.record()
        watch.note(
            f"{found.source}: {found.train} training, {found.validation} validation, {found.calibration} calibration,"
            f" {found.test} test images"
        )
        self.networks = Networks(recipe, ledger, self.data, self.watch, {"teacher": teacher, "student": student})
        self.measuring = Measuring(self.data, recipe.measure)
        self.files: dict[str, Path] = {}
        self.beside = ""  # the teacher whose answers the columns are compared with
        self.measured_by = {
            "data": found.digest,
            "seed": recipe.seed,
            **recipe.measure.model_dump(exclude={"runtimes"}),
            "runtime": recipe.measure.runtimes[0],
            "cpu": environment.describe().cpu,
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
        for model in self.networks.refuse_early().values():
            export_graph(model, self.measuring.example)

    # Teacher and student ----------------------------------------------------------------------------------------------

    def _teacher(self) -> _Network:
        teacher = self._network("teacher", self.networks.teacher())
        self.measuring.teacher, self.beside = teacher.answers, teacher.step.key
        columns = (*teacher.record.columns, *self._quantized_teacher(teacher))
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
        """A trained network; its float32 file is exported and measured in a step of its own."""
        model = self.networks.load(role, step)

        def measure(folder: Path) -> Measured:
            self.watch.stage(f"measuring the {role}'s float32 file")
            export(model, folder / self.measuring.model_file, self.measuring.example)
            return Measured(column=self.measuring.file("float32", f"{role}-float32", folder, model)[0])

        key = self.measured_by | {"network": step.key, "form": "float32", "beside": self.beside}
        measured = self.ledger.step(f"{role}-float32", key, MEASURING_CODE, Measured, measure)
        self.files[f"{role}-float32"] = measured.folder / self.measuring.model_file
        given = self.networks.given[role]
        record = ModelRecord(
            role="teacher" if role == "teacher" else "student",
            model=self.networks.settings(role).model if given is None else type(model).__name__,
            origin=step.record.origin,
            parameters=parameter_count(model),
            macs=multiply_adds(model, self.measuring.example),
            columns=(measured.record.column,),
            training=step.record.training,
        )
        return _Network(model, step, load_file(measured.folder / ANSWERS), record)

    # Quantization -----------------------------------------------------------------------------------------------------

    def _calibrated(self, model: nn.Module, scheme: Scheme) -> QuantizedModel:
        return quantize(model, self.data.normalize(self.data.calibration.inputs), scheme)

    def _quantized_teacher(self, teacher: _Network) -> tuple[Column, Column]:
        """What quantizing the teacher itself would give: the reference that a student has to beat."""

        def make(folder: Path) -> TrialRecord:
            self.watch.stage("quantizing the teacher, as a reference")
            quantized = self._calibrated(teacher.model, Scheme())
            return self.measuring.quantized(
                folder, "teacher-int8", "static", "reference", quantized, teacher.model, teacher.answers
            )

        inputs = self.measured_by | {"network": teacher.step.key, "scheme": str(Scheme())}
        step = self.ledger.step("teacher-int8", inputs, QUANTIZING_CODE, TrialRecord, make)
        self.files["teacher-int8"] = step.folder / self.measuring.model_file
        return step.record.simulated, step.record.deployed

    def _climb(self, teacher: _Network, student: _Network) -> list[TrialRecord]:
        """The attempts, in order; each is kept with its file."""
        trials: list[TrialRecord] = []
        rungs, budget = self.recipe.quantize.rungs, self.recipe.budget
        top1 = [network.record.column("float32").validation.top1 for network in (teacher, student)]
        while following := ladder.next_rung(rungs, trials, budget, 100 * (top1[0] - top1[1])):
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
        return trials

    def _judge(self, teacher: _Network, trial: TrialRecord, split: str) -> tuple[Breach, ...]:
        cost = trial.deployed.cost
        assert cost is not None
        wanted, found = getattr(teacher.record.column("float32"), split).top1, getattr(trial.deployed, split).top1
        return ladder.judge(self.recipe.budget, wanted, found, cost.size_bytes, cost.at_batch(1).p50_ms)

    def _attempt(self, rung: Rung, teacher: _Network, student: _Network, trials: list[TrialRecord]) -> TrialRecord:
        scheme = self._scheme(rung, trials)
        inputs = self.measured_by | {"student": student.step.key, "beside": self.beside, "scheme": str(scheme)}
        if rung == "qat":
            inputs |= {
                "training": self.recipe.quantize.training.model_dump(),
                "views": self.recipe.views.model_dump(),
                "distil": self.recipe.distil.model_dump(),
            }

        def make(folder: Path) -> TrialRecord:
            self.watch.stage(f"{rung}: {ladder.WHAT_IT_IS[rung]}")
            quantized = self._calibrated(student.model, scheme)
            training = self._train_on_grids(quantized, folder) if rung == "qat" else None
            save_tensors(quantized.state_dict(), folder / WEIGHTS)
            return self.measuring.quantized(
                folder, f"student-{rung}", rung, "", quantized, student.model, student.answers, training
            )

        code = (*QUANTIZING_CODE, *TRAINING_CODE) if rung == "qat" else QUANTIZING_CODE
        step = self.ledger.step(f"trial-{rung}", inputs, code, TrialRecord, make)
        self.files[f"student-{rung}"] = step.folder / self.measuring.model_file
        others = tuple(self._elsewhere(name, rung, scheme, step, student) for name in self.recipe.measure.runtimes[1:])
        return step.record.model_copy(update={"runtimes": (*step.record.runtimes, *others)})

    def _elsewhere(self, name: str, rung: Rung, scheme: Scheme, trial: Step, student: _Network) -> RuntimeRecord:
        """A trial's graph as the file of another runtime than the delivered one, beside its float32 file."""
        ending = RUNTIMES[name].ending
        file, float_file = f"student-{rung}-{name}", f"student-float32-{name}"
        inputs = {"runtime": name, "data": self.data_record.digest, "cpu": environment.describe().cpu}

        def make_float(folder: Path) -> Record:
            self.watch.stage(f"the student's float32 file for {RUNTIMES[name].title}")
            export(student.model, folder / f"model{ending}", self.measuring.example)
            return Record()

        def make(folder: Path) -> RuntimeRecord:
            self.watch.stage(f"{rung}: the file for {RUNTIMES[name].title}")
            path, example = folder / f"model{ending}", self.measuring.example
            quantized = restore(student.model, example, scheme, load_file(trial.folder / WEIGHTS))
            export(quantized, path, example)
            answers = self.measuring.answers(load(path, self.recipe.measure.threads))
            save_tensors(answers, folder / ANSWERS)
            simulated = load_file(trial.folder / SIMULATED)
            return self.measuring.in_runtime(path, file, quantized, simulated["test"], answers["test"])

        code = QUANTIZING_CODE
        plain = self.ledger.step(float_file, inputs | {"network": student.step.key}, code, Record, make_float)
        step = self.ledger.step(f"trial-{rung}-{name}", inputs | {"trial": trial.key}, code, RuntimeRecord, make)
        self.files |= {float_file: plain.folder / f"model{ending}", file: step.folder / f"model{ending}"}
        return step.record

    def _scheme(self, rung: Rung, trials: list[TrialRecord]) -> Scheme:
        """The scheme of a rung; rounding and training start from the best that was found without training."""
        percentile = self.recipe.quantize.percentile
        match rung:
            case "static":
                return Scheme()
            case "mse":
                return Scheme(ranges="mse")
            case "percentile":
                return Scheme(ranges="percentile", percentile=percentile)
        rungs = [trial.rung for trial in trials]
        before = trials[: rungs.index("rounding") + 1] if "rounding" in rungs else trials
        untrained = [trial for trial in before if trial.training is None]
        best = max(untrained, key=lambda trial: trial.sqnr_db).rung if untrained else "mse"
        if best == "rounding":
            return self._scheme("rounding", [trial for trial in untrained if trial.rung != "rounding"])
        start = self._scheme(best, [])  # type: ignore[arg-type]
        return dataclasses.replace(start, rounding="gptq") if rung == "rounding" else start

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
        trials = [self._timed_together(teacher, trial, comparison) for trial in trials]
        chosen = ladder.best(trials)
        file = self.files[f"student-{chosen.rung}"]
        teacher_record = _timed(teacher.record, comparison)
        columns = (*student.record.columns, chosen.simulated, chosen.deployed)
        student_record = _timed(student.record.model_copy(update={"columns": columns}), comparison)
        record = RunRecord(
            name=self.recipe.name,
            command=self.command,
            recipe_toml=to_toml(self.recipe),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began,
            basis=basis_of(self.recipe),
            code_version=source_hash(".")[:16],
            environment=environment.describe(),
            data=self.data_record,
            budget=self.recipe.budget.model_dump(),
            teacher=teacher_record,
            student=student_record,
            advice=self.advice,
            trials=tuple(trials),
            comparison=comparison,
            flips=self.measuring.worst_flips(student.answers["test"], load_file(file.parent / ANSWERS)["test"]),
            verdict=ladder.verdict(self.recipe.budget, trials, teacher_record, student_record),
        )
        self.watch.stage("writing bundle and report")
        write_bundle(self.ledger.folder / "bundle", file, record, chosen, self.data)
        record.save(self.ledger.records / "run.json")
        write_report(self.ledger.records, self.ledger.folder / "report.html")
        return record

    def _timed_together(self, teacher: _Network, trial: TrialRecord, comparison: ComparisonRecord) -> TrialRecord:
        """The trial with the latencies that were measured side by side, and its limits judged by them."""
        runtimes = tuple(
            entry.model_copy(
                update={
                    "latency": comparison.files[entry.file],
                    "float_latency": comparison.files[entry.float_file],
                    "float_size_bytes": size_bytes(self.files[entry.float_file]),
                }
            )
            for entry in trial.runtimes
        )
        deployed = _timed_column(trial.deployed, comparison)
        trial = trial.model_copy(update={"deployed": deployed, "runtimes": runtimes})
        return trial.model_copy(
            update={
                "breaches": self._judge(teacher, trial, "validation"),
                "test_breaches": self._judge(teacher, trial, "test"),
            }
        )

    def _compare(self) -> ComparisonRecord:
        """All files of the run, timed side by side."""

        def make(_folder: Path) -> ComparisonRecord:
            self.watch.stage("timing all files side by side")
            return ComparisonRecord(threads=self.recipe.measure.threads, files=self.measuring.latencies(self.files))

        inputs = self.measured_by | {name: sha256_of_file(path) for name, path in self.files.items()}
        return self.ledger.step("comparison", inputs, MEASURING_CODE, ComparisonRecord, make).record


def _timed_column(column: Column, comparison: ComparisonRecord) -> Column:
    if column.cost is None:
        return column
    latency = comparison.files[column.cost.file]
    return column.model_copy(update={"cost": column.cost.model_copy(update={"latency": latency})})


def _timed(record: ModelRecord, comparison: ComparisonRecord) -> ModelRecord:
    """The record with the latencies that were measured side by side."""
    return record.model_copy(update={"columns": tuple(_timed_column(entry, comparison) for entry in record.columns)})
