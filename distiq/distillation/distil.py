"""distil(): trains a student on labels and on what a teacher knows."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distiq.data.labels import SHARES, UNLABELLED, filled, form_of, is_labelled
from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.distillation.cache import CachedTeacher
from distiq.distillation.hooks import feature_hooks
from distiq.distillation.quant_regularization import Friendly, quant_regularization
from distiq.distillation.teacher import Ensemble, Knowledge, LiveTeacher, MeanTeacher, Teacher, freeze
from distiq.distillation.terms import Layers, check_options, layer_term, numbered, output_loss
from distiq.errors import UserError
from distiq.models.weights import usable
from distiq.progress import Watch
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import OUTPUT_LOSSES, DistilSettings, KnowledgeLoss
from distiq.recipe.training import TrainingSettings
from distiq.records.quality import Metric
from distiq.records.training import TrainingRecord
from distiq.tasks.choose import task_of
from distiq.tasks.task import Task
from distiq.training.batches import Batch, Batches
from distiq.training.distributed import gathered
from distiq.training.fit import Losses, fit, validation_metric

WITHOUT_CLASSES = ("kd", "logit_mse", "sequence_kd")
"""Losses between outputs that need no classes that exclude one another."""


class Distillation(nn.Module):
    """The objective: named losses of a batch. With `teacher` None it is the plain task loss.

    The student and the losses' own modules are its parameters; the teacher is no submodule, so it is in no checkpoint.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        settings: DistilSettings,
        label_smoothing: float = 0.0,
        terms: Sequence[nn.Module] = (),
        easy: Friendly | None = None,
        *,
        task: Task,
    ) -> None:
        super().__init__()
        self.student, self.easy, self.task = student, easy, task
        self.terms = nn.ModuleList(terms)
        self.teacher, self.settings, self.label_smoothing = teacher, settings, label_smoothing
        self.layer_losses = settings.layer_losses if teacher is not None else ()
        self.names = numbered(self.layer_losses)
        if isinstance(teacher, MeanTeacher):
            self.followed = teacher.follow(student)
        self.paths = [path for loss in self.layer_losses for path in loss.student]

    def forward(self, batch: Batch) -> Losses:
        with feature_hooks(self.student, self.paths) as features:
            returned, eased = (
                self.easy(self.student, batch.inputs) if self.easy else (self.student(batch.inputs), Losses())
            )
        logits = self.task.read(returned)
        knowledge = self.teacher(batch) if self.teacher is not None else None
        features, (logits, knowledge, batch) = _gathered(features, batch), common(logits, knowledge, batch)
        named = output_losses(self.task, logits, batch, knowledge, self.settings, self.label_smoothing)
        if knowledge is not None:
            for name, loss, term in zip(self.names, self.layer_losses, self.terms, strict=True):
                named[name] = loss.weight * term(_layers(loss, features, knowledge, batch))
        named.update(eased)
        return named


def common(logits: Tensor, knowledge: Knowledge | None, batch: Batch) -> tuple[Tensor, Knowledge | None, Batch]:
    """The outputs of the student and its teacher for the combined batch of all processes, and that batch."""
    if batch.whole is None:
        return logits, knowledge, batch
    if knowledge is not None:
        knowledge = Knowledge(gathered(knowledge.logits, batch.whole), _gathered(knowledge.features, batch))
    return gathered(logits, batch.whole), knowledge, batch.gathered()


def _gathered(features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    return {path: gathered(features[path], batch.whole) for path in sorted(features)}


def _layers(loss: KnowledgeLoss, seen: dict[str, Tensor], knowledge: Knowledge, batch: Batch) -> Layers:
    student, teacher = [seen[path] for path in loss.student], [knowledge.features[path] for path in loss.teacher]
    return Layers(student, teacher, batch.indices, batch.mask)


def output_losses(
    task: Task,
    logits: Tensor,
    batch: Batch,
    knowledge: Knowledge | None,
    settings: DistilSettings,
    label_smoothing: float = 0.0,
) -> Losses:
    """The weighted losses that need the outputs (B, outputs, ...) alone; without a teacher, the plain task loss."""
    if knowledge is None:
        return Losses(task=task_loss(task, logits, batch, label_smoothing))
    named = Losses()
    if settings.task_weight:
        named["task"] = settings.task_weight * task_loss(task, logits, batch, label_smoothing)
    wanted_losses = settings.output_losses
    for name, loss in zip(numbered(wanted_losses), wanted_losses, strict=True):
        named[name] = loss.weight * output_loss(task, loss, batch.labels)(logits, knowledge.logits)
    return named


def task_loss(task: Task, outputs: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """The task's loss with the targets, mean over the labelled samples; of a mixed image, with both by their shares."""

    def each(targets: Tensor, labelled: Tensor) -> Tensor:
        smoothing = {"label_smoothing": label_smoothing} if task.smooths_labels else {}
        return task.loss(outputs, filled(targets), **smoothing) * labelled

    labelled = is_labelled(batch.labels).float()
    total = each(batch.labels, labelled)
    if batch.partners is not None and batch.shares is not None:
        others = is_labelled(batch.partners).float()
        total = batch.shares * total + (1 - batch.shares) * each(batch.partners, others)
        labelled = batch.shares * labelled + (1 - batch.shares) * others
    return total.sum() / labelled.sum().clamp(min=1e-6)


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
    task: Task | None = None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> tuple[nn.Module, TrainingRecord]:
    """Trains a copy of the student; neither network that is passed in is changed.

    Args:
        student: inputs (B, ...) -> outputs (B, outputs, ...), such as logits.
        teacher: a network, a `Teacher`, or None to train on the labels alone.
        validate: measure the primary metric on the validation split after each epoch.
        task: that of the data by default.
        checkpoint: a file to resume from; see `fit`.

    Returns:
        The trained student in eval mode, and how the training went.

    Raises:
        UserError: a module path is unknown, a term has no layer that it applies to, or the loss is not finite.
    """
    settings, training = settings or DistilSettings(), training or TrainingSettings()
    student = usable(copy.deepcopy(student), f"student: {type(student).__name__}", watch)
    task = task or task_of(data)
    check_smoothing(training, task, stage)
    if teacher is not None:
        _check_output_losses(task, settings, data, views or ViewSettings())
    if isinstance(teacher, Ensemble) and task.class_dimension is None:
        raise UserError(f"Ensemble: it averages the probabilities of classes, which {task.name} does not have")
    live = as_teacher(teacher, settings, task)
    batches = Batches(data, Views(views or ViewSettings(), seed), training.batch_size, seed, labelled=teacher is None)
    terms = _terms(student, live, settings, batches)
    easy = quant_regularization(student, settings.quant_regularization, data.example)
    objective = Distillation(student, live, settings, training.label_smoothing, terms, easy, task=task)

    def metric(trained: nn.Module) -> Metric:
        return validation_metric(trained.student, data, task)  # type: ignore[arg-type]

    record = fit(
        objective,
        batches,
        training,
        stage=stage,
        validate=metric if validate else None,
        checkpoint=checkpoint,
        watch=watch,
    )
    return student.to("cpu").eval(), record


def as_teacher(teacher: nn.Module | Teacher | None, settings: DistilSettings, task: Task) -> Teacher | None:
    """A network becomes a live teacher (of a copy, so that the caller's is not frozen); others pass unchanged."""
    if isinstance(teacher, nn.Module):
        return LiveTeacher(freeze(copy.deepcopy(teacher)), settings.teacher_paths, task.read)
    return teacher


def check_losses(student: nn.Module, teacher: nn.Module, settings: DistilSettings, data: Data) -> None:
    """Raises UserError unless every loss of the settings can be computed on these two networks and this data."""
    check_options(settings)
    batches, task = Batches(data, Views(ViewSettings(flip=False, shift=0), 0), 2, 0), task_of(data)
    _check_output_losses(task, settings, data, ViewSettings())
    example = batches.batch(0, torch.arange(2))
    own, taught = (_outputs(network, task, example.inputs) for network in (student, teacher))
    for loss in settings.output_losses:
        with _explained(loss.name):
            _check_finite(output_loss(task, loss, example.labels)(own, taught))
    if settings.layer_losses and any(getattr(module, "pads_left", False) for module in teacher.modules()):
        raise UserError(
            f"distil.losses: {settings.layer_losses[0].name} compares tokens by their places, but the teacher's"
            " tokenizer pads in front; use losses between outputs alone"
        )
    live = LiveTeacher(freeze(copy.deepcopy(teacher)), settings.teacher_paths, task.read)
    _built(copy.deepcopy(student), live, settings, batches)


@torch.no_grad()
def _outputs(network: nn.Module, task: Task, inputs: Tensor) -> Tensor:
    was_training = network.training
    outputs = task.read(network.eval()(inputs))
    network.train(was_training)
    return outputs


def check_smoothing(training: TrainingSettings, task: Task, where: str) -> None:
    """Raises UserError if labels are to be smoothed where the task cannot."""
    if training.label_smoothing and not task.smooths_labels:
        raise UserError(
            f"{where}: label_smoothing = {training.label_smoothing:g} moves probability to other classes, which"
            f" {task.name} does not have; set it to 0"
        )


def _check_output_losses(task: Task, settings: DistilSettings, data: Data, views: ViewSettings) -> None:
    """Raises UserError unless the task's outputs can be compared as the settings say."""
    if task.class_dimension is None:
        listed = [loss.name for loss in settings.losses if loss.name in OUTPUT_LOSSES]
        if strange := [name for name in listed if name not in WITHOUT_CLASSES]:
            raise UserError(
                f"distil.losses: {strange[0]} compares each class with the others, which {task.name} does not have; use"
                " kd, which is the task's own comparison with the teacher, or logit_mse"
            )
        if settings.teacher == "cached" and settings.cache.storage != "float16":
            raise UserError(
                f'distil.cache.storage = "{settings.cache.storage}" keeps logits up to a shift, which the outputs of'
                f' {task.name} do not bear; take "float16"'
            )
    if any(loss.name == "sequence_kd" for loss in settings.losses) and not task.writes_texts:
        raise UserError(f"distil.losses: sequence_kd is of texts that are written; the task is {task.name}: use kd")
    if not any(loss.name == "dkd" for loss in settings.losses):
        return
    if form_of(data.train.labels) is SHARES:
        raise UserError("distil.losses: dkd needs one label per sample, but labels are shares of the classes; use kd")
    if int(data.train.labels.min()) == UNLABELLED:
        raise UserError("distil.losses: dkd needs the label of every sample, and some have none; use kd")
    if views.mixup or views.cutmix:
        raise UserError("distil.losses: dkd needs one label per image, but mixup or cutmix blends two; use kd")


def _terms(student: nn.Module, teacher: Teacher | None, settings: DistilSettings, batches: Batches) -> list[nn.Module]:
    """One module per loss between layers, sized by running both networks on two samples."""
    check_options(settings)
    if teacher is None or not settings.layer_losses:
        return []
    return _built(student, teacher, settings, batches)


def _built(student: nn.Module, teacher: Teacher, settings: DistilSettings, batches: Batches) -> list[nn.Module]:
    """Every loss between layers as a module, tried on the two samples that it was sized by."""
    sample = batches.batch(0, torch.arange(min(2, len(batches.data.train))))
    paths = [path for loss in settings.layer_losses for path in loss.student]
    with torch.no_grad(), feature_hooks(student, paths) as seen:
        student.eval()(sample.inputs)
    if isinstance(teacher, MeanTeacher):
        raise UserError("distil.losses: a MeanTeacher gives outputs alone; leave out the losses between layers")
    # Of a stored teacher two samples are not worth a whole view.
    knowledge = (teacher.live if isinstance(teacher, CachedTeacher) and teacher.paths else teacher)(sample)
    torch.manual_seed(batches.seed)
    built = []
    for settings_of_loss in settings.layer_losses:
        if missing := [path for path in settings_of_loss.teacher if path not in knowledge.features]:
            raise UserError(
                f'distil.losses: {settings_of_loss.name}: this teacher gives no activations of "{missing[0]}"; a stored'
                " one needs distil.cache.features = true, an ensemble or a callable has none: set"
                ' distil.teacher = "live"'
            )
        layers = _layers(settings_of_loss, seen, knowledge, sample)
        with _explained(
            f"{settings_of_loss.name} ({', '.join(settings_of_loss.student)}; {', '.join(settings_of_loss.teacher)})"
        ):
            term = layer_term(settings_of_loss, layers, len(batches.data.train))
            with torch.no_grad():
                _check_finite(copy.deepcopy(term).eval()(layers))
        built.append(term)
    return built


@contextlib.contextmanager
def _explained(loss: str) -> Iterator[None]:
    """Adds the name of the loss to a ValueError."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"distil.losses: {loss}: {error}") from error


def _check_finite(value: Tensor) -> None:
    if not torch.isfinite(value):
        raise ValueError(f"gives {value.item()} for an example; check its options")
