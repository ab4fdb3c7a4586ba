"""Losses between activations of one pair of layers, or of several. Shapes: maps (B, C, H, W) -> scalar."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.tasks.precision import full_precision, refuse_unless

PROJECT = "add a projection"


@full_precision
def hint_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets hint: mean squared difference of two activations of one shape.

    Romero et al. 2015, "FitNets: hints for thin deep nets" (arXiv:1412.6550), equation 3, as a mean over elements.

    Raises:
        ValueError: the shapes differ; a projection makes them alike.
    """
    refuse_unless(student.shape == teacher.shape, "hint_mse", student, teacher, PROJECT)
    return F.mse_loss(student, teacher)


@full_precision
def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Attention transfer: mean squared difference of the normalized maps of one pair of layers.

    Zagoruyko and Komodakis 2017, "Paying more attention to attention" (arXiv:1612.03928), equation 2: the map is the
    mean over channels of |activation|^power, normalized per sample. A larger map is pooled to the smaller one's size,
    as in the authors' code; channels may differ.
    """
    student, teacher = _of_one_size("attention_transfer", student, teacher)
    return (attention_map(student, power) - attention_map(teacher, power)).square().mean()


def attention_map(features: Tensor, power: float = 2.0) -> Tensor:
    """(B, C, H, W) -> (B, H * W), of unit length per sample."""
    return F.normalize(features.abs().pow(power).mean(1).flatten(1))


@full_precision
def fsp(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Flow of the solution procedure: mean squared difference of the flow matrices between two layers.

    Yim et al. 2017, "A gift from knowledge distillation" (CVPR 2017), equations 1 and 2: G = mean over pixels of
    the products of the first layer's and the second layer's channels. A larger map is pooled to the smaller one's size.

    Shapes: two maps (B, C1, H1, W1), (B, C2, H2, W2) of the student; two of the teacher, with as many channels.
    """
    student_flow, teacher_flow = _flow(*student), _flow(*teacher)
    remedy = "choose layers of equal width, or add a projection"
    refuse_unless(student_flow.shape == teacher_flow.shape, "fsp", student_flow, teacher_flow, remedy)
    return (student_flow - teacher_flow).square().mean()


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """(B, C1, H, W), (B, C2, H', W') -> (B, C1, C2)."""
    first, second = _of_one_size("fsp", first, second)
    return first.flatten(2) @ second.flatten(2).transpose(1, 2) / first[0, 0].numel()


@full_precision
def nst_poly(student: Tensor, teacher: Tensor) -> Tensor:
    """Neuron selectivity transfer with the polynomial kernel (d = 2, c = 0): squared MMD of the channels' maps.

    Huang and Wang 2017, "Like what you like" (arXiv:1707.01219), equation 6: each channel's map, of unit length, is
    a sample of the distribution that the student's channels should follow. Channels may differ.
    """
    return _mmd("nst_poly", student, teacher, lambda products: products.square())


@full_precision
def nst_gaussian(student: Tensor, teacher: Tensor) -> Tensor:
    """Neuron selectivity transfer with the Gaussian kernel exp(-|x - y|^2 / (2 s^2)).

    As `nst_poly`; s^2 is the mean squared distance between the student's and the teacher's maps (section 4.1 of the
    paper), without gradient.
    """
    student_maps, teacher_maps = _unit_maps("nst_gaussian", student, teacher)
    # Unit vectors: |x - y|^2 = 2 - 2 x y.
    spread = (2 - 2 * (student_maps @ teacher_maps.transpose(1, 2))).mean().detach().clamp(min=1e-8)
    return _mmd("nst_gaussian", student, teacher, lambda products: torch.exp(-(1 - products) / spread))


def _unit_maps(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = _of_one_size(loss, student, teacher)
    return F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)


def _mmd(loss: str, student: Tensor, teacher: Tensor, kernel) -> Tensor:  # type: ignore[no-untyped-def]
    student_maps, teacher_maps = _unit_maps(loss, student, teacher)

    def mean(x: Tensor, y: Tensor) -> Tensor:
        return kernel(x @ y.transpose(1, 2)).mean()

    return mean(teacher_maps, teacher_maps) + mean(student_maps, student_maps) - 2 * mean(student_maps, teacher_maps)


@full_precision
def reviewkd_hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of ReviewKD: mean squared differences at full size and pooled to 4, 2 and 1.

    Chen et al. 2021, "Distilling knowledge via knowledge review" (arXiv:2104.09044), section 3.4; each coarser level
    weighs half as much, and the weights are normalized, as in the authors' code.

    Raises:
        ValueError: the shapes differ; `ReviewKD` fuses and projects the student's layers.
    """
    refuse_unless(student.shape == teacher.shape, "reviewkd_hcl", student, teacher, "use the reviewkd fusion modules")
    total, weights = F.mse_loss(student, teacher), 1.0
    weight = 1.0
    for level in (4, 2, 1):
        if level >= student.shape[2]:
            continue
        weight /= 2
        own, target = (F.adaptive_avg_pool2d(maps, level) for maps in (student, teacher))
        total = total + weight * F.mse_loss(own, target)
        weights += weight
    return total / weights


def embedded(features: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """(B, D): maps are averaged over height and width, tokens over their positions, padding (`mask` 0) left out."""
    if not isinstance(features, Tensor) or not 2 <= features.ndim <= 4:
        raise ValueError(f"a layer gives {type(features).__name__}; choose one whose output is a tensor of 2 to 4 axes")
    if features.ndim != 3:
        return features if features.ndim == 2 else features.flatten(2).mean(2)
    if mask is None:
        return features.mean(1)
    return (features * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _of_one_size(loss: str, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps pooled to the smaller height and width."""
    fits = one.ndim == 4 and other.ndim == 4 and len(one) == len(other)
    refuse_unless(fits, loss, one, other, "choose two layers whose outputs are maps (B, C, H, W) of the same samples")
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return tuple(x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (one, other))  # type: ignore[return-value]
