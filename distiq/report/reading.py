"""What a report reads out of a run's records: the run itself and the few values that are found in several places."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from distiq.errors import UserError
from distiq.records.ablation import AblationRecord
from distiq.records.diagnosis import DiagnosisRecord
from distiq.records.models import Column, ModelRecord
from distiq.records.record import Record
from distiq.records.run import RunRecord
from distiq.records.search import SearchRecord
from distiq.records.speed import CostRecord, LatencyRecord
from distiq.records.trials import FLOAT32, TrialRecord

R = TypeVar("R", bound=Record)
B = TypeVar("B", AblationRecord, DiagnosisRecord)


REMEDY = "`distiq run RECIPE` again writes it (finished steps are not repeated)"


def read_run(records: Path) -> RunRecord:
    """Reads `records`/run.json.

    Raises:
        UserError: the record is missing, damaged, or lacks what every finished run has.
    """
    path = Path(records) / "run.json"
    run = read_record(path, RunRecord, REMEDY)
    if lacking := _lacking(run):
        raise UserError(f"{path}: the record holds no {lacking}; {REMEDY}")
    return run


def read_ablation(records: Path, run: RunRecord) -> AblationRecord | None:
    """Reads `records`/ablation.json; None where none was made, or of another teacher, student or data than the run's.

    Raises:
        UserError: the record is damaged.
    """
    return _beside(Path(records) / "ablation.json", AblationRecord, "`distiq ablate RECIPE` again writes it", run)


def read_search(records: Path) -> SearchRecord | None:
    """Reads `records`/search.json; None where no search has ended.

    Raises:
        UserError: the record is damaged.
    """
    path = Path(records) / "search.json"
    return read_record(path, SearchRecord, "`distiq search RECIPE` again writes it") if path.is_file() else None


def read_diagnosis(records: Path, run: RunRecord) -> DiagnosisRecord | None:
    """Reads `records`/diagnosis.json; None where none was made, or of another trial than the run has now.

    Raises:
        UserError: the record is damaged.
    """
    path = Path(records) / "diagnosis.json"
    diagnosis = _beside(path, DiagnosisRecord, "`distiq diagnose RUN` again writes it", run)
    return (
        diagnosis if diagnosis is not None and diagnosis.step == run.steps.get(f"trial-{diagnosis.rung}", "") else None
    )


def _beside(path: Path, kind: type[B], remedy: str, run: RunRecord) -> B | None:
    """A record that was made after the run, of the same teacher, student and data."""
    record = read_record(path, kind, remedy) if path.exists() else None
    return record if record is not None and record.basis == run.basis else None


def read_record(path: Path, kind: type[R], remedy: str) -> R:
    """Reads a record of a kind.

    Args:
        remedy: what the error says that one can do.

    Raises:
        UserError: the record is missing or damaged.
    """
    try:
        return kind.load(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read this record ({error.strerror}); {remedy}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        reason = f"{place}: {problem['msg']}" if place else problem["msg"]
        raise UserError(f"{path}: damaged, or written by another version of distiq ({reason}); {remedy}") from error


def chosen_trial(run: RunRecord) -> TrialRecord:
    """The trial that was delivered."""
    return next(trial for trial in run.trials if trial.rung == run.verdict.chosen)


def columns_of(run: RunRecord, model: ModelRecord) -> tuple[Column, ...]:
    """The columns of the teacher as recorded; those of the student with the int8 columns of the chosen trial.

    Where float32 was delivered, they are those of the best int8 trial, as recorded.
    """
    if model.role == "teacher":
        return model.columns
    chosen = chosen_trial(run)
    if chosen.rung == FLOAT32:
        return model.columns
    return (model.column("float32"), chosen.simulated, chosen.deployed)


def delivered_form(run: RunRecord) -> str:
    """ "int8", or where that was too far from float32, or slower, "float16" or "float32"."""
    return chosen_trial(run).form


def latency_of(run: RunRecord, cost: CostRecord | None, batch: int) -> LatencyRecord | None:
    """The latency of a file: from the side-by-side comparison, else as the file was measured alone, else None."""
    if cost is None:
        return None
    entries = run.comparison.files.get(cost.file, cost.latency)
    return next((entry for entry in entries if entry.batch == batch), None)


def median_ms(run: RunRecord, cost: CostRecord | None) -> float | None:
    """The median time of one sample in milliseconds."""
    latency = latency_of(run, cost, batch=1)
    return latency.p50_ms if latency else None


def throughput_batch(run: RunRecord) -> int:
    """The largest batch that any file of the run was measured with; 1 where nothing was."""
    costs = [column.cost for model in (run.teacher, run.student) for column in columns_of(run, model) if column.cost]
    measured = [*run.comparison.files.values(), *(cost.latency for cost in costs)]
    return max((entry.batch for entries in measured for entry in entries), default=1)


def quality_limit(run: RunRecord) -> float | None:
    """The worst value of the primary metric on the test set that the budget allows; None without such a limit."""
    allowed = run.budget.get("drop")
    return None if allowed is None else run.teacher.column("float32").test.primary.allowing(allowed)


@dataclass(frozen=True)
class ClassChange:
    """Test accuracy of one class in three models (fractions); `change` is the deployed one minus the teacher's."""

    name: str
    teacher: float
    student: float | None
    deployed: float
    change: float


def class_changes(run: RunRecord, most: int) -> tuple[ClassChange, ...]:
    """The classes with the `most` largest changes in either direction, worst first.

    A class without test samples has no accuracy and is left out.
    """
    columns = run.teacher.column("float32"), run.student.column("float32"), chosen_trial(run).deployed
    tests = [column.test.per_class for column in columns]
    parts = columns[0].test.parts or run.data.classes
    per_class = zip(parts, *tests, strict=True) if all(tests) else ()
    changes = [
        ClassChange(name, teacher, student, deployed, deployed - teacher)
        for name, teacher, student, deployed in per_class
        if teacher is not None and deployed is not None
    ]
    largest = sorted(changes, key=lambda entry: -abs(entry.change))[:most]
    return tuple(sorted(largest, key=lambda entry: entry.change))


def _lacking(run: RunRecord) -> str | None:
    if run.verdict.chosen not in (trial.rung for trial in run.trials):
        return f'trial "{run.verdict.chosen}", which its verdict names'
    for model in (run.teacher, run.student):
        if "float32" not in (column.name for column in model.columns):
            return f"float32 column of the {model.role}"
    return None
