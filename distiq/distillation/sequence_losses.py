"""Losses for networks that output text: distillation on the teacher's transcripts."""

from torch import Tensor

from distiq.tasks.precision import full_precision
from distiq.tasks.transcripts import best_path, ctc


@full_precision
def sequence_kd(student: Tensor, teacher: Tensor) -> Tensor:
    """`ctc` with the teacher's output text in place of the labels, batch mean: sequence-level distillation.

    Kim and Rush 2016, "Sequence-level knowledge distillation" (arXiv:1606.07947), section 3.2, with the teacher's
    likeliest path for its best string, as for CTC in Takashima et al. 2019. It needs no common alignment, and no label.

    Shapes: (B, symbols, frames) both; the frames may differ in number.
    """
    return ctc(student, best_path(teacher)).mean()
