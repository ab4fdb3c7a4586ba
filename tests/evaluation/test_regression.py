"""Correlations and errors of numbers, by hand and against slow oracles."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.regression import pearson_corrcoef

from distiq.errors import UserError
from distiq.evaluation.accuracy import Z_95
from distiq.evaluation.evaluate import agreement, score
from distiq.evaluation.regression import fisher_interval, rmse_interval, score_numbers
from distiq.records.models import Column


def drawn(samples: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels of unit variance and answers that miss them by noise of that deviation."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(samples, generator=generator)
    return labels + noise * torch.randn(samples, generator=generator), labels


def ranks(values: Tensor) -> Tensor:
    """The mean place of each value among all, ties sharing theirs."""
    places = [[(values < value).sum() + 1, (values <= value).sum()] for value in values]
    return torch.tensor([float(low + high) / 2 for low, high in places])


def test_a_record_by_hand():
    answers, labels = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
    found = score_numbers(answers, labels, std=10.0)
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
    found = score_numbers(answers, labels, std=1.0)
    assert found.value == pytest.approx(float(pearson_corrcoef(answers.double(), labels.double())))
    by_rank = torch.corrcoef(torch.stack([ranks(answers), ranks(labels)]))[0, 1]
    assert found.metric("rank_correlation").value == pytest.approx(float(by_rank), abs=1e-5)


def test_others_are_compared_in_the_unit_of_the_data():
    answers, labels = drawn(50, 0.5)
    found = score(answers.unsqueeze(1), labels, 1, (3 - 2 * answers).unsqueeze(1), answers.unsqueeze(1) + 0.25, std=4.0)
    assert found.agreement_with_teacher.value == pytest.approx(-1.0)
    assert found.change_against_float.value == pytest.approx(1.0, rel=1e-5)


def test_constant_answers_have_no_correlation():
    found = score_numbers(torch.full((9,), 0.3), torch.arange(9.0), 1.0, torch.zeros(9))
    correlations = (found.primary, found.metric("rank_correlation"), found.agreement_with_teacher)
    assert [metric.value for metric in correlations] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("true", [0.0, 0.6, 0.95])
def test_fisher_intervals_hold_the_true_correlation_19_times_of_20(true: float):
    noise, held = math.sqrt(1 / max(true, 1e-3) ** 2 - 1), 0
    for seed in range(400):
        answers, labels = drawn(60, noise, seed)
        low, high = fisher_interval(float(torch.corrcoef(torch.stack([answers, labels]))[0, 1]), 60)
        held += low <= true <= high
    assert 366 <= held <= 394  # 380, and three standard deviations of a count


def test_intervals_of_few_and_of_perfect_answers():
    assert fisher_interval(0.5, 3) == (-1.0, 1.0)
    assert fisher_interval(1.0, 100) == (1.0, 1.0)
    assert rmse_interval(torch.tensor([2.0])) == (0.0, math.inf)
    assert rmse_interval(torch.zeros(5)) == (0.0, 0.0)


def test_an_interval_of_the_error_is_that_of_the_squares():
    low, high = rmse_interval(torch.tensor([1.0, 1.0, 3.0, 3.0]))
    spread = Z_95 * math.sqrt(64 / 3) / 2  # squares 1, 1, 9, 9: mean 5, variance 64/3
    assert (low, high) == (pytest.approx(math.sqrt(5 - spread)), pytest.approx(math.sqrt(5 + spread)))


def test_single_outputs_agree_within_a_step_of_the_span():
    one = torch.tensor([[0.0], [1.0], [2.0], [255.0]])
    assert agreement(one, one + torch.tensor([[0.9], [-1.1], [0.0], [1.0]])) == 0.75
    assert agreement(one, -one) == 0.25


def test_answers_that_are_not_one_number_are_refused():
    with pytest.raises(UserError, match=r"answered \(5, 2\) for 5 samples of 1 classes"):
        score(torch.zeros(5, 2), torch.zeros(5), 1)
    with pytest.raises(UserError, match="not finite for sample 2"):
        score(torch.tensor([[0.0], [1.0], [math.nan]]), torch.zeros(3), 1)


def test_records_of_both_kinds_are_read_back():
    numbers = score_numbers(*drawn(20, 0.5), 1.0)
    classes = score(torch.eye(3), torch.arange(3), 3)
    for record in (numbers, classes):
        column = Column(name="float32", test=record, validation=record)
        assert Column.model_validate_json(column.model_dump_json()) == column
