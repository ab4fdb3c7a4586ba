"""Losses of networks that answer every frame: connectionist temporal classification and its distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.tasks.classification import kd


def ctc(logits: Tensor, labels: Tensor, blank: int = 0) -> Tensor:
    """Minus the log probability of all alignments, by the length of the string, batch mean (Graves et al. 2006).

    Args:
        logits: (B, tokens, frames). labels: (B, L), `blank` behind the last token.
    """
    frames = torch.full((len(logits),), logits.shape[2])
    lengths = (labels != blank).sum(1).cpu()
    return F.ctc_loss(
        logits.float().log_softmax(1).permute(2, 0, 1), labels, frames, lengths, blank, zero_infinity=True
    )


def sequence_kd(student: Tensor, teacher: Tensor, blank: int = 0) -> Tensor:
    """`ctc` with what the teacher writes in place of the labels: sequence-level distillation.

    Kim and Rush 2016, "Sequence-level knowledge distillation" (arXiv:1606.07947), section 3.2, with the teacher's
    likeliest path for its best string, as for CTC in Takashima et al. 2019. It needs no common alignment, and no label.

    Shapes: (B, tokens, frames) both; the frames may differ in number.
    """
    return ctc(student, best_path(teacher, blank), blank)


def best_path(logits: Tensor, blank: int = 0) -> Tensor:
    """The likeliest token of each frame, repeats merged, blanks taken out: (B, tokens, frames) -> (B, longest), with
    `blank` behind the last token."""
    likeliest = logits.argmax(1)
    before = torch.cat([torch.full_like(likeliest[:, :1], blank), likeliest[:, :-1]], 1)
    written = (likeliest != blank) & (likeliest != before)
    places = written.cumsum(1) - 1
    strings = torch.full((len(logits), max(1, int(written.sum(1).max()))), blank, device=logits.device)
    rows, frames = written.nonzero(as_tuple=True)
    strings[rows, places[rows, frames]] = likeliest[rows, frames]
    return strings


def frame_kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`kd` of the posteriors of every frame, mean over frames: (B, tokens, frames) both.

    The alignments of both networks must agree for it to teach (Huang et al. 2018, "Knowledge distillation for
    sequence model"): same frames, same window, and `ctc` beside it.
    """
    return kd(student.transpose(1, 2).flatten(0, 1), teacher.transpose(1, 2).flatten(0, 1), temperature=temperature)
