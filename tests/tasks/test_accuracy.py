"""Recall by class, calibration and ranking against hand values and slow oracles."""

import pytest
import torch

from distiq.tasks.accuracy import (
    area_under_curve,
    calibration_error,
    f1,
    label_calibration_error,
    recall_by_class,
    recall_by_label,
)


def test_per_class():
    predictions, labels = torch.tensor([0, 0, 1, 2, 2, 1]), torch.tensor([0, 1, 1, 2, 2, 2])
    assert recall_by_class(predictions, labels, 4) == (1.0, 0.5, 2 / 3, None)


def slow_calibration_error(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    """Sample by sample: the weighted gap of every confidence bin."""
    grouped: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(torch.softmax(logits, 1).tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        grouped.setdefault(min(int(confidence * bins), bins - 1), []).append(
            (confidence, row.index(confidence) == label)
        )
    gaps = [abs(sum(c for c, _ in entries) - sum(right for _, right in entries)) for entries in grouped.values()]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_against_a_slow_oracle(bins: int):
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(500, 4), torch.randint(0, 4, (500,))
    found = calibration_error(logits, labels, bins)
    assert found == pytest.approx(slow_calibration_error(logits, labels, bins), abs=1e-5)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    logits = 50 * torch.eye(3)
    assert calibration_error(logits, torch.arange(3)) == pytest.approx(0, abs=1e-6)
    assert calibration_error(logits, (torch.arange(3) + 1) % 3) == pytest.approx(1, abs=1e-6)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randint(-9, 9, (60, 2), generator=generator) / 8, torch.arange(60) % 2
    scores = logits[:, 1] - logits[:, 0]
    gaps = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    expected = float((gaps > 0).double().mean() + 0.5 * (gaps == 0).double().mean())  # a tie counts half
    assert area_under_curve(logits, labels) == pytest.approx(expected, abs=1e-6)


def test_auc_does_not_saturate():
    """Scores of 40 and 41 have the same float32 probability, but are not the same."""
    logits, labels = torch.tensor([[0.0, 40.0], [0.0, 41.0]]), torch.tensor([1, 0])
    assert area_under_curve(logits / 2, labels) == 0.0


@pytest.mark.parametrize(("logits", "labels"), [(torch.zeros(3, 3), [0, 1, 2]), (torch.zeros(2, 2), [1, 1])])
def test_there_is_no_auc_of_more_classes_or_of_one(logits, labels):
    assert area_under_curve(logits, torch.tensor(labels)) is None


def test_f1_and_recall_of_several_labels_by_hand():
    """Label 0: found 1 of 2, none wrongly; label 1: found 1 of 1, 1 wrongly."""
    labels = torch.tensor([[1, 0], [1, 1], [0, 0]])
    logits = torch.tensor([[2.0, 0.5], [-1.0, 3.0], [-2.0, -0.1]])
    predictions = (logits > 0).long()
    assert f1(predictions, labels, "micro") == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert f1(predictions, labels, "macro") == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert recall_by_label(predictions, labels) == (0.5, 1.0)
    assert recall_by_label(predictions, labels * torch.tensor([1, 0])) == (0.5, None)


def test_calibration_of_several_labels_is_that_of_each():
    sure = torch.full((4, 2), 50.0)
    assert label_calibration_error(sure, torch.ones(4, 2, dtype=torch.int64)) == pytest.approx(0)
    assert label_calibration_error(sure, torch.tensor([[1, 0]] * 4)) == pytest.approx(0.5)
