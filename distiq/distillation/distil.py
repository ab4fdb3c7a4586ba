"""distil(): trains a student on labels and on what a teacher knows."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation import losses
from distiq.distillation.projections import HintProjection
from distiq.distillation.taps import tapped
from distiq.distillation.teacher import Knowledge, LiveTeacher, Teacher, freeze
from distiq.errors import UserError
from distiq.progress import Watch
from distiq.recipe import DistilSettings, FeaturePair, TrainingSettings, ViewSettings
from distiq.records import TrainingRecord
from distiq.training import Batch, Batches, Losses, fit, validation_accuracy


class Distillation(nn.Module):
    """The objective: named losses of a batch. With `teacher` None it is the plain task loss.

    The student and the projections are its parameters; the teacher is no submodule, so it is in no checkpoint.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        settings: DistilSettings,
        label_smoothing: float = 0.0,
        projections: Sequence[HintProjection] = (),
    ) -> None:
        super().__init__()
        self.student = student
        self.projections = nn.ModuleList(projections)
        self.teacher, self.settings, self.label_smoothing = teacher, settings, label_smoothing
        self.paths = [pair.student for pair in (*settings.hints, *settings.attention)] if teacher else []

    def forward(self, batch: Batch) -> Losses:
        with tapped(self.student, self.paths) as features:
            logits = self.student(batch.images)
        known = self.teacher(batch) if self.teacher is not None else None
        named = output_losses(logits, batch, known, self.settings, self.label_smoothing)
        return named if known is None else Losses(named | self._feature_losses(features, known))

    def _feature_losses(self, features: dict[str, Tensor], known: Knowledge) -> Losses:
        named = Losses()
        for pair, projection in zip(self.settings.hints, self.projections, strict=True):
            hint = losses.hint_mse(projection(features[pair.student]), known.features[pair.teacher])
            named[f"hint {pair.student}"] = pair.weight * hint
        for pair in self.settings.attention:
            attention = losses.attention_transfer(features[pair.student], known.features[pair.teacher])
            named[f"attention {pair.student}"] = pair.weight * attention
        return named


def output_losses(
    logits: Tensor, batch: Batch, known: Knowledge | None, settings: DistilSettings, label_smoothing: float = 0.0
) -> Losses:
    """The weighted losses that need the student's logits (B, classes) alone; without a teacher, the plain task loss."""
    task = F.cross_entropy(logits.float(), batch.labels, label_smoothing=label_smoothing)
    if known is None:
        return Losses(task=task)
    named = Losses()
    if settings.task_weight:
        named["task"] = settings.task_weight * task
    if settings.kd_weight:
        named["kd"] = settings.kd_weight * losses.kd(logits, known.logits, temperature=settings.temperature)
    return named


def distil(
    student: nn.Module,
    teacher: nn.Module | Teacher | None,
    data: Data,
    settings: DistilSettings | None = None,
    training: TrainingSettings | None = None,
    *,
    views: ViewSettings | None = None,
    seed: int = 0,
    stage: str = "student",
    validate: bool = True,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> tuple[nn.Module, TrainingRecord]:
    """Trains a copy of the student; neither network that is passed in is changed.

    Args:
        student: (B, C, H, W) -> (B, classes) logits.
        teacher: a network, a `Teacher`, or None to train on the labels alone.
        validate: measure the accuracy on the validation split after each epoch.
        checkpoint: a file to resume from; see `fit`.

    Returns:
        The trained student in eval mode, and how the training went.

    Raises:
        UserError: a module path is unknown, or the loss is not finite.
    """
    settings, training = settings or DistilSettings(), training or TrainingSettings()
    student = copy.deepcopy(student)
    answering = as_teacher(teacher, settings)
    batches = Batches(data, Views(views or ViewSettings(), seed), training.batch_size, seed)
    projections = _projections(student, answering, settings, batches)
    objective = Distillation(student, answering, settings, training.label_smoothing, projections)

    def accuracy(trained: nn.Module) -> float:
        return validation_accuracy(trained.student, data)  # type: ignore[arg-type]

    record = fit(
        objective,
        batches,
        training,
        stage=stage,
        validate=accuracy if validate else None,
        checkpoint=checkpoint,
        watch=watch,
    )
    return student.to("cpu").eval(), record


def as_teacher(teacher: nn.Module | Teacher | None, settings: DistilSettings) -> Teacher | None:
    """A network becomes a live teacher (of a copy, so that the caller's is not frozen); others pass unchanged."""
    if isinstance(teacher, nn.Module):
        paths = [pair.teacher for pair in (*settings.hints, *settings.attention)]
        return LiveTeacher(freeze(copy.deepcopy(teacher)), paths)
    return teacher


def check_pairs(student: nn.Module, teacher: nn.Module, settings: DistilSettings, example: Tensor) -> None:
    """Raises UserError unless every hint and attention pair names two layers that can be compared.

    Args:
        example: normalized images (B, C, H, W).
    """
    pairs = (*settings.hints, *settings.attention)
    seen = _activations(student, [pair.student for pair in pairs], example)
    known = _activations(teacher, [pair.teacher for pair in pairs], example)
    for pair in pairs:
        _check_pair(pair, seen[pair.student], known[pair.teacher], pair in settings.attention)


@torch.no_grad()
def _activations(model: nn.Module, paths: Sequence[str], example: Tensor) -> dict[str, Tensor]:
    with tapped(model, paths) as features:
        model.eval()(example)
    return features


def _projections(
    student: nn.Module, teacher: Teacher | None, settings: DistilSettings, batches: Batches
) -> list[HintProjection]:
    """One projection per hint, sized by running both networks on two samples."""
    pairs = (*settings.hints, *settings.attention)
    if teacher is None or not pairs:
        return []
    batch = next(batches.epoch(0))
    sample = Batch(batch.images[:2], batch.labels[:2], batch.indices[:2], batch.view)
    seen = _activations(student, [pair.student for pair in pairs], sample.images)
    known = teacher(sample).features
    for pair in pairs:
        _check_pair(pair, seen[pair.student], known.get(pair.teacher), pair in settings.attention)
    torch.manual_seed(batches.seed)
    return [
        HintProjection(seen[pair.student].shape[1], known[pair.teacher].shape[1], tuple(known[pair.teacher].shape[2:]))
        for pair in settings.hints
    ]


def _check_pair(pair: FeaturePair, student: Tensor, teacher: Tensor | None, attention: bool) -> None:
    if teacher is None:
        raise UserError(
            f'distil: the teacher gives no activations of "{pair.teacher}"; a cached teacher stores outputs alone:'
            ' set distil.teacher = "live"'
        )
    if student.ndim != teacher.ndim or student.ndim not in ((4,) if attention else (2, 4)):
        rule = "attention compares maps; choose two layers that are both (B, C, H, W)"
        rule = rule if attention else "choose two layers that are both (B, C, H, W) or both (B, C)"
        raise UserError(
            f'distil: "{pair.student}" of the student is {tuple(student.shape)}, "{pair.teacher}" of the teacher is'
            f" {tuple(teacher.shape)}; {rule}"
        )
