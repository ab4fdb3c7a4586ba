"""Losses between the relations of the samples of a batch. Shapes: (B, D1), (B, D2) or maps, flattened -> scalar."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.tasks.precision import full_precision, refuse_unless

SAME_SAMPLES = "both must be of the same samples"


@full_precision
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving distillation: squared difference of the row-normalized Gram matrices, over B^2.

    Tung and Mori 2019, "Similarity-preserving knowledge distillation" (arXiv:1907.09682), equations 1 to 4.
    """
    refuse_unless(len(student) == len(teacher), "similarity_preserving", student, teacher, SAME_SAMPLES)
    student, teacher = (F.normalize(x.flatten(1) @ x.flatten(1).t()) for x in (student, teacher))
    return (student - teacher).square().mean()


@full_precision
def rkd(student: Tensor, teacher: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Relational knowledge distillation: smooth-L1 differences of normalized distances and of angles, weighted.

    Park et al. 2019, "Relational knowledge distillation" (arXiv:1904.05068), equations 6 to 10; the mean runs over
    all pairs and triples, the diagonal included, as in the authors' code. Memory grows with B^2 D + B^3.
    """
    refuse_unless(len(student) == len(teacher), "rkd", student, teacher, SAME_SAMPLES)
    student, teacher = student.flatten(1), teacher.flatten(1)
    total = student.new_zeros(())
    if distance:
        total = total + distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
    if angle:
        total = total + angle * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return total


def _distances(x: Tensor) -> Tensor:
    """(B, D) -> (B, B): Euclidean distances over their mean."""
    lengths = x.square().sum(1)
    squares = (lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * x @ x.t()).clamp(min=1e-12)
    apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    distances = torch.where(apart, squares.sqrt(), 0.0)
    return distances / distances.sum().div(distances.detach().gt(0).sum().clamp(min=1))


def _angles(x: Tensor) -> Tensor:
    """(B, D) -> (B, B, B): cosines of the angles at the first sample between the second and the third."""
    directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
    return directions @ directions.transpose(1, 2)


@full_precision
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Probabilistic knowledge transfer: KL of the samples' neighbour probabilities under a cosine kernel, over B^2.

    Passalis and Tefas 2018, "Learning deep representations with probabilistic knowledge transfer" (arXiv:1803.10837),
    equations 4 and 5.
    """
    refuse_unless(len(student) == len(teacher), "pkt", student, teacher, SAME_SAMPLES)
    student, teacher = _neighbours(student.flatten(1)), _neighbours(teacher.flatten(1))
    return (teacher * torch.log((teacher + 1e-7) / (student + 1e-7))).mean()


def _neighbours(x: Tensor) -> Tensor:
    x = x / (x.norm(dim=1, keepdim=True) + 1e-7)
    similarity = (x @ x.t() + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


@full_precision
def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence between neighbours in the batch: mean over i of |s - t|_i . |s - t|_(i+1).

    Peng et al. 2019, "Correlation congruence for knowledge distillation" (arXiv:1904.01802), as restructured in
    RepDistiller (Tian et al. 2020), whose values others compare with.

    Raises:
        ValueError: the widths differ; a linear projection to one width makes them alike.
    """
    student, teacher = student.flatten(1), teacher.flatten(1)
    remedy = "add a linear projection of both to one width"
    refuse_unless(student.shape == teacher.shape, "correlation_congruence", student, teacher, remedy)
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum(1).mean()


@full_precision
def embedding_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of one minus the cosine between the two embeddings of a sample: label-free.

    Raises:
        ValueError: the widths differ; a linear projection makes them alike.
    """
    student, teacher = student.flatten(1), teacher.flatten(1)
    refuse_unless(student.shape == teacher.shape, "embedding_cosine", student, teacher, "add a linear projection")
    return (1 - F.cosine_similarity(student, teacher)).mean()
