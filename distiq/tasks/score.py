"""score(): what outputs are worth, whatever the task; and whether a task can be scored at all."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from distiq.data.labels import filled
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.recipe.budget import EVERY
from distiq.records.quality import KeywordRecord, Metric, Quality
from distiq.tasks.task import Task


def kept(task: Task, returned: Any) -> Tensor:
    """What the task keeps, on the CPU, of what a network or a file returned.

    Raises:
        UserError: the number of outputs is not the task's, or one is not finite.
    """
    outputs = task.read(returned).float()
    if outputs.ndim < 2 or task.outputs not in (0, outputs.shape[1]):
        raise UserError(
            f"the model gives {tuple(outputs.shape)} for {len(outputs)} samples; {task.name} needs {task.outputs}"
            f" output{'s' if task.outputs > 1 else ''} each"
        )
    _check_finite(outputs)  # what is kept of them might not show it
    return task.keep(outputs).cpu()


def _check_finite(outputs: Tensor) -> None:
    if outputs.is_floating_point() and not torch.isfinite(outputs).all():
        first = int((~torch.isfinite(outputs)).flatten(1).any(1).nonzero()[0])
        raise UserError(f"the model's output is not finite for sample {first}; the network or the file is broken")


def score(
    task: Task,
    outputs: Tensor,
    targets: Tensor,
    *,
    teacher: Tensor | None = None,
    float_student: Tensor | None = None,
    keyword: KeywordRecord | None = None,
) -> Quality:
    """The quality of given outputs, as `kept` gives them, for targets (N, ...).

    Args:
        teacher, float_student: outputs of others for the same samples, which predictions are compared with.
        keyword: what was measured of the class that the recipe names.

    Raises:
        UserError: an output is not finite, or there are not as many samples.
    """
    if len(outputs) != len(targets):
        raise UserError(f"the model gives outputs for {len(outputs)} samples where there are {len(targets)}")
    _check_finite(outputs)
    scores = task.score(outputs, targets)
    return Quality(
        samples=len(targets),
        primary=scores.primary,
        metrics=scores.metrics,
        per_class=scores.per_class,
        parts=task.parts if scores.per_class else (),
        agreement_with_teacher=None if teacher is None else _likeness(task, outputs, teacher),
        change_against_float=None if float_student is None else _change(task, outputs, float_student),
        keyword=keyword,
    )


def _likeness(task: Task, outputs: Tensor, teacher: Tensor) -> Metric:
    if task.likeness:
        return task.likeness(outputs, teacher)
    return Metric(name="agreement", title="agreement with teacher", value=task.agreement(outputs, teacher))


def _change(task: Task, outputs: Tensor, float_student: Tensor) -> Metric:
    if task.change:
        return task.change(outputs, float_student)
    value = 1 - task.agreement(outputs, float_student)
    return Metric(name="flips", title="flips against float32", value=value, higher_is_better=False)


def check_task(task: Task, data: Data, limited: Iterable[str] = (), recalled: Iterable[str] = ()) -> None:
    """Tries a task on outputs of zeros, before anything is trained.

    Args:
        limited: names of metrics that a budget limits. recalled: classes whose recall it limits.

    Raises:
        UserError: the task fails, its loss is no number for each sample, or a metric or the recall of a class is not
            measured on the validation or the test samples.
    """
    targets = filled(data.train.labels[:2])
    with _explained(task, "loss"):
        each = task.loss(task.zeros(targets), targets)
    if each.shape != (len(targets),):
        raise UserError(f"task {task.name}: loss gives {tuple(each.shape)} for {len(targets)} samples; give one each")
    for part in ("validation", "test"):
        targets = getattr(data, part).labels
        with _explained(task, "score"):
            quality = score(task, task.keep(task.zeros(targets)), targets)
        _check_names([metric.name for metric in (quality.primary, *quality.metrics)], limited, part)
        _check_recall(quality, recalled, part)


@contextlib.contextmanager
def _explained(task: Task, part: str) -> Iterator[None]:
    """Says of which part of a task an error is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the task's code raises
        raise UserError(f"task {task.name}: its {part} fails ({type(error).__name__}: {error})") from error


def _check_recall(quality: Quality, recalled: Iterable[str], part: str) -> None:
    """Raises UserError unless the recall of each class that is limited is measured."""
    for name in recalled:
        if name == EVERY and quality.parts:
            continue
        if name in quality.parts and quality.recall(name) is None:
            raise UserError(
                f'budget.recall: no {part} sample is of "{name}", so its recall is not measured; give the {part} split'
                " some, or leave the limit out"
            )
        if name not in quality.parts:
            nearest = difflib.get_close_matches(name, quality.parts, n=1)
            advice = f'did you mean "{nearest[0]}"? ' if nearest else ""
            has = f"recall is measured of {', '.join(quality.parts)}" if quality.parts else "this task measures none"
            raise UserError(f'budget.recall: nothing is called "{name}"; {advice}{has}')


def _check_names(measured: list[str], limited: Iterable[str], part: str) -> None:
    """Raises UserError unless all metrics that are limited are measured."""
    if strange := [name for name in limited if name not in measured]:
        nearest = difflib.get_close_matches(strange[0], measured, n=1)
        advice = f'did you mean "{nearest[0]}"? ' if nearest else ""
        raise UserError(
            f"budget.metrics: {strange[0]} is not measured on the {part} samples of this data; {advice}measured are"
            f" {', '.join(measured)}"
        )
