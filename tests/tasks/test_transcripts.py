"""CTC against the sum over all alignments; edits by hand; what a network of few frames cannot write."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from distiq.data.labels import SYMBOLS, Labels
from distiq.device.run import greedy, text_of
from distiq.tasks.transcripts import best_path, ctc, edit_counts, edits, frame_kd, too_few_frames, transcript

WORDS = ("<blank>", "one", "two", "ten")


def symbols(*rows: list[int]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows], dtype=torch.int32)


def frames(*rows: list[int], count: int = 4) -> torch.Tensor:
    """(N, count, frames) logits that are largest at these symbols."""
    return F.one_hot(torch.tensor(rows), count).float().transpose(1, 2)


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token]


@pytest.mark.parametrize("said", [[1], [1, 2], [2, 2]])
def test_ctc_sums_over_all_alignments(said: list[int]):
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    shares = logits[0].softmax(0)
    paths = [path for path in itertools.product(range(3), repeat=4) if collapsed(path) == said]
    total = sum(math.prod(float(shares[token, frame]) for frame, token in enumerate(path)) for path in paths)
    targets = symbols(said, [1, 1, 1])[:1]
    assert ctc(logits, targets).tolist() == pytest.approx([-math.log(total) / len(said)], rel=1e-5)


def test_a_text_longer_than_the_frames_costs_nothing_and_is_no_infinity():
    assert ctc(torch.zeros(1, 3, 2), symbols([1, 2, 1])).tolist() == [0]


def test_the_divergence_is_the_mean_over_frames():
    one, other = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    p, q = other.softmax(1), one.softmax(1)
    assert float(frame_kd(one, other)) == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-5)


def test_frames_of_another_rate_are_those_of_the_same_time():
    """Two frames of the student stand in the middle of frames 1 and 3 of four (times 1/4 and 3/4)."""
    student, teacher = torch.randn(1, 3, 2), torch.randn(1, 3, 4)
    assert float(frame_kd(student, teacher)) == pytest.approx(float(frame_kd(student, teacher[:, :, [1, 3]])))


@pytest.mark.parametrize(
    ("path", "written"),
    [([0, 1, 1, 0, 1, 2, 2], [1, 1, 2]), ([0, 0, 0], []), ([2, 2, 2], [2]), ([1, 2, 1], [1, 2, 1])],
)
def test_repeats_are_merged_before_blanks_go(path: list[int], written: list[int]):
    assert greedy(frames(path)[0].numpy()) == written
    assert best_path(frames(path)).tolist() == [written or [-1]]


@pytest.mark.parametrize(("one", "other", "count"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0)])
def test_edits(one: str, other: str, count: int):
    assert edits(one, other) == edits(other, one) == count


def test_error_rates_by_hand():
    """Written "one ten" and "two" where "one two two" and "two" were said: 2 edits of 4 words.

    "one ten" for "one two two" are 6 edits (w->e, o->n, four dropped) of 11 characters; "two" is right.
    """
    outputs, targets = frames([1, 0, 3, 3], [2, 2, 0, 0]), symbols([1, 2, 2], [2])
    assert edit_counts(outputs, targets, WORDS).tolist() == [[2, 3, 6, 11], [0, 1, 0, 3]]
    scores = transcript(Labels(SYMBOLS, WORDS)).score(outputs, targets)
    assert (scores.primary.value, scores.metrics[0].value) == (pytest.approx(2 / 4), pytest.approx(6 / 14))
    assert not scores.primary.higher_is_better


def test_characters_are_joined_and_a_bar_is_a_space():
    letters = ("<blank>", "a", "b", "|")
    about = {"labels": list(letters)}
    assert text_of(frames([1, 0, 3, 2, 0])[0].numpy(), about) == "a b"
    assert text_of(frames([1, 0, 3, 2, 0])[0].numpy(), {"labels": list(WORDS)}) == "one ten two"
    assert edit_counts(frames([1, 3, 2]), symbols([1, 3, 1]), letters).tolist() == [[1, 2, 1, 3]]


def test_a_blank_stands_between_two_alike():
    assert too_few_frames(torch.zeros(1, 4, 4), symbols([1, 1, 2], [1, 2, 1, 2])) == ""
    assert "gives 3 frames for a clip, but 2 texts need more, the longest 4" in too_few_frames(
        torch.zeros(1, 4, 3), symbols([1, 1, 2], [1, 2, 1, 2], [1])
    )
