"""CTC against the sum over all alignments; the frames' divergence against its formula."""

import itertools
import math

import pytest
import torch

from distiq.distillation.sequence_losses import best_path, ctc, frame_kd, sequence_kd
from distiq.evaluation.transcripts import greedy


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token]


@pytest.mark.parametrize("said", [[1], [1, 2], [2, 2]])
def test_ctc_sums_over_all_alignments(said: list[int]):
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    shares = logits[0].softmax(0)
    paths = [path for path in itertools.product(range(3), repeat=4) if collapsed(path) == said]
    total = sum(math.prod(float(shares[token, frame]) for frame, token in enumerate(path)) for path in paths)
    labels = torch.tensor([said + [0] * (3 - len(said))])
    assert float(ctc(logits, labels)) == pytest.approx(-math.log(total) / len(said), rel=1e-5)


def test_a_string_longer_than_the_frames_costs_nothing_and_is_no_infinity():
    assert float(ctc(torch.zeros(1, 3, 2), torch.tensor([[1, 2, 1]]))) == 0


def test_the_divergence_is_the_mean_over_frames():
    one, other = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    p, q = other.softmax(1), one.softmax(1)
    assert float(frame_kd(one, other)) == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-5)
    assert float(frame_kd(one, one)) == pytest.approx(0, abs=1e-6)


def test_the_best_path_is_what_greedy_decoding_writes():
    logits = torch.randn(6, 4, 15, generator=torch.Generator().manual_seed(1))
    logits[3, 0] = 99.0  # a silent one
    strings = best_path(logits)
    assert [[token for token in row if token] for row in strings.tolist()] == greedy(logits)
    assert best_path(logits[3:4]).tolist() == [[0]]


def test_sequence_kd_is_ctc_with_the_teacher_s_strings():
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(3, 4, frames, generator=generator) for frames in (12, 9))
    written = greedy(teacher)
    longest = max(map(len, written))
    labels = torch.tensor([row + [0] * (longest - len(row)) for row in written])
    torch.testing.assert_close(sequence_kd(student, teacher), ctc(student, labels))
