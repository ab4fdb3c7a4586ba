"""The losses between outputs against slow formulas, and against what their papers promise."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distiq.distillation.logit_losses import (
    channel_kd,
    dist,
    dkd,
    logit_mse,
    logit_standardization_kd,
    multi_level_kd,
    soft_cross_entropy,
)
from distiq.tasks.classification import kd
from distiq.tasks.multi_label import bernoulli_kd

Loss = Callable[..., Tensor]
LABELS = torch.tensor([0, 3, 1, 4, 2, 2])


def dkd_labelled(student: Tensor, teacher: Tensor) -> Tensor:
    return dkd(student, teacher, LABELS)


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Student's and teacher's outputs to six samples, five classes."""
    torch.manual_seed(0)
    return torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)


def softened(row: list[float], temperature: float) -> list[float]:
    exponents = [math.exp(value / temperature) for value in row]
    return [value / sum(exponents) for value in exponents]


def slow_kd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 times the mean over samples of sum p log(p / q), number by number."""
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softened(ours, temperature), softened(theirs, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_multi_level_kd(student: Tensor, teacher: Tensor, temperatures: tuple[float, ...]) -> float:
    batch, classes = student.shape
    total = 0.0
    for temperature in temperatures:
        q, p = ([softened(row, temperature) for row in rows.tolist()] for rows in (student, teacher))
        total += slow_kd(student, teacher, temperature)
        for i in range(batch):
            for j in range(batch):
                total += sum(q[i][c] * q[j][c] - p[i][c] * p[j][c] for c in range(classes)) ** 2 / batch
        for c in range(classes):
            for d in range(classes):
                total += sum(q[i][c] * q[i][d] - p[i][c] * p[i][d] for i in range(batch)) ** 2 / classes
    return total / len(temperatures)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_formula(temperature: float, logits: tuple[Tensor, Tensor]):
    found = kd(*logits, temperature=temperature).item()
    assert found == pytest.approx(slow_kd(*logits, temperature), rel=1e-9)
    assert found > 0


@pytest.mark.parametrize("temperatures", [(1.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
def test_multi_level_kd_is_the_formula(temperatures: tuple[float, ...], logits: tuple[Tensor, Tensor]):
    found = multi_level_kd(*logits, temperatures=temperatures).item()
    assert found == pytest.approx(slow_multi_level_kd(*logits, temperatures), rel=1e-9)


def test_kd_gradient_keeps_its_size_with_the_temperature(logits: tuple[Tensor, Tensor]):
    """For large T the gradient tends to (z_s - z_t) / (N C) for zero-mean rows (Hinton et al. 2015, equation 4)."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in logits)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd(student, teacher, temperature=1e4), student)
    torch.testing.assert_close(gradient, (student.detach() - teacher) / (6 * 5), rtol=1e-3, atol=1e-5)


def test_soft_cross_entropy_has_the_gradient_of_kd_over_the_squared_temperature(logits: tuple[Tensor, Tensor]):
    student, teacher = logits[0].requires_grad_(), logits[1]
    (cross,) = torch.autograd.grad(soft_cross_entropy(student, teacher, temperature=3.0), student)
    (divergence,) = torch.autograd.grad(kd(student, teacher, temperature=3.0), student)
    torch.testing.assert_close(cross, divergence / 9)


def test_soft_cross_entropy_at_equality_is_the_teachers_entropy(logits: tuple[Tensor, Tensor]):
    entropies = [-sum(p * math.log(p) for p in softened(row, 2.0)) for row in logits[0].tolist()]
    assert soft_cross_entropy(logits[0], logits[0], temperature=2.0).item() == pytest.approx(sum(entropies) / 6)


@pytest.mark.parametrize("loss", [kd, logit_mse, dkd_labelled, dist, logit_standardization_kd, multi_level_kd])
def test_zero_at_equality_alone(loss: Loss, logits: tuple[Tensor, Tensor]):
    # dist guards its division by 1e-8, beside variances of about 1e-1.
    assert loss(logits[0], logits[0]).item() == pytest.approx(0, abs=1e-6)
    assert loss(*logits).item() > 1e-3


@pytest.mark.parametrize("loss", [kd, soft_cross_entropy, dkd_labelled, dist, logit_standardization_kd, multi_level_kd])
def test_what_is_added_to_a_row_does_not_matter(loss: Loss, logits: tuple[Tensor, Tensor]):
    student, teacher = logits
    shifts = torch.arange(6).unsqueeze(1) - 2.5
    torch.testing.assert_close(loss(student + shifts, teacher - 2 * shifts), loss(student, teacher))


def test_logit_standardization_ignores_the_scale_of_a_row(logits: tuple[Tensor, Tensor]):
    student, teacher = logits
    scales = torch.tensor([0.5, 1, 2, 3, 4, 10]).unsqueeze(1)
    value = logit_standardization_kd(student, teacher)
    torch.testing.assert_close(
        logit_standardization_kd(student * scales + 7, teacher / scales), value, rtol=1e-5, atol=0
    )
    assert logit_standardization_kd(-student, teacher).item() != pytest.approx(value.item(), rel=0.01)


def test_dkd_is_kd_when_the_others_weigh_what_the_teacher_gives_them(logits: tuple[Tensor, Tensor]):
    """KD = TCKD + (1 - p_label) NCKD, sample by sample (Zhao et al. 2022, equation 5)."""
    for student, teacher, label in zip(*(x.split(1) for x in (*logits, LABELS)), strict=True):
        beta = 1 - softened(teacher[0].tolist(), 4.0)[int(label)]
        torch.testing.assert_close(dkd(student, teacher, label, beta=beta), kd(student, teacher))


def test_dist_ignores_an_affine_change_of_the_probabilities(logits: tuple[Tensor, Tensor]):
    probabilities = logits[1].softmax(1)
    flatter = (0.5 * probabilities + 0.1).log()  # 0.1 to each of five classes: the sum stays one
    assert dist(flatter, logits[1]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "loss", [kd, soft_cross_entropy, logit_mse, dkd_labelled, dist, logit_standardization_kd, multi_level_kd]
)
@pytest.mark.parametrize("teacher", [(6, 4), (5, 5)])
def test_other_shapes_are_refused(loss: Loss, teacher: tuple[int, int]):
    message = rf"student \(6, 5\) and teacher \({teacher[0]}, {teacher[1]}\) do not fit; both must predict the same"
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(6, 5), torch.randn(teacher))


def test_dkd_refuses_two_classes():
    with pytest.raises(ValueError, match=r"dkd: needs at least three classes.*use kd"):
        dkd(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bernoulli_kd_is_kd_of_each_label_against_its_absence(logits, temperature: float):
    student, teacher = logits
    pairs = [torch.stack([x.flatten(), torch.zeros(x.numel(), dtype=x.dtype)], 1) for x in (student, teacher)]
    wanted = slow_kd(*pairs, temperature)
    assert bernoulli_kd(student, teacher, temperature=temperature).item() == pytest.approx(wanted)
    assert bernoulli_kd(1e4 * student, 1e4 * student).item() == pytest.approx(0, abs=1e-9)


MAPS = [kd, soft_cross_entropy, logit_mse, dist, logit_standardization_kd, bernoulli_kd]


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    """Student's and teacher's outputs to two images, five classes at each of 3 x 4 positions."""
    torch.manual_seed(1)
    return torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)


def positions(outputs: Tensor) -> Tensor:
    """Every position of every image as a sample, picked one by one: (B, C, H, W) -> (B * H * W, C)."""
    batch, _, height, width = outputs.shape
    return torch.stack([outputs[b, :, y, x] for b in range(batch) for y in range(height) for x in range(width)])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_of_maps_is_the_formula_over_positions(temperature: float, maps: tuple[Tensor, Tensor]):
    slow = slow_kd(*(positions(outputs) for outputs in maps), temperature)
    assert kd(*maps, temperature=temperature).item() == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("loss", MAPS)
def test_every_position_of_a_map_counts_as_a_sample(loss: Loss, maps: tuple[Tensor, Tensor]):
    torch.testing.assert_close(loss(*maps), loss(*(positions(outputs) for outputs in maps)))


def test_channel_kd_compares_where_each_class_lies(maps: tuple[Tensor, Tensor]):
    expected = sum(
        sum(q * math.log(q / p) for p, q in zip(softened(ours, 2.0), softened(theirs, 2.0), strict=True))
        for ours, theirs in zip(*(outputs.flatten(2).flatten(0, 1).tolist() for outputs in maps), strict=True)
    )
    rows = maps[0].shape[0] * maps[0].shape[1]
    assert channel_kd(*maps, temperature=2.0).item() == pytest.approx(4 * expected / rows, rel=1e-4)
    assert channel_kd(maps[1] + 3, maps[1]).item() == pytest.approx(0, abs=1e-6), (
        "what is added to a map does not matter"
    )
    with pytest.raises(ValueError, match="these outputs have no positions; use kd"):
        channel_kd(maps[0][:, :, 0, 0], maps[1][:, :, 0, 0])


def test_dkd_of_maps_takes_the_label_of_each_position(maps: tuple[Tensor, Tensor]):
    labels = torch.arange(24).view(2, 3, 4) % 5
    expected = dkd(*(positions(outputs) for outputs in maps), torch.arange(24) % 5)
    torch.testing.assert_close(dkd(*maps, labels), expected)


def test_a_comparison_of_samples_refuses_maps(maps: tuple[Tensor, Tensor]):
    with pytest.raises(ValueError, match="it compares samples with one label; use kd"):
        multi_level_kd(*maps)
