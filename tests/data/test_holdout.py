"""What is held out is of every class alike, or of whole groups; what repeats is said."""

import pytest
import torch

from distiq.data.holdout import hold_out, hold_out_groups, lost_classes, repeated, spread_over_labels
from distiq.data.samples import in_memory
from distiq.data.splits import from_tensors
from distiq.errors import UserError


@pytest.mark.parametrize("labels", [torch.arange(400) // 100, torch.arange(400) % 4], ids=["sorted", "in turn"])
def test_every_class_gives_the_same_share(labels: torch.Tensor):
    parts = hold_out(labels, 80, 40, seed=3)
    assert [labels[part].bincount().tolist() for part in parts] == [[70] * 4, [20] * 4, [10] * 4]
    assert sorted(torch.cat(parts).tolist()) == list(range(400))
    assert not torch.equal(parts.validation, hold_out(labels, 80, 40, seed=4).validation)


def test_a_rare_class_gives_its_share_to_a_sample():
    labels = torch.tensor([0] * 970 + [1] * 30)
    parts = hold_out(labels, 200, 100, seed=0)
    shares = [labels[part].double().mean().item() for part in parts]
    assert shares == pytest.approx([0.03] * 3, abs=0.005), "30 of 1,000"


def test_numbers_are_held_out_from_all_of_their_range():
    labels = torch.linspace(0, 1, 300)
    for part in hold_out(labels, 60, 30, seed=0):
        assert torch.histc(labels[part], 5, 0, 1).tolist() == pytest.approx([len(part) / 5] * 5, abs=1)


def test_sets_of_labels_are_held_out_alike():
    labels = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]]).repeat(50, 1)
    validation = hold_out(labels, 40, 20, seed=0).validation
    assert labels[validation].unique(dim=0, return_counts=True)[1].tolist() == [10] * 4


def test_groups_are_never_split():
    groups = [f"speaker {number % 9}" for number in range(180)]
    parts = hold_out_groups(torch.arange(180) // 9 % 2, groups, 30, 10, 0, "here")
    of = [{groups[number] for number in part.tolist()} for part in parts]
    assert not (of[0] & of[1] or of[0] & of[2] or of[1] & of[2])
    assert [len(part) for part in parts] == [120, 40, 20], "whole groups of 20, at least 30 and 10"


def test_groups_that_cannot_be_kept_whole_are_refused():
    labels = torch.arange(40) % 2
    with pytest.raises(UserError, match=r"here: 2 groups cannot give validation and calibration some of their own"):
        hold_out_groups(labels, ["a", "b"] * 20, 4, 4, 0, "here")
    groups = [f"{'ab'[number % 2]}" if number < 30 or number % 2 else "c" for number in range(40)]
    with pytest.raises(UserError, match="without taking a class from training"):  # each group is of one class
        hold_out_groups(labels, groups, 4, 4, 0, "here")


def test_fewer_samples_are_spread_over_the_classes():
    assert (torch.arange(100) % 2)[spread_over_labels(torch.arange(100) % 2, 50)].bincount().tolist() == [25, 25]
    assert spread_over_labels(torch.arange(10) // 5, 4).tolist() == [1, 3, 6, 8], "the middles of four equal parts"


def test_classes_that_are_lost():
    assert lost_classes(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2])) == (1,)
    assert lost_classes(torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1, 0]])) == (1,)
    assert lost_classes(torch.tensor([0.5]), torch.tensor([0.1])) == ()


def test_a_class_of_which_nothing_is_left_is_refused():
    images = torch.randint(0, 255, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.tensor([0] * 19 + [1] + [2] * 20)
    with pytest.raises(UserError, match=r'of the class "owl" all training images \(1\) would be held out'):
        from_tensors(
            (images, labels), (images[:9], labels[:9] + 2 * (torch.arange(9) % 2)), ("cat", "owl", "dog"), 20, 18
        )


def test_what_is_learned_from_and_measured_on_is_said():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randint(0, 255, (30, 1, 4, 4), generator=generator).to(torch.uint8) for _ in range(2))
    test[[3, 7]] = train[[20, 20]]
    labels = torch.arange(30) % 2
    data = from_tensors((train, labels), (test, labels), ("a", "b"), 5, 5)
    assert data.notes == (
        "2 of 30 test images are training images, too (3 is 20, 7 is 20): what is measured on them says nothing of new"
        " ones",
    )
    named = repeated(in_memory(test, labels), in_memory(train, labels), "test", "images", ([*"abcdefgh"] * 4, ()))
    assert "images, too (d, h): what" in named
    assert repeated(in_memory(test[:3], labels[:3]), in_memory(train, labels), "test", "images") == ""


def test_rows_of_a_table_may_be_alike():
    rows, labels = torch.ones(30, 2), torch.arange(30) % 2
    assert from_tensors((rows, labels), (rows, labels), None, 5, 5, modality="table").notes == ()


def test_a_tag_of_one_text_stays_in_training():
    """Of 40 texts one has tag 2; drawn by any seed it is learned from, and validation is one text smaller then."""
    tags = torch.zeros(40, 3, dtype=torch.int16)
    tags[7, 1] = 2
    tags[:20, 0] = 1
    for seed in range(5):
        parts = hold_out(tags, 18, 12, seed)
        assert 7 in parts.train.tolist()
        assert len(parts.calibration) == 12
        assert len(torch.cat(parts).unique()) == 40
