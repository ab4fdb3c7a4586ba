"""Correlations and errors of numbers, by hand and against slow oracles."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.regression import pearson_corrcoef

from distiq.data.labels import NUMBER, Labels, Target
from distiq.records.quality import Quality
from distiq.tasks.regression import agreement, loss, regression, squared_error
from distiq.tasks.score import score


def drawn(samples: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels of unit variance and answers that miss them by noise of that deviation."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(samples, generator=generator)
    return labels + noise * torch.randn(samples, generator=generator), labels


def of(
    answers: Tensor, labels: Tensor, teacher: Tensor | None = None, float32: Tensor | None = None, std: float = 1.0
) -> Quality:
    """The quality of numbers (N,) of that standard deviation, beside those of others."""
    others = [None if other is None else other.unsqueeze(1) for other in (teacher, float32)]
    task = regression(Labels(NUMBER, ("number",), Target(0.0, std)))
    return score(task, answers.unsqueeze(1), labels, teacher=others[0], float_student=others[1])


def ranks(values: Tensor) -> Tensor:
    """The mean place of each value among all, ties sharing theirs."""
    places = [[(values < value).sum() + 1, (values <= value).sum()] for value in values]
    return torch.tensor([float(low + high) / 2 for low, high in places])


def test_a_record_by_hand():
    answers, labels = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
    found = of(answers, labels, std=10.0)
    assert found.samples == 4 and found.metric("rmse").value == pytest.approx(10 * math.sqrt(3 / 4))
    # Deviations -1.75, -0.75, 0.25, 2.25 and -1.5, 0.5, -0.5, 1.5.
    assert found.value == pytest.approx(5.5 / math.sqrt(8.75 * 5.0))
    assert found.metric("rank_correlation").value == pytest.approx(
        1 - 6 * 2 / (4 * 15), abs=1e-5
    )  # two neighbours have changed places
    assert found.agreement_with_teacher is None and found.change_against_float is None


def test_correlations_against_oracles_with_ties():
    answers, labels = drawn(200, 0.7)
    labels = (2 * labels).round() / 2  # as people give stars
    found = of(answers, labels)
    assert found.value == pytest.approx(float(pearson_corrcoef(answers.double(), labels.double())))
    by_rank = torch.corrcoef(torch.stack([ranks(answers), ranks(labels)]))[0, 1]
    assert found.metric("rank_correlation").value == pytest.approx(float(by_rank), abs=1e-5)


def test_others_are_compared_in_the_unit_of_the_data():
    answers, labels = drawn(50, 0.5)
    found = of(answers, labels, 3 - 2 * answers, answers + 0.25, std=4.0)
    assert found.agreement_with_teacher.value == pytest.approx(-1.0)
    assert found.change_against_float.value == pytest.approx(1.0, rel=1e-5)


def test_constant_answers_have_no_correlation():
    found = of(torch.full((9,), 0.3), torch.arange(9.0), torch.zeros(9))
    correlations = (found.primary, found.metric("rank_correlation"), found.agreement_with_teacher)
    assert [metric.value for metric in correlations] == [0.0, 0.0, 0.0]


def test_single_outputs_agree_within_a_step_of_the_span():
    one = torch.tensor([[0.0], [1.0], [2.0], [255.0]])
    assert agreement(one, one + torch.tensor([[0.9], [-1.1], [0.0], [1.0]])) == 0.75
    assert agreement(one, -one) == 0.25


def test_losses_are_squared_errors():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert loss(outputs, targets).tolist() == [1.0, 4.0]
    assert squared_error(outputs, torch.tensor([[0.0], [1.0]]), temperature=7.0).item() == 2.5
