"""Errors of a keyword by hand and against a slow oracle that tries every threshold."""

import pytest
import torch
from torch import Tensor

from distiq.evaluation.keyword import keyword_errors


def of_two(scores: list[float], own: list[int], allowed: float = 0.0):
    """Two classes, of which the second is the keyword; its probability is the sigmoid of the score."""
    logits = torch.stack([torch.zeros(len(scores)), torch.tensor(scores)], 1)
    return keyword_errors(logits, torch.tensor(own), ("rest", "go"), "go", allowed)


def test_by_hand():
    found = of_two([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0])
    assert found is not None and (found.samples, found.others) == (2, 2)
    assert list(zip(found.false_accepts, found.false_rejects, strict=True)) == [
        (0, 1), (0, 0.5), (0.5, 0.5), (0.5, 0), (1, 0)
    ]  # fmt: skip
    assert found.equal_error_rate == 0.5
    assert (found.missed, found.threshold) == (0.5, pytest.approx(torch.tensor(4.0).sigmoid().item()))


def test_told_apart_without_error_the_points_between_are_left_out():
    found = of_two([9.0, 8.0, 7.0, 3.0, 2.0, 1.0], [1, 1, 1, 0, 0, 0])
    assert found is not None and found.false_accepts == (0, 0, 1)
    assert (found.equal_error_rate, found.missed) == (0, 0)


def test_equal_scores_go_together():
    """Between nothing and all accepted lies the straight line, and half of it is where both errors are equal."""
    found = of_two([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0])
    assert found is not None and (found.false_accepts, found.false_rejects) == ((0, 1), (1, 0))
    assert (found.equal_error_rate, found.missed, found.threshold) == (0.5, 1, None)


def shares(logits: Tensor, labels: Tensor, threshold: float) -> tuple[float, float]:
    taken, own = torch.softmax(logits.double(), 1)[:, 2] >= threshold, labels == 2
    return float(taken[~own].double().mean()), float((~taken[own]).double().mean())


@pytest.mark.parametrize("allowed", [0.0, 0.05, 0.3])
def test_every_threshold_of_a_slow_oracle(allowed: float):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    logits = torch.randn(200, 4, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 4)
    found = keyword_errors(logits, labels, ("a", "b", "c", "d"), "c", allowed)
    assert found is not None
    tried = [shares(logits, labels, threshold) for threshold in torch.softmax(logits.double(), 1)[:, 2].tolist()]
    for point in zip(found.false_accepts, found.false_rejects, strict=True):
        assert any(pair == pytest.approx(point) for pair in [(0.0, 1.0), *tried])
    assert found.missed == pytest.approx(min([rejects for accepts, rejects in tried if accepts <= allowed] or [1.0]))
    smallest = min(max(pair) for pair in tried)  # the best that a threshold reaches; the line between reaches less
    assert smallest - 0.03 <= found.equal_error_rate <= smallest
    if found.threshold is not None:
        assert shares(logits, labels, found.threshold * (1 - 1e-9)) == pytest.approx(
            (max(accepts for accepts, rejects in tried if accepts <= allowed), found.missed)
        )


@pytest.mark.parametrize("own", [[0, 0], [1, 1]])
def test_there_is_nothing_to_say_where_one_side_is_absent(own: list[int]):
    assert of_two([1.0, 2.0], own) is None
