import pytest
import torch

from distiq.errors import UserError
from distiq.tasks.assignment import assign, overlap, positions_of

SIZE = (32, 32)


def test_positions_are_those_of_neighbouring_strides():
    both = positions_of(SIZE, 16 + 4)
    assert both.centres[0].tolist() == [4.0, 4.0] and both.centres[-1].tolist() == [24.0, 24.0]
    assert both.strides.unique().tolist() == [8.0, 16.0]
    assert positions_of((50, 30), 7 * 4).strides.unique().tolist() == [8.0], "the last row of a map may be a part"
    with pytest.raises(UserError, match=r"17 boxes for images of 32 x 32.*such as 20 at 8 and 16"):
        positions_of(SIZE, 17)


def test_overlaps():
    one, other = torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 0, 15, 10])
    assert float(overlap(one, other)) == pytest.approx(50 / 150)
    assert float(overlap(one, other, generalized=True)) == pytest.approx(50 / 150)
    apart = torch.tensor([20.0, 0, 30, 10])
    assert float(overlap(one, apart, generalized=True)) == pytest.approx(-(300 - 200) / 300)


def target(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([[*rows, *[[-1.0] * 6] * (3 - len(rows))]])


def test_positions_learn_the_object_that_they_lie_in():
    positions = positions_of(SIZE, 16)
    boxes = torch.cat([positions.centres - 8, positions.centres + 8], 1).unsqueeze(0)
    scores = torch.full((1, 16, 2), 0.1)
    learned = assign(scores, boxes, target([1, 0, 0, 16, 16, 0]), positions)
    assert learned.learning[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert float(learned.scores[0, :, 0].sum()) == 0 and float(learned.scores[0, 5, 1]) > 0
    assert float(learned.scores.max()) == pytest.approx(float(overlap(boxes[0, 5], torch.tensor([0.0, 0, 16, 16]))))


def test_an_object_between_positions_is_learned_by_the_nearest():
    positions = positions_of(SIZE, 16)
    boxes = torch.cat([positions.centres - 8, positions.centres + 8], 1).unsqueeze(0)
    learned = assign(torch.full((1, 16, 1), 0.1), boxes, target([0, 9, 9, 11, 11, 0]), positions)
    assert learned.learning[0].nonzero().flatten().tolist() == [5]


def test_an_empty_image_teaches_nothing_and_a_crowd_is_ignored():
    positions = positions_of(SIZE, 16)
    boxes = torch.cat([positions.centres - 8, positions.centres + 8], 1).unsqueeze(0)
    empty = assign(torch.full((1, 16, 1), 0.1), boxes, target(), positions)
    assert not empty.learning.any() and not empty.ignored.any() and float(empty.scores.sum()) == 0
    crowd = assign(torch.full((1, 16, 1), 0.1), boxes, target([0, 0, 0, 16, 16, 1]), positions)
    assert not crowd.learning.any() and crowd.ignored[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
