"""The losses between relations against slow formulas, and against what their papers promise."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distiq.distillation.relation_losses import (
    correlation_congruence,
    embedding_cosine,
    pkt,
    rkd,
    similarity_preserving,
)

Loss = Callable[..., Tensor]
SCALES = torch.tensor([0.5, 1, 2, 4, 8]).unsqueeze(1)  # one per sample


@pytest.fixture
def embeddings() -> tuple[Tensor, Tensor]:
    """Student's and teacher's embeddings of five samples."""
    torch.manual_seed(0)
    return torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)


def turned(x: Tensor) -> Tensor:
    """Rotated, in a space of two dimensions more."""
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=x.dtype))
    return x @ rotation[:4]


def test_embedding_cosine_is_the_formula(embeddings: tuple[Tensor, Tensor]):
    total = 0.0
    for s, t in zip(*(x.tolist() for x in embeddings), strict=True):
        product = sum(a * b for a, b in zip(s, t, strict=True))
        total += 1 - product / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
    assert embedding_cosine(*embeddings).item() == pytest.approx(total / 5, rel=1e-9)


def test_embedding_cosine_ignores_lengths_and_runs_from_zero_to_two(embeddings: tuple[Tensor, Tensor]):
    student, _ = embeddings
    assert embedding_cosine(student * SCALES, student).item() == pytest.approx(0, abs=1e-12)
    assert embedding_cosine(-student * SCALES, student).item() == pytest.approx(2)


@pytest.mark.parametrize("loss", [similarity_preserving, rkd, pkt, correlation_congruence, embedding_cosine])
def test_zero_at_equality_alone(loss: Loss, embeddings: tuple[Tensor, Tensor]):
    assert loss(embeddings[0], embeddings[0]).item() == pytest.approx(0, abs=1e-12)
    assert loss(*embeddings).item() > 1e-4


@pytest.mark.parametrize("loss", [similarity_preserving, rkd, pkt])
def test_rotation_width_and_scale_of_the_space_do_not_matter(loss: Loss, embeddings: tuple[Tensor, Tensor]):
    student, teacher = embeddings
    # pkt and rkd guard their divisions by 1e-7 and less.
    torch.testing.assert_close(loss(3 * turned(student), turned(teacher)), loss(student, teacher), rtol=1e-5, atol=0)


def test_rkd_ignores_the_origin(embeddings: tuple[Tensor, Tensor]):
    student, teacher = embeddings
    torch.testing.assert_close(rkd(student + 3, teacher - 2), rkd(student, teacher))


def test_pkt_ignores_the_length_of_each_sample(embeddings: tuple[Tensor, Tensor]):
    student, teacher = embeddings
    torch.testing.assert_close(pkt(student * SCALES, teacher / SCALES), pkt(student, teacher), rtol=1e-5, atol=0)


def test_similarity_preserving_keeps_the_length_of_each_sample(embeddings: tuple[Tensor, Tensor]):
    """Rows of the Gram matrix are normalized, its columns are not: lengths within the batch are knowledge."""
    student, _ = embeddings
    assert similarity_preserving(student * SCALES, student).item() > 1e-3


def test_similarity_preserving_by_hand():
    """Grams [[1, 1], [1, 1]] and [[1, 0], [0, 1]]; rows of length one differ by 1 / sqrt(2) from (1, 0)."""
    value = similarity_preserving(torch.ones(2, 1), torch.eye(2)).item()
    assert value == pytest.approx(((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2)


def test_rkd_adds_its_two_terms_by_weight(embeddings: tuple[Tensor, Tensor]):
    distances, angles = rkd(*embeddings, distance=1.0, angle=0.0), rkd(*embeddings, distance=0.0, angle=1.0)
    assert distances > 0 and angles > 0
    torch.testing.assert_close(rkd(*embeddings, distance=3.0, angle=5.0), 3 * distances + 5 * angles)


def test_rkd_knows_a_triangle_from_a_line():
    """Distances 1, 1, 2 on a line and 1, 1, 1 in the triangle; over their means 3/4, 3/4, 3/2 and 1, 1, 1."""
    line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    triangle = torch.tensor([[0.0, 0.0], [0.5, math.sqrt(0.75)], [1.0, 0.0]])
    huber = [0.5 * 0.25**2, 0.5 * 0.25**2, 0.5 * 0.5**2]
    assert rkd(line, triangle, distance=1.0, angle=0.0).item() == pytest.approx(2 * sum(huber) / 9, rel=1e-5)


@pytest.mark.parametrize("loss", [similarity_preserving, rkd, pkt])
def test_equal_samples_have_finite_gradients(loss: Loss):
    student = torch.ones(4, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, torch.randn(4, 3)), student)
    assert gradient.isfinite().all()


def test_correlation_congruence_needs_a_difference_in_two_neighbours(embeddings: tuple[Tensor, Tensor]):
    student, _ = embeddings
    changed = student.clone()
    changed[2] += 2
    assert correlation_congruence(changed, student).item() == 0
    changed[3] -= 3  # 2 * 3 in each of four features, in one of four pairs
    assert correlation_congruence(changed, student).item() == pytest.approx(6)


@pytest.mark.parametrize("loss", [similarity_preserving, rkd, pkt, correlation_congruence, embedding_cosine])
def test_maps_are_flattened(loss: Loss, embeddings: tuple[Tensor, Tensor]):
    flat = loss(*embeddings)
    torch.testing.assert_close(loss(*(x.view(5, 1, 2, 2) for x in embeddings)), flat)


@pytest.mark.parametrize(
    ("loss", "teacher", "remedy"),
    [
        *((loss, (3, 4), "both must be of the same samples") for loss in (similarity_preserving, rkd, pkt)),
        (correlation_congruence, (5, 6), "add a linear projection of both to one width"),
        (embedding_cosine, (5, 6), "add a linear projection"),
    ],
)
def test_refusals_say_what_to_do(loss: Loss, teacher: tuple[int, int], remedy: str):
    message = rf"^{loss.__name__}: student \(5, 4\) and teacher \({teacher[0]}, {teacher[1]}\) do not fit; {remedy}$"
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(5, 4), torch.randn(teacher))
