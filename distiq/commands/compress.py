"""compress(recipe): the whole story, top to bottom."""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.splits import Data, check_data
from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.files import save_tensors, write_atomically
from distiq.models.audio import front_ends
from distiq.models.predictor import Predictor
from distiq.progress import Silent, Watch
from distiq.quantization.graph import check_paths, export_graph, prepare
from distiq.quantization.scheme import Scheme
from distiq.recipe.recipe import Recipe, to_toml
from distiq.records.models import Column, ModelRecord
from distiq.records.record import NOUNS, Record
from distiq.records.run import AdviceRecord, RunRecord
from distiq.records.trials import TrialRecord
from distiq.run.advise import advise
from distiq.run.climb import MEASURING_CODE, QUANTIZING_CODE, Network, Run, Trials, calibrated, float_modules
from distiq.run.deliver import deliver
from distiq.run.ledger import Ledger, Step
from distiq.run.measure import ANSWERS, Measuring
from distiq.run.train import Networks
from distiq.runtimes.export import RUNTIMES, require
from distiq.training import processes


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
        found = self.data.record()
        watch.note(
            f"{found.source}: {found.train} training, {found.validation} validation, {found.calibration} calibration,"
            f" {found.test} test {NOUNS[found.kind]}"
        )
        for note in self.data.notes:
            watch.note(note)
        self.networks = Networks(recipe, ledger, self.data, self.watch, {"teacher": teacher, "student": student})
        self.measuring = Measuring(self.data, recipe)
        measured_by = {
            "data": found.digest,
            "seed": recipe.seed,
            **recipe.measure.model_dump(exclude={"runtimes", "tune", "lengths"}),
            "runtime": recipe.measure.runtimes[0],
            "export": recipe.export.model_dump(),
            "evaluation": recipe.evaluation.model_dump(),
            "cpu": environment.describe().cpu,
            "versions": environment.describe().versions,
        }
        self.run = Run(recipe, ledger, watch, self.data, found, self.networks, self.measuring, measured_by)

    def tell(self) -> RunRecord:
        self._refuse_early()
        if processes.is_main():
            write_atomically(self.ledger.folder / "recipe.toml", to_toml(self.recipe).encode())
        teacher = self._teacher()
        advice = self._advise(teacher)
        source = self.networks.last_teacher(teacher.step)
        student = self._network("student", self.networks.student(source, self.recipe.distil, self.recipe.seed))
        trials = Trials(self.run, teacher, student, source)
        trials.climb()
        return deliver(self.run, trials, advice, self.command)

    # Before any training ----------------------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        for name in self.recipe.measure.runtimes:
            require(RUNTIMES[name], to_write=True)
        if self.data.regression:
            self._refuse_classes()
        elif self.recipe.budget.correlation_drop_points is not None:
            raise UserError(
                "budget.correlation_drop_points is for regression (data.text.target); limit accuracy_drop_points"
                " instead"
            )
        if self.recipe.budget.auc_drop_points is not None and len(self.data.classes) != 2:
            raise UserError(
                f"budget.auc_drop_points is for two classes, the data has {len(self.data.classes)}; limit"
                " accuracy_drop_points instead"
            )
        several = self.data.multi_label
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
        if self.recipe.export.uint8_input and (self.data.kind != "image" or pixels != torch.uint8):
            raise UserError(
                f"export.uint8_input is for images of uint8; the {NOUNS[self.data.kind]} of this run are"
                f" {str(pixels).removeprefix('torch.')}; set it to false"
            )
        for role, model in self.networks.refuse_early().items():
            if isinstance(model, Predictor):
                continue
            graph = export_graph(model, self.measuring.example)
            if role == "student":
                check_paths(graph, self.recipe.quantize.float_modules or ())
                if self.recipe.export.integer_io:
                    asked = self.recipe.quantize.float_modules
                    kept = front_ends(model) if asked is None else asked
                    prepare(graph, Scheme(float_modules=kept, integer_io=True))

    def _refuse_classes(self) -> None:
        """Raises UserError if the recipe asks for what classes alone have, where samples have a number."""
        budget = self.recipe.budget
        unfit = {"budget.accuracy_drop_points": budget.accuracy_drop_points is not None,
                 "budget.auc_drop_points": budget.auc_drop_points is not None,
                 "budget.f1_drop_points": budget.f1_drop_points is not None,
                 "evaluation.keyword": bool(self.recipe.evaluation.keyword),
                 "teacher.predict": bool(self.recipe.teacher.predict)}  # fmt: skip
        if names := [name for name, is_set in unfit.items() if is_set]:
            instead = "limit correlation_drop_points instead" if "budget" in names[0] else "leave it out"
            raise UserError(f"{names[0]} is for classes, but each sample of this data has a number; {instead}")

    # Teacher and student ----------------------------------------------------------------------------------------------

    def _teacher(self) -> Network:
        teacher = self._network("teacher", self.networks.teacher())
        self.measuring.teacher, self.run.beside = teacher.answers, teacher.step.key
        quantized = () if isinstance(teacher.model, Predictor) else self._quantized_teacher(teacher)
        columns = (*teacher.record.columns, *quantized)
        teacher.record = teacher.record.model_copy(update={"columns": columns})
        return teacher

    def _advise(self, teacher: Network) -> AdviceRecord | None:
        """Says what is known of the teacher before hours are spent on its student."""
        if self.recipe.distil.teacher == "none":
            return None
        validation = self.data.validation.labels
        advice = advise(
            self.recipe,
            teacher.record.column("float32").validation,
            teacher.answers["validation"],
            validation,
            self.data.train.labels,
            self.data.classes,
            (teacher.record.parameters, parameter_count(self.networks.build("student"))),
        )
        for warning in advice.warnings:
            self.watch.note(f"warning: {warning}")
        return advice

    def _network(self, role: str, step: Step) -> Network:
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

        key = self.run.measured_by | {"network": step.key, "form": "float32", "beside": self.run.beside}
        measured = self.ledger.step(f"{role}-float32", key, MEASURING_CODE, Measured, measure)
        if is_network:
            self.run.files[f"{role}-float32"] = measured.folder / self.measuring.model_file
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
        return Network(model, step, load_file(measured.folder / ANSWERS), record)

    def _quantized_teacher(self, teacher: Network) -> tuple[Column, Column]:
        """What quantizing the teacher itself would give: the reference that a student has to beat."""
        mode = self.recipe.quantize.mode
        decided = float_modules(self.run, "teacher", teacher, None, Scheme(mode=mode))
        kept = decided.paths if decided and decided.kept else ()
        scheme = Scheme(float_modules=kept, mode=mode, rounding="gptq")

        def make(folder: Path) -> TrialRecord:
            self.watch.stage("quantizing the teacher, as a reference")
            quantized = calibrated(self.run, teacher.model, scheme)
            return self.measuring.quantized(
                folder, "teacher-int8", scheme.mode, "reference", quantized, teacher.model, teacher.answers
            )

        inputs = self.run.measured_by | {"network": teacher.step.key, "scheme": dataclasses.asdict(scheme)}
        step = self.ledger.step("teacher-int8", inputs, QUANTIZING_CODE, TrialRecord, make)
        self.run.files["teacher-int8"] = step.folder / self.measuring.model_file
        return step.record.simulated, step.record.deployed
