import subprocess
import sys
from collections.abc import Callable

import pytest

from distiq.records.diagnosis import DiagnosisRecord
from distiq.records.run import RunRecord
from distiq.records.sensitivity import NoiseRecord, SensitivityRecord
from distiq.report.reading import class_changes, columns_of, latency_of, quality_limit, read_diagnosis

MakeRun = Callable[..., RunRecord]
Shares = tuple[float | None, ...]


@pytest.fixture
def with_class_accuracies(make_run: MakeRun) -> Callable[[Shares, Shares], RunRecord]:
    def make(teacher: Shares, deployed: Shares) -> RunRecord:
        tree = make_run(classes=tuple("abc"), rungs=("static",)).model_dump()
        tree["teacher"]["columns"][0]["test"]["per_class"] = teacher
        tree["trials"][0]["deployed"]["test"]["per_class"] = deployed
        return RunRecord.model_validate(tree)

    return make


def test_classes_are_sorted_by_change_worst_first(with_class_accuracies: Callable[[Shares, Shares], RunRecord]):
    changes = class_changes(with_class_accuracies((0.9, 0.8, 0.7), (0.9, 0.7, 0.9)), most=3)
    assert [(change.name, round(change.change, 6)) for change in changes] == [("b", -0.1), ("a", 0.0), ("c", 0.2)]


def test_the_largest_changes_in_either_direction_are_kept(with_class_accuracies: Callable[[Shares, Shares], RunRecord]):
    changes = class_changes(with_class_accuracies((0.9, 0.8, 0.7), (0.9, 0.7, 0.9)), most=2)
    assert [change.name for change in changes] == ["b", "c"]


def test_classes_without_samples_are_left_out(with_class_accuracies: Callable[[Shares, Shares], RunRecord]):
    changes = class_changes(with_class_accuracies((None, 0.8, 0.7), (0.9, 0.7, None)), most=3)
    assert [change.name for change in changes] == ["b"]


def test_the_limit_is_the_teachers_accuracy_less_the_allowed_drop(make_run: MakeRun):
    run = make_run()
    assert quality_limit(run) == pytest.approx(run.teacher.column("float32").test.value - 0.01)
    assert quality_limit(run.model_copy(update={"budget": {}})) is None


def test_the_students_int8_columns_are_those_of_the_chosen_trial(make_run: MakeRun):
    run = make_run(rungs=("static", "minmax"))
    assert columns_of(run, run.student)[1:] == (run.trials[1].simulated, run.trials[1].deployed)


def test_latency_is_that_of_the_comparison_where_there_is_one(make_run: MakeRun):
    run = make_run(rungs=("static",))
    cost = run.teacher.column("float32").cost
    beside = cost.latency[0].model_copy(update={"p50_ms": 7.0})
    compared = run.comparison.model_copy(update={"files": {cost.file: (beside,)}})
    assert latency_of(run.model_copy(update={"comparison": compared}), cost, 1).p50_ms == 7.0
    alone = run.comparison.model_copy(update={"files": {}})
    assert latency_of(run.model_copy(update={"comparison": alone}), cost, 1) == cost.latency[0]


def test_reading_and_showing_load_no_drawing_library():
    code = "import sys, distiq.report.report, distiq.report.show; print(*{'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_an_ablation_or_diagnosis_of_another_run_is_not_shown(make_run: MakeRun, tmp_path):
    """Of other data, or of a trial that is no longer the run's."""
    run = RunRecord.model_validate({**make_run().model_dump(), "basis": "data", "steps": {"trial-static": "trial-1"}})
    weights, activations = (
        NoiseRecord(place="", part=part, sqnr_db=30.0, divergence_nat=0.0) for part in ("weights", "activations")
    )
    noise = SensitivityRecord(rung="static", samples=1, weights=weights, activations=activations, tensors=())
    for basis, step, shown in [("data", "trial-1", True), ("other data", "trial-1", False), ("data", "trial-2", False)]:
        found = DiagnosisRecord(
            rung="static", basis=basis, step=step, findings=(), cause="", cure=(), sensitivity=noise
        )
        found.save(tmp_path / "diagnosis.json")
        assert (read_diagnosis(tmp_path, run) is not None) == shown
