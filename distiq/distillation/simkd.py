"""SimKD: the student's features go through a small projector into the teacher's own classifier.

Chen et al. 2022, "Knowledge distillation with the reused teacher classifier" (arXiv:2203.14001). The projector and the
classifier stay in the student: they count in its size and are exported with it.
"""

import copy

import torch
from torch import Tensor, nn

from distiq.distillation.hooks import feature_hooks
from distiq.distillation.teacher import freeze
from distiq.errors import UserError


def projector(inputs: int, outputs: int, factor: int = 2) -> nn.Sequential:
    """The paper's projector: 1x1, 3x3 and 1x1 convolutions through `outputs // factor` channels.

    Shapes: (B, inputs, H, W) -> (B, outputs, H, W).
    """
    inner = max(1, outputs // factor)
    layers: list[nn.Module] = []
    for one, other, kernel in ((inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)):
        layers += [
            nn.Conv2d(one, other, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(other),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def reuse_classifier(
    student: nn.Module,
    teacher: nn.Module,
    example: Tensor,
    *,
    pool: str = "pool",
    classifier: str = "classifier",
    factor: int = 2,
) -> nn.Module:
    """A copy of the student that ends in a new projector, its pooling, and a frozen copy of the teacher's classifier.

    Train it on the teacher's last maps alone, as the paper does: `task_weight = 0`, `kd_weight = 0` and one loss
    ``{name = "feature_mse", student = "<pool>.0", teacher = "<what the teacher pools>"}``.

    Args:
        example: two normalized images (B, C, H, W).
        pool, classifier: module paths, alike in both networks, of the pooling and of the last linear layer.
        factor: how much narrower the projector is inside.

    Raises:
        UserError: a path does not exist, what is pooled is no map, or the networks' maps differ in size.
    """
    student, teacher = copy.deepcopy(student), freeze(copy.deepcopy(teacher))
    student_maps, teacher_maps = (_pooled(model, pool, example) for model in (student, teacher))
    if student_maps.shape[2:] != teacher_maps.shape[2:]:
        raise UserError(
            f"reuse_classifier: the student pools {tuple(student_maps.shape)}, the teacher {tuple(teacher_maps.shape)};"
            " change the student's strides so that both have one height and width"
        )
    for model in (student, teacher):
        with feature_hooks(model, [classifier]):
            pass  # it is there, or the error says what is near it
    between = projector(student_maps.shape[1], teacher_maps.shape[1], factor)
    student.set_submodule(pool, nn.Sequential(between, student.get_submodule(pool)))
    student.set_submodule(classifier, teacher.get_submodule(classifier))
    return student


@torch.no_grad()
def _pooled(model: nn.Module, pool: str, example: Tensor) -> Tensor:
    """What reaches the pooling: maps (B, C, H, W)."""
    seen: list[Tensor] = []
    with feature_hooks(model, [pool]):
        handle = model.get_submodule(pool).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            model.eval()(example)
        finally:
            handle.remove()
    if not seen or seen[0].ndim != 4:
        shape = tuple(seen[0].shape) if seen else "nothing"
        raise UserError(f'reuse_classifier: "{pool}" takes {shape}; name the module that pools maps (B, C, H, W)')
    return seen[0]
