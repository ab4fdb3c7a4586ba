"""Spans are scored as seqeval does; padding counts nowhere."""

import random

import pytest
import torch

from distiq.data.labels import TAGS, Labels
from distiq.tasks.tokens import agreement, f1, kinds_of, loss, span_counts, token_kd, tokens

TAG_NAMES = ("O", "B-a", "I-a", "B-b-c", "I-b-c", "E-a", "S-a")


def logits_of(rows: list[list[int]]) -> torch.Tensor:
    """(N, tags, T): each tag the likeliest at its place."""
    return torch.nn.functional.one_hot(torch.tensor(rows), len(TAG_NAMES)).float().transpose(1, 2)


def test_f1_is_that_of_seqeval():
    """200 random taggings, in part of padding."""
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    draw = random.Random(0)
    rows = [[draw.randrange(-1, len(TAG_NAMES)) for _ in range(12)] for _ in range(200)]
    predicted = [[tag if tag >= 0 and draw.random() < 0.8 else draw.randrange(7) for tag in row] for row in rows]
    task = tokens(Labels(TAGS, TAG_NAMES))
    scores = task.score(logits_of(predicted), torch.tensor(rows, dtype=torch.int16))
    kept = [[(TAG_NAMES[one], TAG_NAMES[tag]) for one, tag in zip(*pair, strict=True) if tag >= 0]
            for pair in zip(predicted, rows, strict=True)]  # fmt: skip
    ours, theirs = ([[pair[side] for pair in row] for row in kept] for side in (0, 1))
    by_kind = metrics.classification_report(theirs, ours, output_dict=True, zero_division=0)
    assert scores.primary.value == pytest.approx(metrics.f1_score(theirs, ours), abs=1e-12)
    assert scores.per_class == pytest.approx([by_kind[kind]["recall"] for kind in ("a", "b-c")], abs=1e-12)
    measured = {metric.name: metric.value for metric in scores.metrics}
    assert measured == pytest.approx({
        "precision": metrics.precision_score(theirs, ours), "recall": metrics.recall_score(theirs, ours),
        "f1.a": by_kind["a"]["f1-score"], "f1.b-c": by_kind["b-c"]["f1-score"],
    }, abs=1e-12)  # fmt: skip
    assert scores.primary.interval[0] < scores.primary.value < scores.primary.interval[1]


def test_spans_are_counted_by_hand():
    """Predicted: a at 0..1, b-c at 3. There: a at 0..1, b-c at 2..3. The last place has no tag."""
    targets = torch.tensor([[1, 2, 3, 4, -1]], dtype=torch.int16)
    counts = span_counts(logits_of([[1, 2, 0, 3, 1]]), targets, TAG_NAMES)
    assert kinds_of(TAG_NAMES) == ("a", "b-c")
    assert counts.tolist() == [[[1, 1, 1], [0, 1, 1]]]
    assert float(f1(counts.sum((0, 1)))) == pytest.approx(2 * 1 / (2 + 2))


def test_each_token_counts_alike_in_the_loss():
    outputs, targets = torch.randn(2, 7, 4), torch.tensor([[1, 0, -1, 2, -1], [3, -1, -1, -1, -1]], dtype=torch.int16)
    by_token = [outputs[0, :, place].log_softmax(0)[tag] for place, tag in ((0, 1), (1, 0), (3, 2))]
    by_token.append(outputs[1, :, 0].log_softmax(0)[3])
    assert float(loss(outputs, targets).mean()) == pytest.approx(-float(torch.stack(by_token).mean()), rel=1e-5)


def test_padding_teaches_nothing():
    student, teacher = torch.randn(2, 7, 4), torch.randn(2, 7, 6)
    teacher[0, :, 2:], teacher[1, :, 3:] = 0, 0
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    logs = [[(one[row, :, place] / 2).log_softmax(0) for row, place in places] for one in (student, teacher)]
    expected = sum(float((t.exp() * (t - s)).sum()) for s, t in zip(*logs, strict=True)) / 5 * 4
    assert float(token_kd(student, teacher, temperature=2.0)) == pytest.approx(expected, rel=1e-5)


def test_models_agree_on_tokens_and_not_on_padding():
    one = logits_of([[1, 2, 0, 3]])
    other = logits_of([[1, 0, 0, 3]])
    one[:, :, 3], other[:, :, 3] = 0, 0
    assert agreement(one, other) == pytest.approx(2 / 3)
