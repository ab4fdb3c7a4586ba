"""Transcription: a text for each clip, written by a network of frames (connectionist temporal classification, CTC)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import UNLABELLED, Labels
from distiq.device.run import greedy, joint_of
from distiq.records.quality import Metric
from distiq.tasks.classification import kd
from distiq.tasks.intervals import bootstrap_interval
from distiq.tasks.precision import full_precision
from distiq.tasks.task import Scores, Task, advise_by_metrics

BLANK = 0
"""The symbol that stands for none, the first."""


def transcript(labels: Labels) -> Task:
    """Logits (N, symbols, frames) and targets (N, L) int32, numbers of symbols, `UNLABELLED` behind the last."""
    symbols = labels.classes
    return Task(
        name="transcript",
        predicts=f"a text of {len(symbols) - 1} symbols",
        outputs=len(symbols),
        loss=ctc,
        distillation=frame_kd,
        decode=best_path,
        score=partial(score, symbols=symbols),
        agreement=agreement,
        advise=advise_by_metrics,
        decoding="transcript",
        places=lambda targets: (2 * targets.shape[1] + 1,),
        counts=lambda outputs, targets: edit_counts(outputs, targets, symbols)[:, :2],
        of_counts=lambda sums: sums[..., 0] / sums[..., 1].clamp(min=1),
        unfit=too_few_frames,
        tolerance="word for word",
    )


@full_precision
def ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    """Minus the log probability of all alignments of each sample, by the length of its text, (N,).

    Graves et al. 2006, "Connectionist temporal classification". A text that no alignment has gives 0.
    """
    lengths = (targets != UNLABELLED).sum(1)
    frames = torch.full((len(outputs),), outputs.shape[2])
    logs = outputs.log_softmax(1).permute(2, 0, 1)
    filled = targets.long().clamp(min=BLANK)
    each = F.ctc_loss(logs, filled, frames, lengths.cpu(), BLANK, reduction="none", zero_infinity=True)
    return each / lengths.clamp(min=1)


@full_precision
def frame_kd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`kd` of the posteriors of every frame, mean over frames: (B, symbols, frames) both.

    Huang et al. 2018, "Knowledge distillation for sequence model". Where the numbers of frames differ, each frame of
    the student learns from that of the teacher which stands at the same time.
    """
    if student.shape[2] != teacher.shape[2]:
        places = (torch.arange(student.shape[2], device=teacher.device) + 0.5) / student.shape[2]
        teacher = teacher[:, :, (places * teacher.shape[2]).long()]
    return kd(student, teacher, temperature=temperature)


def best_path(outputs: Tensor) -> Tensor:
    """The likeliest symbol of each frame, repeats merged, blanks taken out: (B, symbols, frames) -> (B, longest) int32,
    `UNLABELLED` behind the last symbol."""
    rows = [greedy(row) for row in outputs.detach().cpu().numpy()]
    longest = max(1, *(len(row) for row in rows))
    padded = [[*row, *[UNLABELLED] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int32, device=outputs.device)


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of samples of which both write the same text."""
    pairs = zip(one.numpy(), other.numpy(), strict=True)
    return sum(greedy(first) == greedy(second) for first, second in pairs) / len(one)


def edits(one: Sequence[object], other: Sequence[object]) -> int:
    """The fewest substitutions, insertions and deletions that make one the other (Levenshtein 1966)."""
    before = list(range(len(other) + 1))
    for row, own in enumerate(one, start=1):
        current = [row]
        for column, symbol in enumerate(other, start=1):
            changed = before[column - 1] + (own != symbol)
            current.append(min(changed, before[column] + 1, current[-1] + 1))
        before = current
    return before[-1]


def edit_counts(outputs: Tensor, targets: Tensor, symbols: Sequence[str]) -> Tensor:
    """Of each sample edits over words, words, edits over characters, characters: (N, 4) float64."""
    joint, rows = joint_of(symbols), []
    for logits, target in zip(outputs.numpy(), targets.tolist(), strict=True):
        texts = [joint.join(symbols[number] for number in numbers) for numbers in
                 (greedy(logits), [number for number in target if number != UNLABELLED])]  # fmt: skip
        written, said = (text.replace("|", " ") for text in texts)
        rows.append([
            edits(written.split(), said.split()), len(said.split()), edits(written, said), len(said)
        ])  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


def score(outputs: Tensor, targets: Tensor, symbols: Sequence[str]) -> Scores:
    """Word and character error rate: edits over all texts, by what was said, with intervals over clips."""
    counts = edit_counts(outputs, targets, symbols)

    def rate(name: str, title: str, own: Tensor) -> Metric:
        def figure(sums: Tensor) -> Tensor:
            return sums[..., 0] / sums[..., 1].clamp(min=1)

        return Metric(
            name=name, title=title, value=float(figure(own.sum(0))), interval=bootstrap_interval(own, figure),
            interval_by="bootstrap over clips", higher_is_better=False,
        )  # fmt: skip

    return Scores(rate("wer", "word errors", counts[:, :2]), (rate("cer", "character errors", counts[:, 2:]),))


def too_few_frames(outputs: Tensor, targets: Tensor) -> str:
    """Why a network cannot write some text: each symbol takes a frame, and a blank between two alike one more."""
    numbers = targets.masked_fill(targets == UNLABELLED, -2)
    repeats = ((numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] >= 0)).sum(1)
    needed = (targets != UNLABELLED).sum(1) + repeats
    most, frames = int(needed.max()), outputs.shape[2]
    if most <= frames:
        return ""
    return (
        f"it gives {frames} frames for a clip, but {int((needed > frames).sum())} texts need more, the longest {most};"
        " lower its hop or its strides, or leave these clips out"
    )
