"""Losses of networks that answer every frame: connectionist temporal classification and its distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.distillation.logit_losses import kd


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


def frame_kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`kd` of the posteriors of every frame, mean over frames: (B, tokens, frames) both.

    The alignments of both networks must agree for it to teach (Huang et al. 2018, "Knowledge distillation for
    sequence model"): same frames, same window, and `ctc` beside it.
    """
    return kd(student.transpose(1, 2).flatten(0, 1), teacher.transpose(1, 2).flatten(0, 1), temperature=temperature)
