"""Neighbours on a circle, whose order can be seen."""

import math

import pytest
import torch

from distiq.tasks import neighbours
from distiq.tasks.neighbours import nearest, same_neighbours


def circle(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(one)), math.sin(math.radians(one))] for one in degrees])


@pytest.mark.parametrize("chunk", [1, 3, 500])
def test_the_nearest_are_others_in_order_whatever_their_length(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    points = circle(0, 10, 30, 90) * torch.tensor([[1.0], [5], [0.1], [2]])
    assert nearest(points, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_shares_by_hand():
    """The last sentence moves: its nearest and that of none of the others change."""
    teacher, student = circle(0, 10, 30, 90), circle(0, 10, 30, -60)
    found = same_neighbours(student, teacher, 2)
    assert (found.top1, found.recall) == (0.75, (1 + 1 + 1 + 0.5) / 4)
    assert found.cosine == pytest.approx((3 + math.cos(math.radians(150))) / 4)


def test_another_width_has_neighbours_but_no_cosine():
    teacher = circle(0, 10, 30, 90)
    assert same_neighbours(torch.cat([teacher, torch.zeros(4, 3)], 1), teacher, 2) == (1.0, 1.0, None)


def test_more_neighbours_than_others_are_refused():
    with pytest.raises(ValueError, match="4 neighbours of each of 4 sentences; take 1 to 3"):
        nearest(circle(0, 1, 2, 3), 4)
