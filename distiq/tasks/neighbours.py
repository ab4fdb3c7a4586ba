"""Do two models of sentences find the same neighbours? No labels are needed."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 500


class Neighbours(NamedTuple):
    """How far a student's nearest sentences are its teacher's; shares are fractions of 1.

    top1: sentences whose nearest one is the teacher's. recall: of the teacher's nearest ones, those among as many of
    the student's, mean over the sentences. cosine: mean cosine between both embeddings of a sentence, None where their
    widths differ.
    """

    top1: float
    recall: float
    cosine: float | None


def nearest(embeddings: Tensor, count: int) -> Tensor:
    """The numbers of the nearest others by cosine, nearest first: (N, D) -> (N, count).

    Raises:
        ValueError: there are not so many others.
    """
    if not 1 <= count < len(embeddings):
        raise ValueError(f"{count} neighbours of each of {len(embeddings)} sentences; take 1 to {len(embeddings) - 1}")
    units = F.normalize(embeddings.float(), dim=1)
    rows = []
    for start in range(0, len(units), CHUNK):
        cosines = units[start : start + CHUNK] @ units.T
        cosines[torch.arange(len(cosines)), torch.arange(len(cosines)) + start] = -torch.inf
        rows.append(cosines.topk(count, 1).indices)
    return torch.cat(rows)


def same_neighbours(student: Tensor, teacher: Tensor, count: int = 10) -> Neighbours:
    """Of embeddings (N, D) of the same sentences; the recall is of `count` neighbours."""
    of_student, of_teacher = nearest(student, count), nearest(teacher, count)
    shared = (of_student.unsqueeze(2) == of_teacher.unsqueeze(1)).any(2).double().mean()
    alike = student.shape == teacher.shape
    cosine = float(F.cosine_similarity(student.float(), teacher.float()).mean()) if alike else None
    return Neighbours(float((of_student[:, 0] == of_teacher[:, 0]).double().mean()), float(shared), cosine)
