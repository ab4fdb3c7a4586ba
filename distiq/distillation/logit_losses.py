"""Losses between outputs; `kd` stands with the task whose default it is, in tasks/classification.py.

Shapes: logits of student and teacher (B, C), labels (B,) -> scalar; or (B, C, ...) and (B, ...), where every position
counts as a sample. The classes are dimension 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.tasks.classification import kd, rows
from distiq.tasks.precision import full_precision, refuse_unless

SAME_CLASSES = "both must predict the same classes"


@full_precision
def soft_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Cross entropy of the softened outputs, batch mean, without the factor T^2.

    As in TextBrewer (Yang et al. 2020, arXiv:2002.12620): its gradient is that of `kd` divided by T^2.
    """
    refuse_unless(student.shape == teacher.shape, "soft_cross_entropy", student, teacher, SAME_CLASSES)
    return F.cross_entropy(rows(student) / temperature, F.softmax(rows(teacher) / temperature, dim=1))


@full_precision
def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits, over all elements (Ba and Caruana 2014, arXiv:1312.6184)."""
    refuse_unless(student.shape == teacher.shape, "logit_mse", student, teacher, SAME_CLASSES)
    return F.mse_loss(student, teacher)


@full_precision
def channel_kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation: where each class lies, as a distribution over positions, batch and channel mean.

    Shu et al. 2021, "Channel-wise knowledge distillation for dense prediction" (arXiv:2011.13256), equation 3:
    KL(teacher || student) of a softmax over the positions of each channel, times T^2.

    Shapes: both (B, C, ...) with positions behind the channels.
    """
    refuse_unless(student.shape == teacher.shape, "channel_kd", student, teacher, SAME_CLASSES)
    if student.ndim < 3:
        raise ValueError("channel_kd: compares where classes lie, but these outputs have no positions; use kd")
    student_log, teacher_log = (F.log_softmax(one.flatten(2) / temperature, dim=2) for one in (student, teacher))
    divergence = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.shape[0] * student.shape[1])


@full_precision
def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """Decoupled knowledge distillation: alpha * TCKD + beta * NCKD, each batch mean times T^2.

    Zhao et al. 2022, "Decoupled knowledge distillation" (arXiv:2203.08679), equations 5 and 7. TCKD compares label
    against rest, NCKD the classes other than the label among themselves. Labels may be (B,) alone: with mixed
    images there is no label class, and the method does not apply.
    """
    refuse_unless(student.shape == teacher.shape, "dkd", student, teacher, SAME_CLASSES)
    if student.shape[1] < 3:
        raise ValueError(
            "dkd: needs at least three classes, since it compares the classes other than the label; use kd"
        )
    student_label, student_rest = _label_and_rest(rows(student) / temperature, labels.flatten())
    teacher_label, teacher_rest = _label_and_rest(rows(teacher) / temperature, labels.flatten())
    target = F.kl_div(student_label, teacher_label, reduction="batchmean", log_target=True)
    others = F.kl_div(student_rest.log_softmax(1), teacher_rest.log_softmax(1), reduction="batchmean", log_target=True)
    return (alpha * target + beta * others) * temperature**2


def _label_and_rest(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_label, 1 - p_label), (B, 2), and the logits of the other classes, (B, C - 1)."""
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels.unsqueeze(1), False)
    rest = logits[others].view(len(logits), -1)
    two = torch.stack([logits.gather(1, labels.unsqueeze(1)).squeeze(1), rest.logsumexp(1)], 1)
    return two.log_softmax(1), rest


@full_precision
def dist(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """DIST: one minus Pearson's correlation of the probabilities, beta of each sample's and gamma of each class's.

    Huang et al. 2022, "Knowledge distillation from a stronger teacher" (arXiv:2205.10536), equations 6 to 9; times
    T^2 as in the authors' code.
    """
    refuse_unless(student.shape == teacher.shape, "dist", student, teacher, SAME_CLASSES)
    student_shares, teacher_shares = (rows(student) / temperature).softmax(1), (rows(teacher) / temperature).softmax(1)
    between = 1 - _pearson(student_shares, teacher_shares).mean()
    within = 1 - _pearson(student_shares.t(), teacher_shares.t()).mean()
    return (beta * between + gamma * within) * temperature**2


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of each row of x with that of y."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)


@full_precision
def logit_standardization_kd(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """`kd` of the rows' z-scores: the student need not match the teacher's shift and scale.

    Sun et al. 2024, "Logit standardization in knowledge distillation" (arXiv:2403.01427), algorithm 1. The paper
    weighs it by 9 beside a cross entropy of 0.1.
    """
    return kd(_z_score(rows(student)), _z_score(rows(teacher)), temperature=temperature)


def _z_score(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


@full_precision
def multi_level_kd(
    student: Tensor, teacher: Tensor, *, temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
) -> Tensor:
    """Multi-level logit distillation: instances (kd), batch (B x B) and classes (C x C), averaged over temperatures.

    Jin, Wang and Lin 2023, "Multi-level logit distillation" (CVPR 2023), equations 3 to 8: squared differences of
    P P^T over B and of P^T P over C, P the softened probabilities. Every level carries T^2 in the first term alone.
    Samples are compared with one another, so outputs of positions (B, C, ...) have no form of it.
    """
    refuse_unless(student.shape == teacher.shape, "multi_level_kd", student, teacher, SAME_CLASSES)
    refuse_unless(student.ndim == 2, "multi_level_kd", student, teacher, "it compares samples with one label; use kd")
    batch, classes = student.shape
    terms = []
    for temperature in temperatures:
        p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
        samples = (p @ p.t() - q @ q.t()).square().sum() / batch
        relations = (p.t() @ p - q.t() @ q).square().sum() / classes
        terms.append(kd(student, teacher, temperature=temperature) + samples + relations)
    return torch.stack(terms).mean()
