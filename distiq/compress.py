"""compress(recipe): the whole story, top to bottom."""

import base64
import datetime
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distiq import environment, ladder
from distiq.bundle import write_bundle
from distiq.data.load import load as load_data
from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.distil import check_pairs, distil, output_losses
from distiq.distillation.teacher import LiveTeacher, Teacher
from distiq.evaluation.cost import latencies, multiply_adds, parameter_count
from distiq.evaluation.evaluate import Predict, agreement, outputs, score
from distiq.files import sha256_of_file, sha256_of_json, write_atomically
from distiq.ledger import CHECKPOINT, Ledger, Step, source_hash
from distiq.models.build import build, check_output, load_weights
from distiq.numerics import sqnr_db
from distiq.progress import Silent, Watch
from distiq.quantization.graph import export_graph
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe import ModelSettings, Recipe, Rung, to_toml
from distiq.records import (
    Column,
    ColumnName,
    ComparisonRecord,
    CostRecord,
    FlipRecord,
    LatencyRecord,
    ModelRecord,
    Record,
    RunRecord,
    TrainingRecord,
    TrialRecord,
)
from distiq.report.report import write_report
from distiq.runtimes.export import RUNTIMES, export, load
from distiq.runtimes.onnx_runtime import float_operations, peak_memory_bytes

WEIGHTS, MODEL_FILE, ANSWERS = "weights.safetensors", "model.onnx", "answers.safetensors"
TRAINING_CODE = ("training.py", "numerics.py", "data", "models", "distillation")
MEASURING_CODE = ("evaluation", "runtimes", "data", "numerics.py", "records.py")
QUANTIZING_CODE = ("quantization", "runtimes", "evaluation", "data", "numerics.py", "records.py", "training.py")
WORST_FLIPS = 12


class Trained(Record):
    """The record of a step that leaves weights."""

    origin: str
    training: TrainingRecord | None


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
    """A trained network, its step's key, and what is known of it."""

    model: nn.Module
    step: Step
    settings: ModelSettings
    name: str


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
        self.data_record = self.data.record()
        watch.note(
            f"{self.data_record.source}: {self.data_record.train} training, {self.data_record.validation} validation,"
            f" {self.data_record.calibration} calibration, {self.data_record.test} test images"
        )
        self.given = {"teacher": teacher, "student": student}
        self.example = self.data.normalize(self.data.calibration.images[:2])
        self.shared = {"data": self.data_record.digest, "seed": recipe.seed}

    def tell(self) -> RunRecord:
        self._refuse_early()
        write_atomically(self.ledger.folder / "recipe.toml", to_toml(self.recipe).encode())
        teacher = self._teacher()
        teacher_record = self._float_record(teacher, "teacher")
        student = self._student(teacher)
        student_record = self._float_record(student, "student")
        trials = self._climb(teacher, student, teacher_record, student_record)
        return self._finish(teacher, student, teacher_record, student_record, trials)

    # Before any training ------------------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        """Builds both networks and traces them: what cannot work is refused before anything is trained."""
        self.watch.stage("checking both networks")
        self.built = {role: self._build(role) for role in ("teacher", "student")}
        for role, model in self.built.items():
            check_output(model, len(self.data.classes), self.data.image_shape, role)
        export_graph(self.built["student"], self.example)
        if self.recipe.distil.teacher != "none":
            check_pairs(self.built["student"], self.built["teacher"], self.recipe.distil, self.example)

    def _settings(self, role: str) -> ModelSettings:
        return self.recipe.teacher if role == "teacher" else self.recipe.student

    def _build(self, role: str) -> nn.Module:
        given = self.given[role]
        if given is not None:
            return given
        set_seed(self.recipe.seed)
        return build(self._settings(role), len(self.data.classes), self.data.image_shape, role)

    def _network_inputs(self, role: str) -> dict[str, Any]:
        given, settings = self.given[role], self._settings(role)
        if given is not None:
            state = {key: value.contiguous().numpy().tobytes().hex() for key, value in given.state_dict().items()}
            return {"given": sha256_of_json([str(given), state])}
        inputs = {"model": settings.model, "options": settings.options}
        for key, path in (("code", settings.model.rpartition(":")[0]), ("weights", settings.weights)):
            if path and Path(path).is_file():
                inputs[key] = sha256_of_file(Path(path))
            elif key == "weights":
                inputs[key] = path
        return inputs

    # Teacher and student ------------------------------------------------------------------------------------------

    def _teacher(self) -> _Network:
        settings, given = self.recipe.teacher, self.given["teacher"] is not None
        loaded = given or bool(settings.weights)
        inputs = self.shared | {"network": self._network_inputs("teacher")}
        if not loaded:
            inputs |= {"training": settings.training.model_dump(), "views": self.recipe.views.model_dump()}

        def make(folder: Path) -> Trained:
            if loaded:
                save_file(_state(self.built["teacher"]), folder / WEIGHTS)
                return Trained(origin="given" if given else f"loaded from {settings.weights}", training=None)
            plain = self.recipe.distil.model_copy(update={"teacher": "none", "hints": (), "attention": ()})
            return self._train(self.built["teacher"], None, plain, settings, "teacher", folder)

        return self._network("teacher", inputs, make)

    def _student(self, teacher: _Network) -> _Network:
        settings = self.recipe.student
        inputs = self.shared | {
            "network": self._network_inputs("student"),
            "training": settings.training.model_dump(),
            "views": self.recipe.views.model_dump(),
            "distil": self.recipe.distil.model_dump(),
            "teacher": teacher.step.key if self.recipe.distil.teacher != "none" else None,
        }

        def make(folder: Path) -> Trained:
            answering = self._answering(teacher)
            return self._train(self.built["student"], answering, self.recipe.distil, settings, "student", folder)

        return self._network("student", inputs, make)

    def _network(self, role: str, inputs: dict[str, Any], make: Callable[[Path], Trained]) -> _Network:
        step = self.ledger.step(role, inputs, TRAINING_CODE, Trained, make)
        model = self.built[role]
        load_weights(model, step.folder / WEIGHTS)
        settings = self._settings(role)
        name = settings.model if self.given[role] is None else type(model).__name__
        return _Network(model.eval(), step, settings, name)

    def _train(
        self,
        model: nn.Module,
        teacher: Teacher | None,
        distillation: Any,
        settings: ModelSettings,
        role: str,
        folder: Path,
    ) -> Trained:
        how = "" if role == "teacher" else " without a teacher" if teacher is None else " with the teacher"
        self.watch.stage(f"training the {role}{how}")
        trained, record = distil(
            model,
            teacher,
            self.data,
            distillation,
            settings.training,
            views=self.recipe.views,
            seed=self.recipe.seed,
            stage=role,
            checkpoint=folder / CHECKPOINT,
            watch=self.watch,
        )
        save_file(_state(trained), folder / WEIGHTS)
        last = record.epochs[-1]
        self.watch.note(
            f"{record.steps} steps in {record.seconds:.0f} s ({record.precision}), validation accuracy"
            f" {100 * (last.validation_accuracy or 0):.2f} %"
        )
        return Trained(origin="trained here", training=record)

    def _answering(self, teacher: _Network) -> Teacher | None:
        """The teacher as the recipe wants it; its stored outputs serve the student and the training on grids."""
        settings = self.recipe.distil
        if settings.teacher == "none":
            return None
        live = LiveTeacher(teacher.model, [pair.teacher for pair in (*settings.hints, *settings.attention)])
        if settings.teacher == "live":
            return live
        views = Views(self.recipe.views, self.recipe.seed)
        key = f"{teacher.step.key} {self.data_record.digest} {self.recipe.views.model_dump_json()} {self.recipe.seed}"
        folder = self.ledger.folder / "cache" / f"teacher-{teacher.step.key}"
        return CachedTeacher(live, self.data, views, folder, key, self.watch)

    # Measuring ----------------------------------------------------------------------------------------------------

    def _float_record(self, network: _Network, role: str) -> ModelRecord:
        """Exports the float network and measures the file; the teacher is also quantized, as a reference."""

        def make(folder: Path) -> Measured:
            self.watch.stage(f"measuring the {role}'s float32 file")
            export(network.model, folder / MODEL_FILE, self.example)
            column, _ = self._measure("float32", f"{role}-float32", folder, network.model)
            return Measured(column=column)

        inputs = {"network": network.step.key, "measure": self._measuring_inputs(), "form": "float32"}
        step = self.ledger.step(f"{role}-float32", inputs, MEASURING_CODE, Measured, make)
        columns = [step.record.column]
        if role == "teacher":
            self.files = {"teacher-float32": step.folder / MODEL_FILE}
            self.teacher_answers = load_file(step.folder / ANSWERS)
            columns += self._quantized_teacher(network)
        else:
            self.files["student-float32"] = step.folder / MODEL_FILE
            self.student_answers = load_file(step.folder / ANSWERS)
        return ModelRecord(
            role="teacher" if role == "teacher" else "student",
            model=network.name,
            origin=network.step.record.origin,
            parameters=parameter_count(network.model),
            macs=multiply_adds(network.model, self.example),
            columns=tuple(columns),
            training=network.step.record.training,
        )

    def _quantized_teacher(self, teacher: _Network) -> list[Column]:
        """What quantizing the teacher itself would give: the reference that a student has to beat."""

        def make(folder: Path) -> TrialRecord:
            self.watch.stage("quantizing the teacher, as a reference")
            quantized = quantize(teacher.model, self._calibration(), Scheme())
            return self._trial(
                folder, "teacher-int8", "static", "reference", quantized, teacher.model, self.teacher_answers, None
            )

        inputs = {"network": teacher.step.key, "measure": self._measuring_inputs(), "scheme": str(Scheme())}
        step = self.ledger.step("teacher-int8", inputs, QUANTIZING_CODE, TrialRecord, make)
        self.files["teacher-int8"] = step.folder / MODEL_FILE
        return [step.record.simulated, step.record.deployed]

    def _measuring_inputs(self) -> dict[str, Any]:
        return {**self.shared, **self.recipe.measure.model_dump(), "cpu": environment.describe().cpu}

    def _calibration(self) -> Tensor:
        return self.data.normalize(self.data.calibration.images)

    def _measure(
        self,
        name: ColumnName,
        file: str,
        folder: Path,
        model: nn.Module,
        float_answers: dict[str, Tensor] | None = None,
    ) -> tuple[Column, dict[str, Tensor]]:
        """The column of an exported file, and its answers, which are also kept in the folder."""
        path = folder / MODEL_FILE
        predict = load(path, self.recipe.measure.threads)
        answers = self._answers(predict)
        save_file(answers, folder / ANSWERS)
        cost = CostRecord(
            file=file,
            runtime=RUNTIMES[path.suffix],
            size_bytes=path.stat().st_size,
            parameters=parameter_count(model),
            macs=multiply_adds(model, self.example),
            peak_memory_bytes=peak_memory_bytes(path, (1, *self.data.image_shape)),
            latency=self._latencies({file: path})[file],
        )
        return self._column(name, answers, float_answers, cost), answers

    def _answers(self, predict: Predict) -> dict[str, Tensor]:
        return {
            "test": outputs(predict, self.data, self.data.test),
            "validation": outputs(predict, self.data, self.data.validation),
        }

    def _column(
        self,
        name: ColumnName,
        answers: dict[str, Tensor],
        float_answers: dict[str, Tensor] | None,
        cost: CostRecord | None,
    ) -> Column:
        teacher = getattr(self, "teacher_answers", None)
        scores = {
            part: score(
                answers[part],
                getattr(self.data, part).labels,
                len(self.data.classes),
                teacher[part] if teacher else None,
                float_answers[part] if float_answers else None,
            )
            for part in ("test", "validation")
        }
        return Column(name=name, cost=cost, **scores)

    def _latencies(self, files: dict[str, Path]) -> dict[str, tuple[LatencyRecord, ...]]:
        """Latency at batch 1 and throughput at the larger batch, of all files side by side."""
        measure = self.recipe.measure
        models = {name: load(path, measure.threads) for name, path in files.items()}
        test = self.data.test.images
        sizes = sorted({1, measure.throughput_batch})
        found: dict[str, tuple[LatencyRecord, ...]] = dict.fromkeys(files, ())
        for size in sizes:
            images = test[torch.arange(size) % len(test)]
            timed = latencies(models, self.data.normalize(images), measure.threads, measure.rounds, measure.seconds)
            found = {name: (*found[name], timed[name]) for name in files}
        return found

    # The ladder ---------------------------------------------------------------------------------------------------

    def _climb(
        self, teacher: _Network, student: _Network, teacher_record: ModelRecord, student_record: ModelRecord
    ) -> list[tuple[TrialRecord, Path]]:
        trials: list[tuple[TrialRecord, Path]] = []
        rungs, budget = self.recipe.quantize.rungs, self.recipe.budget
        top1 = [record.column("float32").validation.top1 for record in (teacher_record, student_record)]
        float_drop = 100 * (top1[0] - top1[1])
        while following := ladder.next_rung(rungs, [record for record, _ in trials], budget, float_drop):
            step = self._attempt(following, teacher, student, teacher_record, trials)
            trials.append((step.record, step.folder))
        return trials

    def _attempt(
        self,
        following: ladder.Next,
        teacher: _Network,
        student: _Network,
        teacher_record: ModelRecord,
        trials: list[tuple[TrialRecord, Path]],
    ) -> Step:
        rung = following.rung
        scheme = self._scheme(rung, trials)
        inputs = self._measuring_inputs() | {
            "student": student.step.key,
            "teacher": teacher.step.key,
            "scheme": str(scheme),
            "reason": following.reason,
            "budget": self.recipe.budget.model_dump(),
        }
        if rung == "qat":
            inputs |= {
                "training": self.recipe.quantize.training.model_dump(),
                "views": self.recipe.views.model_dump(),
                "distil": self.recipe.distil.model_dump(),
            }

        def make(folder: Path) -> TrialRecord:
            self.watch.stage(f"{rung}: {ladder.WHAT_IT_IS[rung]}")
            quantized = quantize(student.model, self._calibration(), scheme)
            training = self._train_on_grids(quantized, teacher, folder) if rung == "qat" else None
            save_file(_state(quantized), folder / WEIGHTS)
            record = self._trial(
                folder,
                f"student-{rung}",
                rung,
                following.reason,
                quantized,
                student.model,
                self.student_answers,
                training,
                teacher_record,
            )
            broken = ", ".join(f"{b.limit} by {b.excess:.3g} {b.unit}" for b in record.breaches)
            self.watch.note(
                f"{100 * record.deployed.test.top1:.2f} % on the test set,"
                f" {record.deployed.cost.size_bytes / 1000:.1f} KB;"  # type: ignore[union-attr]
                f" {'misses ' + broken if broken else 'every limit holds'} (validation)"
            )
            return record

        code = QUANTIZING_CODE + (("distillation", "models") if rung == "qat" else ())
        step = self.ledger.step(f"trial-{rung}", inputs, code, TrialRecord, make)
        self.files[f"student-{rung}"] = step.folder / MODEL_FILE
        return step

    def _scheme(self, rung: Rung, trials: list[tuple[TrialRecord, Path]]) -> Scheme:
        """The scheme of a rung; training starts from the best ranges that were found."""
        settings = self.recipe.quantize
        if rung == "qat":
            calibrated = [record for record, _ in trials if record.training is None]
            rung = max(calibrated, key=lambda record: record.sqnr_db).rung if calibrated else "mse"  # type: ignore[assignment]
        match rung:
            case "percentile":
                return Scheme(ranges="percentile", percentile=settings.percentile)
            case "mse":
                return Scheme(ranges="mse")
            case _:
                return Scheme()

    def _train_on_grids(self, quantized: QuantizedModel, teacher: _Network, folder: Path) -> TrainingRecord:
        settings = self.recipe.distil
        answering = self._answering(teacher)
        smoothing = self.recipe.student.training.label_smoothing

        def loss_fn(logits: Tensor, batch: Any) -> Any:
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

    def _trial(
        self,
        folder: Path,
        file: str,
        rung: str,
        reason: str,
        quantized: QuantizedModel,
        model: nn.Module,
        float_answers: dict[str, Tensor],
        training: TrainingRecord | None,
        teacher_record: ModelRecord | None = None,
    ) -> TrialRecord:
        """Exports a quantized model and measures it simulated and deployed, against its own float network."""
        began = time.monotonic()
        export(quantized, folder / MODEL_FILE, self.example)
        simulated = self._answers(quantized)
        deployed_column, deployed = self._measure("int8 deployed", file, folder, model, float_answers)
        cost = deployed_column.cost
        assert cost is not None
        breaches = {
            part: ladder.judge(
                self.recipe.budget,
                getattr(teacher_record.column("float32"), part).top1,
                getattr(deployed_column, part).top1,
                cost.size_bytes,
                cost.at_batch(1).p50_ms,
            )
            if teacher_record
            else ()
            for part in ("test", "validation")
        }
        return TrialRecord(
            rung=rung,
            reason=reason,
            scheme=str(quantized.scheme) + (", trained on its grids" if training else ""),
            simulated=self._column("int8 simulated", simulated, float_answers, None),
            deployed=deployed_column,
            agreement=agreement(simulated["test"], deployed["test"]),
            sqnr_db=sqnr_db(float_answers["test"], deployed["test"]),
            float_operations=float_operations(folder / MODEL_FILE),
            breaches=breaches["validation"],
            test_breaches=breaches["test"],
            seconds=time.monotonic() - began + (training.seconds if training else 0.0),
            training=training,
        )

    # The end ------------------------------------------------------------------------------------------------------

    def _finish(
        self,
        teacher: _Network,
        student: _Network,
        teacher_record: ModelRecord,
        student_record: ModelRecord,
        trials: list[tuple[TrialRecord, Path]],
    ) -> RunRecord:
        records = tuple(record for record, _ in trials)
        chosen = ladder.best(records)
        folder = next(folder for record, folder in trials if record is chosen)
        comparison = self._compare()
        student_record = student_record.model_copy(
            update={"columns": (*student_record.columns, chosen.simulated, chosen.deployed)}
        )
        record = RunRecord(
            name=self.recipe.name,
            command=self.command,
            recipe_toml=to_toml(self.recipe),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began,
            code_version=source_hash(".")[:16],
            environment=environment.describe(),
            data=self.data_record,
            budget=self.recipe.budget.model_dump(),
            teacher=teacher_record,
            student=student_record,
            trials=records,
            comparison=comparison,
            flips=self._flips(load_file(folder / ANSWERS)["test"]),
            verdict=ladder.verdict(self.recipe.budget, records, teacher_record, student_record),
        )
        self.watch.stage("writing bundle and report")
        write_bundle(self.ledger.folder / "bundle", folder / MODEL_FILE, record, chosen, self.data)
        record.save(self.ledger.records / "run.json")
        write_report(self.ledger.records, self.ledger.folder / "report.html")
        return record

    def _compare(self) -> ComparisonRecord:
        def make(_folder: Path) -> ComparisonRecord:
            self.watch.stage("timing all files side by side")
            return ComparisonRecord(threads=self.recipe.measure.threads, files=self._latencies(self.files))

        inputs = self._measuring_inputs() | {name: sha256_of_file(path) for name, path in self.files.items()}
        return self.ledger.step("comparison", inputs, MEASURING_CODE, ComparisonRecord, make).record

    def _flips(self, deployed: Tensor) -> tuple[FlipRecord, ...]:
        """The test images whose right answer was lost to quantization, the most confident first."""
        before = torch.softmax(self.student_answers["test"], 1)
        labels = self.data.test.labels
        changed = (before.argmax(1) != deployed.argmax(1)) & (before.argmax(1) == labels)
        order = sorted(changed.nonzero().flatten().tolist(), key=lambda index: -float(before[index].max()))
        return tuple(
            FlipRecord(
                index=index,
                label=int(labels[index]),
                before=int(before[index].argmax()),
                after=int(deployed[index].argmax()),
                confidence_before=float(before[index].max()),
                image_png=_png(self.data.test.images[index]),
            )
            for index in order[:WORST_FLIPS]
        )


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}


def _png(image: Tensor) -> str:
    """A (C, H, W) image as base64 PNG; float images are stretched to 0..255."""
    from PIL import Image

    if image.dtype != torch.uint8:
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low + 1e-12) * 255).byte()
    array = image[0].numpy() if image.shape[0] == 1 else image[:3].permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
