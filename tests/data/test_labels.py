"""Forms of labels: which a tensor has, which samples have one, and what stands where there is none."""

import math

import pytest
import torch

from distiq.data.labels import CLASS, LABEL_SET, NUMBER, filled, form_of, is_labelled, numbered_classes

CASES = [
    (torch.tensor([2, -1, 0]), CLASS, [True, False, True], torch.tensor([2, 0, 0])),
    (torch.tensor([[0, 1], [-1, -1]]), LABEL_SET, [True, False], torch.tensor([[0, 1], [0, 0]])),
    (torch.tensor([0.5, math.nan]), NUMBER, [True, False], torch.tensor([0.5, 0.0])),
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
