"""mutual(): students without a teacher learn from one another while they learn from the labels."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation.distil import check_smoothing, task_loss
from distiq.distillation.terms import output_loss
from distiq.errors import UserError
from distiq.progress import Watch
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import KnowledgeLoss
from distiq.recipe.training import TrainingSettings
from distiq.records.quality import Metric
from distiq.records.training import TrainingRecord
from distiq.tasks.choose import task_of
from distiq.tasks.task import Task
from distiq.training.batches import Batch, Batches
from distiq.training.distributed import gathered
from distiq.training.fit import Losses, fit, validation_metric


class Mutual(nn.Module):
    """Each student's task loss and its mean divergence from the others' outputs, which carry no gradient."""

    def __init__(
        self,
        students: Sequence[nn.Module],
        task: Task,
        temperature: float,
        weight: float,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.task, self.label_smoothing = task, label_smoothing
        self.students = nn.ModuleList(students)
        self.plain, self.weight = KnowledgeLoss(name="kd", options={"temperature": temperature}), weight

    def forward(self, batch: Batch) -> Losses:
        outputs = [gathered(self.task.read(student(batch.inputs)), batch.whole) for student in self.students]
        batch = batch.gathered()
        named = Losses()
        for number, own in enumerate(outputs, start=1):
            others = [other.detach() for other in outputs if other is not own]
            divergence = output_loss(self.task, self.plain, batch.labels)
            divergences = [divergence(own, other) for other in others]
            named[f"task {number}"] = task_loss(self.task, own, batch, self.label_smoothing)
            named[f"kd {number}"] = self.weight * torch.stack(divergences).mean()
        return named


def mutual(
    students: Sequence[nn.Module],
    data: Data,
    training: TrainingSettings | None = None,
    *,
    temperature: float = 1.0,
    weight: float = 1.0,
    views: ViewSettings | None = None,
    seed: int = 0,
    task: Task | None = None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> tuple[list[nn.Module], TrainingRecord]:
    """Trains copies of two or more students on one another's outputs.

    Zhang et al. 2018, "Deep mutual learning" (arXiv:1706.00384), equations 7 and 8; all students step at once.

    Returns:
        The trained students in eval mode, and how the training went; its validation metric is the students' mean.

    Raises:
        UserError: fewer than two students, or a loss that is not finite.
    """
    if len(students) < 2:
        raise UserError(f"mutual: {len(students)} student(s) given; it needs two or more")
    training, task = training or TrainingSettings(), task or task_of(data)
    check_smoothing(training, task, "mutual learning")
    copies = [copy.deepcopy(student) for student in students]
    objective = Mutual(copies, task, temperature, weight, training.label_smoothing)

    def metric(trained: nn.Module) -> Metric:
        each = [validation_metric(student, data, task) for student in trained.students]  # type: ignore[union-attr]
        mean = sum(metric.value for metric in each) / len(each)
        return Metric.model_validate({**dict(each[0]), "value": mean, "interval": None, "interval_by": ""})

    record = fit(
        objective,
        Batches(data, Views(views or ViewSettings(), seed), training.batch_size, seed),
        training,
        stage="mutual learning",
        validate=metric,
        checkpoint=checkpoint,
        watch=watch,
    )
    return [student.to("cpu").eval() for student in objective.students], record
