"""Knowledge losses: pure functions of student and teacher tensors, in their papers' form.

Each returns a scalar in float32 or wider, whatever autocast makes of its inputs. The teacher's tensors carry no
gradient. Learned projections, where a method has them, stand in `distiq.distillation.projections`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation: KL(teacher || student) of the softened outputs, batch mean, times T^2.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531). The factor T^2
    keeps the gradient's size independent of T (their section 2).

    Shapes: logits (B, C); logits (B, C) -> scalar.
    """
    log_student = F.log_softmax(_wide(student) / temperature, dim=1)
    log_teacher = F.log_softmax(_wide(teacher) / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def hint_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets hint: mean squared difference of two activations of one shape.

    Romero et al. 2015, "FitNets: hints for thin deep nets" (arXiv:1412.6550), equation 3, as a mean over elements.

    Raises:
        ValueError: the shapes differ; a projection makes them alike.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"hint_mse: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ; add a projection"
        )
    return F.mse_loss(_wide(student), _wide(teacher))


def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Attention transfer: mean squared difference of the normalized maps of one pair of layers.

    Zagoruyko and Komodakis 2017, "Paying more attention to attention" (arXiv:1612.03928), equation 2: the map is the
    mean over channels of |activation|^power, normalized per sample. A larger map is pooled to the smaller one's size,
    as in the authors' code; channels may differ.

    Shapes: (B, C1, H1, W1); (B, C2, H2, W2) -> scalar.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return (attention_map(student, size, power) - attention_map(teacher, size, power)).square().mean()


def attention_map(features: Tensor, size: tuple[int, int], power: float = 2.0) -> Tensor:
    """(B, C, H, W) -> (B, size[0] * size[1]), of unit length per sample."""
    features = _wide(features)
    if features.shape[2:] != size:
        features = F.adaptive_avg_pool2d(features, size)
    return F.normalize(features.abs().pow(power).mean(1).flatten(1))


def _wide(x: Tensor) -> Tensor:
    """At least float32: a KL term in bfloat16 is noise."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
