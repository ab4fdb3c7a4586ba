"""What can be said before the student is trained: facts about teacher, task and student, and warnings with reasons."""

import math

import torch
from torch import Tensor

from distiq.data.splits import Data, is_known
from distiq.evaluation.cost import parameter_count
from distiq.recipe.recipe import Recipe
from distiq.records.quality import Quality
from distiq.records.run import AdviceRecord
from distiq.run.ledger import Ledger
from distiq.run.measure import MeasuredNetwork
from distiq.run.networks import Network

NEARLY_UNIFORM, NEARLY_HARD = 0.97, 0.01  # of the largest possible entropy
FAR_APART = 50  # times fewer parameters
FEW_STEPS = 300


def advise(
    ledger: Ledger, recipe: Recipe, data: Data, reference: MeasuredNetwork, student: Network
) -> AdviceRecord | None:
    """Says what is known of the teacher before hours are spent on its student; None where it does not teach."""
    if recipe.distil.teacher == "none":
        return None
    said = advice(
        recipe,
        reference.scores.validation,
        reference.logits["validation"],
        data.validation.labels,
        data.train.labels,
        data.classes,
        (reference.cost.parameters if reference.cost else None, parameter_count(student.module)),
    )
    for warning in said.warnings:
        ledger.watch.note(f"warning: {warning}")
    return said


def advice(
    recipe: Recipe,
    teacher: Quality,
    logits: Tensor,
    labels: Tensor,
    train_labels: Tensor,
    classes: tuple[str, ...],
    parameters: tuple[int | None, int],
) -> AdviceRecord:
    """Facts and warnings about a distillation that has not begun.

    Args:
        teacher: its quality on the validation split. logits, labels: of that split, (N, classes) and (N,).
        train_labels: of the training split.
        parameters: of teacher and student; None where the teacher has none to count.
    """
    teacher_size, student_size = parameters
    ratio = teacher_size / max(1, student_size) if teacher_size else 1.0
    fewer = f", {ratio:.1f} times fewer than the teacher" if teacher_size else ""
    batch_size, epochs = recipe.student.training.batch_size, recipe.student.training.epochs
    steps = epochs * max(1, len(train_labels) // batch_size)
    if labels.is_floating_point():
        (first, *facts), warnings = _of_numbers(teacher, logits[:, 0], labels)
    else:
        (first, *facts), warnings = _of_classes(recipe, teacher, logits, labels, train_labels, classes)
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


def _of_numbers(teacher: Quality, predictions: Tensor, targets: Tensor) -> tuple[list[str], list[str]]:
    """Facts and warnings about a teacher's predictions (N,) where samples have a number, (N,)."""
    facts = [f"teacher: {_listed(teacher)} on the validation split (always guessing the mean: no correlation)"]
    warnings = []
    if _lowest(teacher) <= 0:
        warnings.append(
            "the teacher is not shown to be better than always guessing the mean; check its weights and its tokenizer"
        )
    elif float((predictions - targets).square().mean()) > float(targets.var(correction=0)):
        warnings.append(
            "the teacher's predictions correlate with the targets, but are in another unit: their error is larger than"
            " that of always guessing the mean; a student would learn that unit, so set teacher.finetune = true"
        )
    return facts, warnings


def _of_classes(
    recipe: Recipe,
    teacher: Quality,
    logits: Tensor,
    labels: Tensor,
    train_labels: Tensor,
    classes: tuple[str, ...],
) -> tuple[list[str], list[str]]:
    """Facts and warnings about a teacher's logits where samples have classes; see `advice`."""
    labelled = train_labels[is_known(train_labels)]
    guess = float(labelled.unique(dim=0, return_counts=True)[1].max()) / len(labelled)
    several = labels.ndim == 2
    softness = _softness(logits, recipe.distil.temperature, several)
    facts = [
        f"teacher: {_listed(teacher)} on the validation split"
        f" (always guessing {'the same labels' if several else 'one class'}: {100 * guess:.1f} %)",
        f"targets at temperature {recipe.distil.temperature:g}: {100 * softness:.0f} % of the entropy of no knowledge",
        *([] if several else _overlap(logits, classes)),
    ]
    warnings = []
    if _lowest(teacher) <= guess:
        warnings.append(
            f"the teacher is not shown to be better than always guessing the most frequent class ({100 * guess:.1f} %);"
            " check its weights, its preprocessing and the order of its labels"
        )
    if not several and (mapping := _other_order(logits, labels, teacher.value, classes)):
        warnings.append(
            f"the teacher seems to have its labels in another order: {mapping}; name them in their order in"
            " teacher.preprocessing.labels"
        )
    if softness > NEARLY_UNIFORM:
        warnings.append(
            f"temperature {recipe.distil.temperature:g} makes the teacher's targets nearly uniform; lower it, since"
            " nothing of its knowledge is left in them"
        )
    if softness < NEARLY_HARD:
        warnings.append(
            f"at temperature {recipe.distil.temperature:g} the teacher's targets hardly differ from the labels;"
            " raise it"
        )
    return facts, warnings


def _listed(teacher: Quality) -> str:
    """All that was measured."""
    return ", ".join(metric.in_words for metric in (teacher.primary, *teacher.metrics))


def _lowest(teacher: Quality) -> float:
    """The lower end of the interval of the primary metric."""
    return teacher.primary.interval[0] if teacher.primary.interval else teacher.value


def _softness(logits: Tensor, temperature: float, several: bool) -> float:
    """Mean entropy of the softened predictions, of several labels that of each, as a share of the largest possible."""
    if several:
        logits = torch.stack([logits.flatten(), torch.zeros(logits.numel())], 1)
    logs = (logits / temperature).log_softmax(1)
    return float(-(logs.exp() * logs).sum(1).mean()) / math.log(logits.shape[1])


def _overlap(logits: Tensor, classes: tuple[str, ...]) -> list[str]:
    """The two classes between which the teacher is most often undecided."""
    probabilities = logits.softmax(1)
    shared = probabilities.t() @ probabilities
    shared.fill_diagonal_(0)
    one, other = divmod(int(shared.argmax()), len(classes))
    undecided = (probabilities[:, one].minimum(probabilities[:, other]) > 0.1).float().mean()
    if not undecided:
        return []
    return [
        f"classes that overlap most for the teacher: {classes[one]} and {classes[other]} (each over 10 % on"
        f" {100 * float(undecided):.1f} % of the samples)"
    ]


def _other_order(logits: Tensor, labels: Tensor, accuracy: float, classes: tuple[str, ...]) -> str:
    """The teacher's order in the data's classes, if its predictions fit another order far better; else nothing."""
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    counts.index_put_((logits.argmax(1), labels), torch.ones_like(labels), accumulate=True)
    order = counts.argmax(1)
    permutation = len(order.unique()) == len(classes)
    relabelled = float(counts.max(1).values.sum()) / len(labels)
    if not permutation or relabelled < accuracy + 0.3:
        return ""
    moved = [f"its {classes[i]} is {classes[int(label)]}" for i, label in enumerate(order) if i != int(label)]
    return ", ".join(moved[:5]) + (", ..." if len(moved) > 5 else "")
