import pytest
import torch
import torch.nn.functional as F

from distiq.evaluation.transcripts import error_rates, greedy


@pytest.mark.parametrize(
    ("frames", "tokens"),
    [([0, 1, 1, 0, 1, 2, 2], [1, 1, 2]), ([0, 0, 0], []), ([2, 2, 2], [2]), ([1, 2, 1], [1, 2, 1])],
)
def test_repeats_are_merged_before_blanks_go(frames: list[int], tokens: list[int]):
    assert greedy(F.one_hot(torch.tensor([frames]), 3).float().transpose(1, 2)) == [tokens]


def test_edits_by_hand():
    """Said "one two two" and "two": one substitution and one deletion of four words.

    Characters: "one ten" for "one two two" are 6 edits (w->e, o->n, four dropped), none in "two"; 14 were said.
    """
    found = error_rates([[1, 3], [2]], [[1, 2, 2], [2]], ("one", "two", "ten"))
    assert found.words == pytest.approx(2 / 4)
    assert found.characters == pytest.approx(6 / 14)
