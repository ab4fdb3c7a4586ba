"""score(): comparisons with others, whatever the task; what cannot be scored is refused."""

import math
from dataclasses import replace

import pytest
import torch

from distiq.data.labels import CLASS, LABEL_SET, NUMBER, Labels
from distiq.data.splits import Data, from_tensors
from distiq.errors import UserError
from distiq.records.models import Column
from distiq.records.quality import Metric
from distiq.tasks.choose import task_of
from distiq.tasks.classification import classification
from distiq.tasks.multi_label import multi_label
from distiq.tasks.regression import regression
from distiq.tasks.score import check_task, kept, score
from distiq.tasks.task import Scores

FOUR = classification(Labels(CLASS, ("a", "b", "c", "d")))
NUMBERS = regression(Labels(NUMBER, ("number",)))


@pytest.fixture
def data() -> Data:
    images, labels = torch.zeros(60, 1, 4, 4, dtype=torch.uint8), torch.arange(60) % 4
    images[torch.arange(60), 0, 0, 0] = labels.byte()
    return from_tensors((images, labels), (images, labels), validation=12, calibration=8)


def test_agreement_and_flips_by_hand():
    own, teacher = torch.eye(4), torch.eye(4)[[0, 1, 2, 2]]
    quality = score(FOUR, own, torch.tensor([0, 1, 2, 0]), teacher=teacher, float_student=torch.eye(4)[[1, 0, 2, 3]])
    assert (quality.value, quality.samples) == (0.75, 4)
    assert quality.agreement_with_teacher.value == 0.75
    assert quality.change_against_float.value == 0.5


def test_nothing_to_compare_with_is_none():
    quality = score(FOUR, torch.eye(4), torch.arange(4))
    assert quality.agreement_with_teacher is quality.change_against_float is quality.keyword is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused(value: float):
    with pytest.raises(UserError, match="not finite for sample 2"):
        score(NUMBERS, torch.tensor([[0.0], [1.0], [value]]), torch.zeros(3))


def test_another_number_of_outputs_is_refused():
    with pytest.raises(UserError, match=r"gives \(5, 2\) for 5 samples; regression needs 1 output each"):
        kept(NUMBERS, torch.zeros(5, 2))
    with pytest.raises(UserError, match="outputs for 5 samples where there are 4"):
        score(NUMBERS, torch.zeros(5, 1), torch.zeros(4))


def test_qualities_of_all_tasks_are_read_back():
    several = multi_label(Labels(LABEL_SET, ("a", "b")))
    logits = torch.tensor([[1.0, -1.0], [-1.0, 2.0], [1.0, 1.0]])
    qualities = [
        score(FOUR, torch.eye(4), torch.arange(4), teacher=torch.eye(4)),
        score(several, logits, (logits > 0).long(), float_student=logits),
        score(NUMBERS, logits[:, :1], torch.arange(3.0), teacher=logits[:, 1:], float_student=logits[:, 1:]),
    ]
    for quality in qualities:
        column = Column(name="float32", test=quality, validation=quality)
        assert Column.model_validate_json(column.model_dump_json()) == column


def test_a_metric_that_is_limited_must_be_measured(data: Data):
    check_task(FOUR, data, ["accuracy", "calibration_error"])
    with pytest.raises(
        UserError, match=r"auc is not measured on the validation samples .* are accuracy, calibration_error"
    ):
        check_task(FOUR, data, ["auc"])
    with pytest.raises(UserError, match='did you mean "accuracy"'):
        check_task(FOUR, data, ["acuracy"])


def test_a_task_whose_loss_is_not_of_each_sample_is_refused(data: Data):
    summed = replace(FOUR, loss=lambda outputs, targets: FOUR.loss(outputs, targets).sum())
    with pytest.raises(UserError, match=r"task classification: loss gives \(\) for 2 samples; give one each"):
        check_task(summed, data)


def test_a_task_that_fails_is_refused_before_training(data: Data):
    def broken(_outputs: torch.Tensor, _targets: torch.Tensor) -> Scores:
        raise KeyError("level")

    with pytest.raises(UserError, match=r"task classification: its score fails .KeyError: 'level'"):
        check_task(replace(FOUR, score=broken), data)


def test_a_drop_is_signed_by_what_is_better():
    accuracy = [Metric(name="accuracy", title="accuracy", value=value) for value in (0.92, 0.9)]
    assert accuracy[1].drop(accuracy[0]) == 2.0 and accuracy[0].drop(accuracy[1]) == -2.0
    assert accuracy[0].allowing(1.0) == pytest.approx(0.91)
    error = [
        Metric(name="mae", title="error", value=value, unit="levels", higher_is_better=False) for value in (0.5, 0.75)
    ]
    assert error[1].drop(error[0]) == 0.25 and error[0].drop_unit == "levels"
    assert error[0].allowing(0.25) == 0.75


def test_a_recall_that_no_sample_measures_is_refused(data: Data):
    check_task(task_of(data), data, recalled=["0"])
    with pytest.raises(UserError, match=r'budget\.recall: nothing is called "o"; recall is measured of 0, 1, 2, 3'):
        check_task(task_of(data), data, recalled=["o"])
    without = replace(data, test=data.test.take((data.test.labels != 3).nonzero().flatten()))
    with pytest.raises(UserError, match='no test sample is of "3", so its recall is not measured'):
        check_task(task_of(data), without, recalled=["3"])
