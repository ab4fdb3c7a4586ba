"""Distillation by what the teacher writes."""

import torch

from distiq.distillation.sequence_losses import sequence_kd
from distiq.tasks.transcripts import best_path, ctc


def test_sequence_kd_is_ctc_with_the_teacher_s_strings():
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(3, 4, frames, generator=generator) for frames in (12, 9))
    torch.testing.assert_close(sequence_kd(student, teacher), ctc(student, best_path(teacher)).mean())
