"""The losses against the reference values, and against what their formulas promise."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distiq.distillation.losses import attention_map, attention_transfer, hint_mse, kd

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "distillation_losses.npz"
Reference = dict[str, np.ndarray]
Loss = Callable[..., Tensor]


@pytest.fixture(scope="module")
def reference() -> Reference:
    if not REFERENCE.is_file():
        pytest.skip(f"no reference values at {REFERENCE}")
    with np.load(REFERENCE) as file:
        return dict(file)


ONE = (("feature_student_0", "feature_teacher_0"),)
TWO = (*ONE, ("feature_student_1", "feature_teacher_1"))


@pytest.mark.parametrize(
    ("key", "loss", "options", "pairs"),
    [
        ("kd[T=1]", kd, {"temperature": 1.0}, (("logits_student", "logits_teacher"),)),
        ("kd[T=4]", kd, {"temperature": 4.0}, (("logits_student", "logits_teacher"),)),
        ("hint_mse", hint_mse, {}, ONE),
        ("attention_transfer[p=2]", attention_transfer, {"power": 2.0}, TWO),
        (
            "attention_transfer_wide_teacher[p=2]",
            attention_transfer,
            {},
            (("feature_student_0", "feature_teacher_wide"),),
        ),
    ],
)
def test_reference_value_and_gradient(key: str, loss: Loss, options: dict, pairs: tuple, reference: Reference):
    ours, theirs = (
        [torch.from_numpy(reference[f"in/{name}"]).double() for name in side] for side in zip(*pairs, strict=True)
    )
    for tensor in ours:
        tensor.requires_grad_()
    value = torch.stack([loss(a, b, **options) for a, b in zip(ours, theirs, strict=True)]).sum()
    assert value.item() == pytest.approx(float(reference[f"out/{key}/value"]), rel=1e-6)
    for number, gradient in enumerate(torch.autograd.grad(value, ours)):
        expected = torch.from_numpy(reference[f"out/{key}/grad{number}"])
        assert ((gradient - expected).norm() / expected.norm()).item() < 1e-6


def slow_kd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 times the mean over samples of sum p log(p / q), number by number."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(value / temperature) for value in row] for row in (s, t))
        q, p = [value / sum(q) for value in q], [value / sum(p) for value in p]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_formula(temperature: float):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 5, dtype=torch.float64).unbind(0)
    found = float(kd(student, teacher, temperature=temperature))
    assert found == pytest.approx(slow_kd(student, teacher, temperature), rel=1e-9)
    assert found > 0


def test_kd_is_zero_for_equal_outputs_whatever_is_added_to_a_row():
    logits = torch.randn(6, 4, dtype=torch.float64)
    assert float(kd(logits, logits)) == 0
    assert float(kd(logits + 5, logits)) == pytest.approx(0, abs=1e-12)


def test_kd_gradient_keeps_its_size_with_the_temperature():
    """For large T the gradient tends to (z_s - z_t) / (N C) for zero-mean rows (Hinton et al. 2015, equation 4)."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in torch.randn(2, 3, 5, dtype=torch.float64).unbind(0))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd(student, teacher, temperature=1e4), student)
    torch.testing.assert_close(gradient, (student.detach() - teacher) / (3 * 5), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", [hint_mse, attention_transfer])
def test_feature_losses_vanish_at_equality_alone(loss: Loss):
    features = torch.randn(3, 4, 5, 5)
    assert float(loss(features, features)) == 0
    assert float(loss(features, features + torch.rand(3, 4, 5, 5))) > 0


@pytest.mark.parametrize(
    ("loss", "shape"), [(kd, (4, 3)), (hint_mse, (2, 3, 4, 4)), (attention_transfer, (2, 3, 4, 4))]
)
def test_autocast_gives_float32(loss: Loss, shape: tuple[int, ...]):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape).bfloat16().unbind(0)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)


def test_hint_mse_refuses_different_shapes():
    with pytest.raises(ValueError, match=r"student \(2, 3, 4, 4\) and teacher \(2, 5, 4, 4\) differ; add a projection"):
        hint_mse(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_attention_map_by_hand(power: float):
    features = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]])  # two channels of one row of two pixels
    sums = [(1 + 3**power) / 2, 2**power / 2]
    length = math.hypot(*sums)
    expected = torch.tensor([[value / length for value in sums]])
    torch.testing.assert_close(attention_map(features, (1, 2), power), expected)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_attention_pools_the_larger_map_and_ignores_channels(larger: str):
    torch.manual_seed(0)
    small = torch.rand(2, 3, 4, 4)
    # Every pixel four times: average pooling gives it back. Channels repeated: their mean is the same.
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat(1, 2, 1, 1)
    pair = (large, small) if larger == "student" else (small, large)
    assert float(attention_transfer(*pair)) == pytest.approx(0, abs=1e-12)
    assert float(attention_transfer(pair[0], pair[1] * 7)) == pytest.approx(0, abs=1e-12), "scale does not matter"
