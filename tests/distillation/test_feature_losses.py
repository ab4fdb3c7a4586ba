"""The losses between maps against slow formulas, and against what their papers promise."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distiq.distillation.feature_losses import (
    attention_map,
    attention_transfer,
    embedded,
    fsp,
    hint_mse,
    nst_gaussian,
    nst_poly,
    reviewkd_hcl,
)

Loss = Callable[..., Tensor]


def fsp_to_flipped(student: Tensor, teacher: Tensor) -> Tensor:
    """From a map to the same with its channels in reverse."""
    return fsp((student, student.flip(1)), (teacher, teacher.flip(1)))


def enlarged(maps: Tensor) -> Tensor:
    """Every pixel four times: average pooling gives the map back."""
    return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    """Student's and teacher's maps of two samples, three channels, 4 x 5 pixels."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)


def unit(channel: list[float]) -> list[float]:
    length = math.sqrt(sum(value**2 for value in channel))
    return [value / length for value in channel]


def slow_nst_gaussian(student: Tensor, teacher: Tensor) -> float:
    """Squared MMD of a sample's channels as vectors of unit length, mean over samples."""

    def squared_distance(x: list[float], y: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))

    ours, theirs = ([[unit(c) for c in sample] for sample in x.flatten(2).tolist()] for x in (student, teacher))
    crossed = [squared_distance(x, y) for s, t in zip(ours, theirs, strict=True) for x in s for y in t]
    variance = sum(crossed) / len(crossed)

    def mean_kernel(one: list, other: list) -> float:
        values = [math.exp(-squared_distance(x, y) / (2 * variance)) for x in one for y in other]
        return sum(values) / len(values)

    terms = [mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t) for s, t in zip(ours, theirs, strict=True)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_nst_gaussian_is_the_formula(channels: int, maps: tuple[Tensor, Tensor]):
    student = torch.randn(2, channels, 4, 5, dtype=torch.float64)
    assert nst_gaussian(student, maps[1]).item() == pytest.approx(slow_nst_gaussian(student, maps[1]), rel=1e-9)


def test_nst_gaussian_takes_the_spread_as_a_constant(maps: tuple[Tensor, Tensor]):
    """One channel a side: 2 - 2 exp(-(1 - x y) / s^2), with s^2 constant though equal to 2 - 2 x y."""
    student, teacher = maps[0][:1, :1].requires_grad_(), maps[1][:1, :1]
    (gradient,) = torch.autograd.grad(nst_gaussian(student, teacher), student)
    cosine = torch.nn.functional.cosine_similarity(student.flatten(1), teacher.flatten(1)).sum()
    spread = 2 - 2 * cosine.item()
    (expected,) = torch.autograd.grad(2 - 2 * torch.exp(-(1 - cosine) / spread), student)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("loss", [hint_mse, attention_transfer, fsp_to_flipped, nst_poly, nst_gaussian, reviewkd_hcl])
def test_zero_at_equality_alone(loss: Loss, maps: tuple[Tensor, Tensor]):
    assert loss(maps[0], maps[0]).item() == pytest.approx(0, abs=1e-12)
    assert loss(*maps).item() > 1e-4


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_attention_map_by_hand(power: float):
    features = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]])  # two channels of one row of two pixels
    sums = [(1 + 3**power) / 2, 2**power / 2]
    length = math.hypot(*sums)
    expected = torch.tensor([[value / length for value in sums]])
    torch.testing.assert_close(attention_map(features, power), expected)


def test_attention_ignores_scale_sign_and_number_of_channels(maps: tuple[Tensor, Tensor]):
    scales = torch.tensor([-3.0, 7.0]).view(2, 1, 1, 1)  # per sample
    assert attention_transfer(maps[0] * scales, maps[0].repeat(1, 2, 1, 1)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [nst_poly, nst_gaussian])
def test_neuron_selectivity_ignores_order_length_and_number_of_channels(loss: Loss, maps: tuple[Tensor, Tensor]):
    student, teacher = maps
    lengths = torch.tensor([0.5, 2.0, 30.0]).view(1, 3, 1, 1)
    changed = (student * lengths)[:, [2, 0, 1]].repeat(1, 2, 1, 1)
    torch.testing.assert_close(loss(changed, teacher), loss(student, teacher))


@pytest.mark.parametrize("loss", [attention_transfer, nst_poly, nst_gaussian])
def test_the_larger_map_is_pooled(loss: Loss, maps: tuple[Tensor, Tensor]):
    student, teacher = maps
    torch.testing.assert_close(loss(enlarged(student), teacher), loss(student, teacher))
    torch.testing.assert_close(loss(student, enlarged(teacher)), loss(student, teacher))


def test_pooling_takes_the_smaller_of_each_side(maps: tuple[Tensor, Tensor]):
    student, teacher = maps
    tall, wide = student.repeat_interleave(2, 2), teacher.repeat_interleave(2, 3)
    torch.testing.assert_close(attention_transfer(tall, wide), attention_transfer(student, teacher))


def test_fsp_by_hand():
    """One pixel's products, averaged over two pixels: (1*5 + 2*6) / 2 and (1*7 + 2*8) / 2; then against zero."""
    first, second = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[5.0, 6.0]], [[7.0, 8.0]]]])
    value = fsp((first, second), (torch.zeros_like(first), torch.zeros_like(second)))
    assert value.item() == pytest.approx((8.5**2 + 11.5**2) / 2)


@pytest.mark.parametrize("larger", [0, 1])
def test_fsp_pools_the_larger_of_two_layers(larger: int, maps: tuple[Tensor, Tensor]):
    student, teacher = (maps[0], maps[0].flip(1)), (maps[1], maps[1].flip(1))
    ours = tuple(enlarged(x) if number == larger else x for number, x in enumerate(student))
    torch.testing.assert_close(fsp(ours, teacher), fsp(student, teacher))
    both = tuple(enlarged(x) for x in student)
    torch.testing.assert_close(fsp(both, teacher), fsp(student, teacher))  # a mean over pixels knows no size


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_hierarchical_context_weights_sum_to_one(size: int):
    """A constant difference has the same square at every level."""
    student = torch.randn(2, 3, size, size, dtype=torch.float64)
    assert reviewkd_hcl(student, student + 3).item() == pytest.approx(9)


def test_hierarchical_context_weighs_the_coarse_levels_half_as_much_each():
    """Plus and minus one in a checkerboard vanishes in every mean: only the full size of 1 + 1/2 + 1/4 is left."""
    checkerboard = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2).view(1, 1, 4, 4)
    assert reviewkd_hcl(checkerboard, torch.zeros(1, 1, 4, 4)).item() == pytest.approx(1 / 1.75)


@pytest.mark.parametrize(
    ("loss", "teacher", "remedy"),
    [
        (hint_mse, (2, 6, 4, 5), "add a projection"),
        (hint_mse, (2, 3, 2, 2), "add a projection"),
        (reviewkd_hcl, (2, 6, 4, 5), "use the reviewkd fusion modules"),
        (reviewkd_hcl, (2, 3, 2, 2), "use the reviewkd fusion modules"),
        (fsp_to_flipped, (2, 6, 4, 5), "choose layers of equal width, or add a projection"),
        *((loss, (2, 3), "choose two layers whose outputs are maps") for loss in (attention_transfer, nst_poly)),
        *((loss, (4, 3, 4, 5), "of the same samples") for loss in (attention_transfer, nst_poly, nst_gaussian)),
        (nst_gaussian, (2, 3), "choose two layers whose outputs are maps"),
        (fsp_to_flipped, (2, 3), "choose two layers whose outputs are maps"),
    ],
)
def test_refusals_say_what_to_do(loss: Loss, teacher: tuple[int, ...], remedy: str):
    with pytest.raises(ValueError, match=rf"student \(.*\) and teacher \(.*\) do not fit; .*{remedy}"):
        loss(torch.randn(2, 3, 4, 5), torch.randn(teacher))


def test_embedded_averages_pixels_and_tokens():
    features = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
    torch.testing.assert_close(embedded(features), features)
    torch.testing.assert_close(embedded(features.view(1, 2, 3)), torch.tensor([[2.5, 3.5, 6.0]]))
    torch.testing.assert_close(embedded(features.view(1, 2, 1, 3)), torch.tensor([[2.0, 6.0]]))
