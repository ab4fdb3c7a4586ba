"""Vectors are judged by the ranks of pairs, and learned by the cosines of a batch."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from distiq.data.labels import NUMBER, Labels
from distiq.recipe.recipe import Recipe
from distiq.tasks.embedding import WEIGHT, agreement, embedding, likeness, score, similarities

TASK = embedding(Labels(NUMBER, ("score",)))


def at(*degrees: float) -> torch.Tensor:
    """Vectors in the plane."""
    return torch.tensor([[math.cos(math.radians(one)), math.sin(math.radians(one))] for one in degrees])


def test_ranks_of_pairs():
    """Cosines of the pairs are those of 10, 60, 30 degrees; scores rank them 3, 1, 2 in all but the last."""
    outputs = 3 * at(0, 10, 0, 60, 5, 35)
    scores = score(outputs, torch.tensor([5.0, 5, 1, 1, 2, 2]))
    assert scores.primary.value == pytest.approx(1.0)
    swapped = score(outputs, torch.tensor([2.0, 2, 1, 1, 5, 5]))
    cosines = [math.cos(math.radians(angle)) for angle in (10, 60, 30)]
    assert swapped.primary.value == pytest.approx(spearmanr(cosines, [2, 1, 5])[0])


def test_constant_vectors_rank_nothing():
    assert score(torch.ones(6, 2), torch.tensor([1.0, 1, 2, 2, 3, 3])).primary.value == 0


def test_the_cosines_of_a_batch_are_compared_without_those_of_a_sample_with_itself():
    """Teacher: 0, 60, 90 degrees; student: all the same, of another width and length."""
    cosines = [math.cos(math.radians(angle)) for angle in (60, 90, 30)]
    squares = [(1 - one) ** 2 for one in cosines]
    weights = [WEIGHT + max(0.0, one) ** 2 for one in cosines]
    expected = sum(s * w for s, w in zip(squares, weights, strict=True)) / 3
    assert float(similarities(2 * torch.ones(3, 5), at(0, 60, 90))) == pytest.approx(expected, rel=1e-5)


def test_a_rotation_of_the_teacher_loses_nothing():
    vectors = torch.randn(20, 4)
    rotated = vectors @ torch.linalg.qr(torch.randn(4, 4)).Q
    assert float(similarities(rotated, vectors)) == pytest.approx(0, abs=1e-9)
    assert likeness(rotated, vectors).value == 1.0


def test_vectors_agree_to_a_cosine():
    assert agreement(at(0, 0, 0, 0), at(1, 2, 3, 4)) == pytest.approx(0.5), "cos 2.56 degrees is 0.999"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distil": {"teacher": "none"}, "teacher": {"weights": "x"}}, "from a teacher's alone"),
        ({}, "name its weights"),
        ({"teacher": {"weights": "x", "finetune": True}}, "without finetune"),
        ({"teacher": {"weights": "x"}}, ""),
    ],
)
def test_only_a_teacher_teaches_vectors(changes: dict, message: str):
    assert message in TASK.refuses(Recipe.model_validate(changes))
    assert bool(TASK.refuses(Recipe.model_validate(changes))) == bool(message)
