"""Tagging: one of several tags for each token, which write down spans such as names."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import UNLABELLED, Labels
from distiq.device.run import spans_in
from distiq.records.quality import Metric
from distiq.tasks.classification import kd
from distiq.tasks.intervals import bootstrap_interval
from distiq.tasks.precision import full_precision
from distiq.tasks.task import Advice, Scores, Task, Taught

HITS, PREDICTED, ACTUAL = range(3)
"""What is counted of spans: predicted rightly, predicted, there."""


def tokens(labels: Labels) -> Task:
    """Logits (N, tags, T) and targets (N, T) int16, `UNLABELLED` where no tag counts. Padding has logits of 0."""
    tags, kinds = labels.classes, kinds_of(labels.classes)
    return Task(
        name="tokens",
        predicts=f"spans of {len(kinds)} kinds",
        outputs=len(tags),
        loss=loss,
        distillation=token_kd,
        decode=decode,
        score=partial(score, tags=tags),
        agreement=agreement,
        advise=advise,
        decoding="spans",
        places=lambda targets: tuple(targets.shape[1:]),
        parts=kinds,
        counts=lambda outputs, targets: span_counts(outputs, targets, tags).sum(1),
        of_counts=f1,
        tolerance="tag by tag",
    )


def kinds_of(tags: Sequence[str]) -> tuple[str, ...]:
    """The labels that spans may have."""
    return tuple(dict.fromkeys(tag[2:] for tag in tags if len(tag) > 2))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each sample, (N,): the sum over its tokens by the mean number of tokens that have a tag, so
    that each token counts alike. Targets may be longer than the longest sample of the batch."""
    targets = targets[:, : outputs.shape[2]].long()
    each = F.cross_entropy(outputs.float(), targets, ignore_index=UNLABELLED, reduction="none").sum(1)
    return each / (targets != UNLABELLED).sum(1).float().mean().clamp(min=1)


@full_precision
def token_kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` of each token, mean over the tokens. Where the teacher's logits are all 0 is padding, which is left out.

    Shapes: (B, tags, T) both; the teacher's may have more padding behind.
    """
    teacher = teacher[:, :, : student.shape[2]]
    is_token = (teacher != 0).any(1)
    own, reference = (outputs.transpose(1, 2)[is_token] for outputs in (student, teacher))
    return kd(own, reference, temperature=temperature)


def decode(outputs: Tensor) -> Tensor:
    """The likeliest tag of each token, (N, T)."""
    return outputs.argmax(1)


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of the tokens, without padding, that both tag alike."""
    is_token = (one != 0).any(1) | (other != 0).any(1)
    return float((decode(one) == decode(other))[is_token].double().mean())


def span_counts(outputs: Tensor, targets: Tensor, tags: Sequence[str]) -> Tensor:
    """Of each sample and each kind the spans predicted rightly, predicted, and there: (N, kinds, 3) float64.

    Equal to what `seqeval` counts in its default mode, over the tokens that have a tag.
    """
    kinds = {kind: number for number, kind in enumerate(kinds_of(tags))}
    counts = torch.zeros(len(targets), len(kinds), 3, dtype=torch.float64)
    for row, (own, reference) in enumerate(zip(decode(outputs).tolist(), targets.tolist(), strict=True)):
        places = [place for place, tag in enumerate(reference) if tag != UNLABELLED]
        predicted, actual = (set(spans_in([tags[sample[place]] for place in places])) for sample in (own, reference))
        for column, spans in ((HITS, predicted & actual), (PREDICTED, predicted), (ACTUAL, actual)):
            for kind, _, _ in spans:
                counts[row, kinds[kind], column] += 1
    return counts


def f1(counts: Tensor) -> Tensor:
    """F1 of counts (..., 3): (...); 0 where nothing is predicted and nothing is there."""
    return 2 * counts[..., HITS] / (counts[..., PREDICTED] + counts[..., ACTUAL]).clamp(min=1)


def score(outputs: Tensor, targets: Tensor, tags: Sequence[str]) -> Scores:
    """F1 of spans whose ends and kind are right (micro average), precision, recall, F1 of each kind; recall by kind."""
    counts = span_counts(outputs, targets, tags)
    total, by_kind = counts.sum((0, 1)), counts.sum(0)
    primary = Metric(
        name="f1",
        title="span F1",
        value=float(f1(total)),
        interval=bootstrap_interval(counts.sum(1), f1),
        interval_by="bootstrap over texts",
    )
    shares = by_kind[:, HITS] / by_kind[:, ACTUAL]
    of_kinds = [
        Metric(name=f"f1.{kind}", title=f"F1 of {kind}", value=float(f1(own)))
        for kind, own in zip(kinds_of(tags), by_kind, strict=True)
        if own[ACTUAL]
    ]
    return Scores(
        primary,
        (
            Metric(name="precision", title="precision", value=float(total[HITS] / total[PREDICTED].clamp(min=1))),
            Metric(name="recall", title="recall", value=float(total[HITS] / total[ACTUAL].clamp(min=1))),
            *of_kinds,
        ),
        tuple(None if share.isnan() else float(share) for share in shares),
    )


def advise(taught: Taught) -> Advice:
    """What the teacher finds; a warning where it finds nothing, or next to nothing."""
    facts = [f"teacher: {taught.quality.in_words} on the validation split (tagging every word O: 0 %)"]
    interval = taught.quality.primary.interval
    if interval is not None and interval[0] > 0:
        return Advice(facts, [])
    return Advice(facts, ["the teacher is not shown to find any span; check its weights and the order of its labels"])
