"""Outputs of texts without their padding."""

import pytest
import torch

from distiq.data.text import Text
from distiq.training.padding import ALIKE, EXACT, takes_any_length, without_padding

TEXT = Text((6,), 10)
TOKENS = torch.tensor([[5, 6, 0, 0, 0, 0], [5, 7, 8, 0, 0, 0]])


def tags(tokens):
    """(B, 2, L), zero at padding."""
    return torch.stack([tokens, -tokens], 1).float()


def fixed(tokens):
    if tokens.shape[1] != 6:
        raise RuntimeError("takes six tokens")
    return tags(tokens)


def test_tags_without_padding_are_those_with_it():
    assert torch.equal(without_padding(tags, TEXT, TOKENS), tags(TOKENS))


@pytest.mark.parametrize(
    ("predict", "expected"),
    [(tags, True), (fixed, False), (lambda tokens: (tokens == 0).sum(1, keepdim=True).float(), False)],
)
def test_padding_is_left_out_where_it_changes_nothing(predict, expected: bool):
    assert takes_any_length(predict, TEXT, TOKENS) is expected


@pytest.mark.parametrize(("alike", "expected"), [(ALIKE, True), (EXACT, False)])
def test_a_float_network_may_differ_by_no_more_than_sums_do(alike: float, expected: bool):
    def nearly(tokens):
        """Each token of padding adds a thousandth of the largest output."""
        return 8 + 0.008 * (tokens == 0).sum(1, keepdim=True).float()

    assert takes_any_length(nearly, TEXT, TOKENS, alike) is expected


def test_texts_without_padding_are_left_as_they_are():
    assert not takes_any_length(tags, TEXT, torch.full((2, 6), 5))
