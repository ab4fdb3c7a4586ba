"""What can be said before the student is trained: facts about teacher, task and student, and warnings with reasons."""

import json
import textwrap
from collections.abc import Sequence

import torch
from torch import Tensor

from distiq.data.splits import Data
from distiq.errors import MOST_CHARACTERS, UserError
from distiq.evaluation.cost import parameter_count
from distiq.models.pretrained import loaded_labels
from distiq.recipe.recipe import Recipe
from distiq.records.run import AdviceRecord
from distiq.run.ledger import Ledger
from distiq.run.measure import MeasuredNetwork, Scores
from distiq.run.networks import Network
from distiq.tasks.choose import task_of
from distiq.tasks.order import relabelled
from distiq.tasks.task import Task, Taught

FAR_APART = 50  # times fewer parameters
FEW_STEPS = 300
SHOWN = 5  # classes named in a message
LEARNED = 2.0  # points by which a validation score is suspiciously better than the test score


def advise(
    ledger: Ledger, recipe: Recipe, data: Data, reference: MeasuredNetwork, student: Network
) -> AdviceRecord | None:
    """Says what is known of the teacher before hours are spent on its student; None where it does not teach.

    Raises:
        UserError: a loaded teacher predicts the classes in another order; the message gives that order and the key that
            corrects it.
    """
    if recipe.distil.teacher == "none":
        return None
    outputs, targets, train_targets = reference.logits["validation"], data.validation.labels, data.train.labels
    taught = Taught(reference.scores.validation, outputs, targets, train_targets, recipe.distil.temperature)
    size = reference.cost.parameters if reference.cost else None
    network, task = reference.trained.network, task_of(data)
    is_loaded = network.is_given or bool(network.source) or network.is_predictor
    if is_loaded and task.order and (order := task.order(outputs, targets)):
        raise UserError(permuted(network, recipe, data.classes, order, *_right(task, outputs, targets, order)))
    said = advice(recipe, task, taught, size, parameter_count(student.module))
    if is_loaded and (warning := learned_samples(reference.scores)):
        said = AdviceRecord(facts=said.facts, warnings=(*said.warnings, warning))
    for warning in said.warnings:
        ledger.watch.note(f"warning: {warning}")
    return said


def _right(task: Task, outputs: Tensor, targets: Tensor, order: Sequence[int]) -> tuple[float, float]:
    """Shares of right predictions, as they stand and in the other order."""
    corrected = torch.empty_like(outputs)
    corrected[:, list(order)] = outputs
    before, after = (float((task.decode(one) == targets).double().mean()) for one in (outputs, corrected))
    return before, after


def permuted(
    network: Network, recipe: Recipe, classes: Sequence[str], order: Sequence[int], before: float, after: float
) -> str:
    """The message on what a teacher's outputs mean in place of the data's classes, and on the key that declares it.

    Args:
        before, after: shares of right predictions, as they stand and in the other order.
    """
    moved = [f"its {classes[i]} is {classes[j]}" for i, j in enumerate(order) if i != j]
    shown = ", ".join(moved[:SHOWN]) + (f", ... ({len(moved)} in all)" if len(moved) > SHOWN else "")
    said = (
        f"teacher: its predictions fit the classes in another order: {shown} ({100 * after:.1f} % of those for the"
        f" validation samples are right so, {100 * before:.1f} % as they stand)"
    )
    if network.is_predictor and not recipe.teacher.weights:
        return f"{said}; give its outputs in the order of the classes: {', '.join(classes)}"
    own = recipe.teacher.preprocessing.labels
    labels, places = (own, [own.index(name) for name in classes]) if own else (
        loaded_labels(network.module) or (tuple(classes), range(len(classes)))
    )  # fmt: skip
    written = json.dumps(relabelled(labels, places, classes, order), ensure_ascii=False)
    lines = textwrap.wrap(f"labels = {written}", MOST_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{said}. Name them in the order of its outputs:", "[teacher.preprocessing]", *lines])


def learned_samples(scores: Scores) -> str:
    """Warns of a loaded teacher that is far better on the validation than on the test split; empty for others.

    Far means beyond both intervals, and by `LEARNED` points or more.
    """
    validation, test = scores.validation.primary, scores.test.primary
    if validation.interval is None or test.interval is None or not validation.higher_is_better:
        return ""
    if validation.interval[0] <= test.interval[1] or test.drop(validation) < LEARNED:
        return ""
    return (
        f"the teacher has {validation.in_words} on the validation split, but {test.figure} on the test set: either"
        " it was trained on the validation samples, and every student seems to lose more than it does, or they are"
        " easier than the test set; for the former, name samples that it never saw in data.validation"
    )


def advice(recipe: Recipe, task: Task, taught: Taught, teacher_size: int | None, student_size: int) -> AdviceRecord:
    """Facts and warnings about a distillation that has not begun.

    Args:
        taught: what the teacher's outputs say.
        teacher_size, student_size: parameters; None where the teacher has none to count.
    """
    ratio = teacher_size / max(1, student_size) if teacher_size else 1.0
    fewer = f", {ratio:.1f} times fewer than the teacher" if teacher_size else ""
    batch_size, epochs = recipe.student.training.batch_size, recipe.student.training.epochs
    steps = epochs * max(1, len(taught.train_targets) // batch_size)
    (first, *facts), warnings = task.advise(taught)
    facts = [first, f"student: {student_size:,} parameters{fewer}; {steps:,} steps", *facts]
    if teacher_size and student_size > teacher_size:
        warnings.append(f"the student is larger than its teacher ({student_size:,} and {teacher_size:,} parameters)")
    if ratio > FAR_APART and not recipe.assistants:
        warnings.append(
            f"the student is {ratio:.0f} times smaller than its teacher; a network between them may teach it better"
            " ([[assistants]], Mirzadeh et al. 2020)"
        )
    if steps < FEW_STEPS:
        warnings.append(f"{steps} steps are few; a student needs patience to imitate (Beyer et al. 2022)")
    return AdviceRecord(facts=tuple(facts), warnings=tuple(warnings))
