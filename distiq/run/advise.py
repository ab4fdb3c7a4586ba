"""What can be said before the student is trained: facts about teacher, task and student, and warnings with reasons."""

from distiq.data.splits import Data
from distiq.evaluation.cost import parameter_count
from distiq.recipe.recipe import Recipe
from distiq.records.run import AdviceRecord
from distiq.run.ledger import Ledger
from distiq.run.measure import MeasuredNetwork, Scores
from distiq.run.networks import Network
from distiq.tasks.choose import task_of
from distiq.tasks.task import Task, Taught

FAR_APART = 50  # times fewer parameters
FEW_STEPS = 300
LEARNED = 2.0  # points by which a teacher is better where it knows the samples


def advise(
    ledger: Ledger, recipe: Recipe, data: Data, reference: MeasuredNetwork, student: Network
) -> AdviceRecord | None:
    """Says what is known of the teacher before hours are spent on its student; None where it does not teach."""
    if recipe.distil.teacher == "none":
        return None
    outputs, targets, train_targets = reference.logits["validation"], data.validation.labels, data.train.labels
    taught = Taught(reference.scores.validation, outputs, targets, train_targets, recipe.distil.temperature)
    size = reference.cost.parameters if reference.cost else None
    said = advice(recipe, task_of(data), taught, size, parameter_count(student.module))
    network = reference.trained.network
    if (network.is_given or network.source or network.is_predictor) and (warning := learned_samples(reference.scores)):
        said = AdviceRecord(facts=said.facts, warnings=(*said.warnings, warning))
    for warning in said.warnings:
        ledger.watch.note(f"warning: {warning}")
    return said


def learned_samples(scores: Scores) -> str:
    """Warns of a loaded teacher that is far better on the validation than on the test split; empty of others.

    Far is beyond both intervals, and by `LEARNED` points or more.
    """
    validation, test = scores.validation.primary, scores.test.primary
    if validation.interval is None or test.interval is None or not validation.higher_is_better:
        return ""
    if validation.interval[0] <= test.interval[1] or test.drop(validation) < LEARNED:
        return ""
    return (
        f"the teacher has {validation.in_words} on the validation split, but {test.figure} on the test set: it seems"
        " to have learned the validation samples, so that every student seems to lose more than it does; name samples"
        " that it never saw in data.validation"
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
