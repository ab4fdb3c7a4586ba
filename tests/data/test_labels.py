"""Forms of labels: which a tensor has, which samples have one, and what stands where there is none."""

import math

import pytest
import torch

from distiq.data.labels import (
    BOXES,
    CLASS,
    LABEL_SET,
    MASK,
    NUMBER,
    SHARES,
    SYMBOLS,
    TAGS,
    filled,
    form_of,
    is_labelled,
    numbered_classes,
)
from distiq.errors import UserError

PIXELS = torch.tensor([[[255, 0]], [[255, 255]]], dtype=torch.uint8)
CASES = [
    (torch.tensor([2, -1, 0]), CLASS, [True, False, True], torch.tensor([2, 0, 0])),
    (torch.tensor([[0, 1], [-1, -1]]), LABEL_SET, [True, False], torch.tensor([[0, 1], [0, 0]])),
    (torch.tensor([0.5, math.nan]), NUMBER, [True, False], torch.tensor([0.5, 0.0])),
    (torch.tensor([[0.5, 0.5], [math.nan] * 2]), SHARES, [True, False], torch.tensor([[0.5, 0.5], [0, 0]])),
    (PIXELS, MASK, [True, False], torch.tensor([[[255, 0]], [[0, 0]]], dtype=torch.uint8)),
    (torch.tensor([[[-1.0] * 6], [[math.nan] * 6]]), BOXES, [True, False], torch.tensor([[[-1.0] * 6], [[0] * 6]])),
    (torch.tensor([[-1, 2], [-1, -1]]).short(), TAGS, [True, False], torch.tensor([[-1, 2], [0, 0]]).short()),
    (torch.tensor([[2, -1], [-1, -1]]).int(), SYMBOLS, [True, False], torch.tensor([[2, -1], [0, 0]]).int()),
]


@pytest.mark.parametrize(("labels", "form", "labelled", "full"), CASES)
def test_every_form_says_what_is_missing(labels, form, labelled, full):
    assert form_of(labels) is form
    assert is_labelled(labels).tolist() == labelled
    assert torch.equal(filled(labels), full)
    missing = torch.full_like(labels, form.missing)
    assert not is_labelled(missing).any()


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (torch.tensor([0, 2]), ("0", "1", "2")),
        (torch.tensor([[0, 1], [1, 1]]), ("0", "1")),
        (torch.tensor([0.5]), ()),
        (torch.tensor([], dtype=torch.int64), ()),
    ],
)
def test_classes_without_names_are_numbered(labels, names):
    assert numbered_classes(labels) == names


def test_labels_of_no_form_are_refused():
    with pytest.raises(UserError, match=r"labels are int16; give whole numbers as int64 .* shape is \(3,\)"):
        form_of(torch.zeros(3, dtype=torch.int16))
