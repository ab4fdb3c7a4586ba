"""The end of a run: its record, the bundle and the report."""

import datetime
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from distiq import environment
from distiq.bundle.write import write_bundle
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.evaluation.cost import parameter_count
from distiq.evaluation.paired import paired_drop
from distiq.files import replace_folder
from distiq.models.transformer import TokenLogits, check_saved, save_transformers
from distiq.models.vectors import StaticVectors, TokenVectors, check_vectors, save_vectors
from distiq.recipe.recipe import Recipe, to_toml
from distiq.records.models import Column, ModelRecord
from distiq.records.run import AdviceRecord, DropRecord, RunRecord, VerdictRecord
from distiq.records.speed import ComparisonRecord
from distiq.records.task import TaskRecord
from distiq.records.trials import FLOAT32
from distiq.report.report import write_report
from distiq.report.wording import next_step, verdict_sentence
from distiq.run.climb import Climbed
from distiq.run.compare import Files, ModelFile
from distiq.run.flips import worst_flips
from distiq.run.keys import source_hash
from distiq.run.ladder import drop_title
from distiq.run.ledger import Ledger
from distiq.run.measure import LOGITS, MeasuredNetwork, as_fed, column, example_of, frame_of, reason_of
from distiq.run.networks import Models
from distiq.run.rungs import training_rung
from distiq.run.scenes import scenes_of
from distiq.run.select import Selection
from distiq.run.target import estimate_of
from distiq.run.train import basis_of
from distiq.run.trial import QuantizedTeacher
from distiq.run.web import Delivered
from distiq.runtimes.export import checksums
from distiq.runtimes.onnx_runtime import with_mask
from distiq.tasks.choose import task_of
from distiq.training import processes

TRANSFORMERS = "transformers"  # for a student from that library: a folder that it loads
VECTORS = "vectors"  # for a student that gives vectors: a folder for sentence-transformers and model2vec
OWN = (
    "model*", "modules.json", "config*.json", "sentence_bert_config.json", "1_Pooling", "2_Normalize", "1_Normalize",
    "tokenizer*.json", "special_tokens_map.json", ".*.partial",
)  # fmt: skip
"""The names of files in these folders."""


def write_run(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    models: Models,
    command: str,
    reference: MeasuredNetwork,
    quantized: QuantizedTeacher | None,
    advice: AdviceRecord | None,
    student: MeasuredNetwork,
    climbed: Climbed,
    files: Files,
    timings: ComparisonRecord,
    chosen: Selection,
    web: Delivered | None,
) -> RunRecord:
    """Writes the record of the run, the bundle and the report."""
    teacher_record = _model_record(reference, timings, _quantized_columns(quantized, timings))
    int8 = chosen.best if chosen.delivered.rung == FLOAT32 else chosen.delivered
    student_record = _model_record(student, timings, (int8.simulated, int8.deployed))
    assert chosen.delivered.deployed.cost is not None
    file = files[chosen.delivered.deployed.cost.file]
    logits = load_file(file.path.parent / LOGITS)["test"]
    record = RunRecord(
        name=recipe.name,
        command=command,
        recipe_toml=to_toml(recipe),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=sum(step.seconds for step in ledger.used.values()),
        steps={name.rpartition("-")[0]: name for name in ledger.used},
        basis=basis_of(recipe, data, models),
        code_version=source_hash(".")[:16],
        environment=environment.describe(),
        data=data.record(),
        task=_task_record(data),
        budget=recipe.budget.limits,
        teacher=teacher_record,
        student=student_record,
        advice=advice,
        float_modules=climbed.float_modules,
        trials=chosen.shown,
        skipped=dict(climbed.skipped),
        estimates=climbed.estimates,
        accelerator=estimate_of(recipe, chosen.delivered, file.path),
        sensitivity=climbed.evidence,
        comparison=timings,
        flips=worst_flips(data, student.logits["test"], logits),
        scenes=scenes_of(data, logits),
        verdict=_verdict(recipe, data, chosen, teacher_record, student_record, _drop(recipe, data, reference, logits)),
        delivered=checksums(file.path),
        web=web.record if web else None,
    )
    page = web.folder if web else None
    return processes.on_main(lambda: _written(ledger, recipe, data, models, record, file, chosen, student, page))


def _verdict(
    recipe: Recipe, data: Data, chosen: Selection, teacher: ModelRecord, student: ModelRecord, drop: DropRecord
) -> VerdictRecord:
    """How the run ended, with the cheapest next step where a limit is broken."""
    delivered, has_trained = chosen.delivered, any(trial.training is not None for trial in chosen.trials)
    broken = delivered.test_breaches
    return VerdictRecord(
        met=not broken,
        chosen=delivered.rung,
        breaches=broken,
        sentence=verdict_sentence(recipe.budget.limits, data.modality, chosen.best, delivered, drop),
        next_step=next_step(broken, teacher, student, "" if has_trained else training_rung()),
        drop=drop,
    )


def _drop(recipe: Recipe, data: Data, teacher: MeasuredNetwork, outputs: Tensor) -> DropRecord:
    """What the delivered file's outputs for the test set lose against the teacher's, with its paired interval."""
    task, metric, targets = task_of(data), teacher.scores.test.primary, data.test.labels
    value, low, high = paired_drop(task, metric, teacher.logits["test"], outputs, targets)
    return DropRecord(
        title=drop_title(metric), value=value, interval=(low, high), unit=metric.drop_unit, allowed=recipe.budget.drop
    )


def _task_record(data: Data) -> TaskRecord:
    task = task_of(data)
    return TaskRecord(
        name=task.name,
        predicts=task.predicts,
        outputs=task.outputs,
        tolerance=task.tolerance,
        class_figure=task.class_figure,
    )


def _model_record(network: MeasuredNetwork, timings: ComparisonRecord, quantized: tuple[Column, ...]) -> ModelRecord:
    """The record of a network with its float32 and its quantized columns."""
    own, training, cost = network.trained.network, network.trained.step.record, network.cost
    file = f"{own.role}-float32"
    plain = column("float32", network.scores, cost, file, timings.files.get(file, ()))
    return ModelRecord(
        role="teacher" if own.role == "teacher" else "student",
        model=own.name,
        origin=training.origin,
        parameters=cost.parameters if cost else None if own.is_predictor else parameter_count(network.module),
        macs=cost.macs if cost else None,
        columns=(plain, *quantized),
        training=training.training,
    )


def _quantized_columns(quantized: QuantizedTeacher | None, timings: ComparisonRecord) -> tuple[Column, ...]:
    if quantized is None:
        return ()
    made = quantized.record
    file = made.deployed.file
    timed = column("int8 deployed", made.deployed.scores, made.cost, file, timings.files[file])
    return column("int8 simulated", made.simulated), timed


def _written(
    ledger: Ledger,
    recipe: Recipe,
    data: Data,
    models: Models,
    record: RunRecord,
    file: ModelFile,
    chosen: Selection,
    student: MeasuredNetwork,
    page: Path | None,
) -> RunRecord:
    """Bundle and report on the disk."""
    ledger.watch.stage("writing bundle and report")
    fed = as_fed(data, recipe.export)
    frame = frame_of(student.module, data)
    write_bundle(ledger.folder / "bundle", file.path, record, chosen.delivered, fed, models.kept, frame, page)
    if isinstance(student.module, TokenVectors | StaticVectors):
        _save_vectors(ledger, data, student.module)
    elif isinstance(student.module, TokenLogits):
        _save_for_transformers(ledger, data, student.module, file)
    record.save(ledger.records / "run.json")
    write_report(ledger.records, ledger.folder / "report.html")
    return record


def _save_vectors(ledger: Ledger, data: Data, student: TokenVectors | StaticVectors) -> None:
    """The float32 student as a folder that sentence-transformers loads; model2vec loads that of a static one, too."""
    folder = ledger.folder / VECTORS
    partial = folder.with_name(f".{VECTORS}.partial")
    assert isinstance(data.preprocessing, Text)
    if not data.preprocessing.tokenizer:
        ledger.watch.note(f"no folder {VECTORS}: the data have no tokenizer")
        return
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_vectors(student, partial, data.preprocessing.to_json())
        check_vectors(student, partial, example_of(data))
    except Exception as error:  # the library raises its own exception types
        shutil.rmtree(partial, ignore_errors=True)
        ledger.watch.note(f"no folder {VECTORS}: {type(student).__name__} is not saved whole ({reason_of(error)})")
        return
    replace_folder(partial, folder, OWN)


def _save_for_transformers(ledger: Ledger, data: Data, student: TokenLogits, file: ModelFile) -> None:
    """The float32 student as a folder for other programs; for Optimum with the delivered file, if it is ONNX."""
    partial = ledger.folder / f".{TRANSFORMERS}.partial"
    assert isinstance(data.preprocessing, Text)
    text = data.preprocessing.to_json() if data.preprocessing.tokenizer else {}
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_transformers(student, partial, data.classes, text, task_of(data).decoding, data.target._asdict())
        check_saved(student, partial, example_of(data))
        if file.path.suffix == ".onnx" and type(student) is TokenLogits:  # Optimum orders per-token outputs otherwise
            with_mask(file.path, partial / "model.onnx", data.preprocessing.pad)
    except Exception as error:  # the library raises its own exception types
        shutil.rmtree(partial, ignore_errors=True)
        kind = type(student.model).__name__
        ledger.watch.note(f"no folder {TRANSFORMERS}: {kind} is not saved whole ({reason_of(error)})")
        return
    replace_folder(partial, ledger.folder / TRANSFORMERS, OWN)
