"""Classification: one of several classes for each sample."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import Labels, is_labelled, likeliest
from distiq.records.quality import Metric
from distiq.tasks.accuracy import area_under_curve, calibration_error, recall_by_class
from distiq.tasks.intervals import wilson_interval
from distiq.tasks.order import other_order
from distiq.tasks.precision import full_precision, refuse_unless
from distiq.tasks.task import Advice, Scores, Task, Taught, same_predictions

NEARLY_UNIFORM, NEARLY_HARD = 0.97, 0.01  # of the largest possible entropy
OTHER_ORDER = 0.3  # how much better predictions must fit another order of the classes


def classification(labels: Labels) -> Task:
    """Logits (N, classes) and targets (N,) int64; to learn from also (N, classes) float32, the share of each class."""
    count = len(labels.classes)
    return Task(
        name="classification",
        predicts=f"one of {count} classes",
        outputs=count,
        loss=loss,
        distillation=kd,
        decode=decode,
        score=score,
        agreement=agreement,
        correct=torch.eq,
        advise=partial(advise, classes=labels.classes),
        order=lambda outputs, targets: other_order(decode(outputs), targets, count),
        decoding="softmax",
        class_dimension=1,
        smooths_labels=True,
        parts=labels.classes,
    )


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each sample, (N,), with its class or with the share of each class."""
    return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing, reduction="none")


@full_precision
def kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation: KL(teacher || student) of the softened outputs, batch mean, times T^2.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531). The factor T^2
    keeps the gradient's size independent of T (their section 2).

    Shapes: both (B, C) or (B, C, ...), of which every position counts as a sample.
    """
    refuse_unless(student.shape == teacher.shape, "kd", student, teacher, "both must predict the same classes")
    log_student = F.log_softmax(rows(student) / temperature, dim=1)
    log_teacher = F.log_softmax(rows(teacher) / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def rows(outputs: Tensor) -> Tensor:
    """Every position's classes as a row: (B, C, ...) -> (B * positions, C); (B, C) as it is."""
    return outputs if outputs.ndim == 2 else outputs.movedim(1, -1).flatten(0, -2)


def decode(outputs: Tensor) -> Tensor:
    """The likeliest class of each sample, (N,)."""
    return outputs.argmax(1)


agreement = same_predictions(decode)


def score(outputs: Tensor, targets: Tensor) -> Scores:
    """Accuracy; of two classes the area under the ROC curve; the calibration error; recall by class."""
    predictions = decode(outputs)
    correct, samples = int((predictions == targets).sum()), len(targets)
    interval = wilson_interval(correct, samples)
    accuracy = Metric(
        name="accuracy", title="accuracy", value=correct / samples, interval=interval, interval_by="Wilson"
    )
    area = area_under_curve(outputs, targets)
    ranked = () if area is None else (Metric(name="auc", title="AUC", note="area under the ROC curve", value=area),)
    calibration = Metric(
        name="calibration_error",
        title="calibration error",
        note="ECE",
        value=calibration_error(outputs, targets),
        higher_is_better=False,
    )
    return Scores(accuracy, (*ranked, calibration), recall_by_class(predictions, targets, outputs.shape[1]))


def advise(taught: Taught, classes: tuple[str, ...]) -> Advice:
    """What the teacher knows beyond the labels, and what speaks against learning from it."""
    train = likeliest(taught.train_targets[is_labelled(taught.train_targets)])
    softness = _softness(taught.outputs, taught.temperature)
    facts = [
        against_guessing(taught, train, "one class"),
        softness_in_words(softness, taught.temperature),
        *_overlap(taught.outputs, classes),
    ]
    warnings = guessing_warnings(taught, train)
    if mapping := _other_order(taught, classes):
        warnings.append(
            f"the teacher seems to have its labels in another order: {mapping}; name them in their order in"
            " teacher.preprocessing.labels"
        )
    return Advice(facts, warnings + softness_warnings(softness, taught.temperature))


def most_frequent(train: Tensor) -> float:
    """The share of the training samples that have the most frequent target."""
    return float(train.unique(dim=0, return_counts=True)[1].max()) / len(train)


def against_guessing(taught: Taught, train: Tensor, guess: str) -> str:
    """The teacher's metrics beside what guessing would give."""
    share = 100 * most_frequent(train)
    return f"teacher: {taught.quality.in_words} on the validation split (always guessing {guess}: {share:.1f} %)"


def guessing_warnings(taught: Taught, train: Tensor) -> list[str]:
    """A warning where the teacher is not shown to be better than a guess."""
    interval, guess = taught.quality.primary.interval, most_frequent(train)
    if interval is None or interval[0] > guess:
        return []
    return [
        f"the teacher is not shown to be better than always guessing the most frequent class ({100 * guess:.1f} %);"
        " check its weights, its preprocessing and the order of its labels"
    ]


def softness_in_words(softness: float, temperature: float) -> str:
    return f"targets at temperature {temperature:g}: {100 * softness:.0f} % of the entropy of no knowledge"


def softness_warnings(softness: float, temperature: float) -> list[str]:
    """A warning where softened outputs hold nothing beside the labels, or nothing at all."""
    if softness > NEARLY_UNIFORM:
        return [
            f"temperature {temperature:g} makes the teacher's targets nearly uniform; lower it, since nothing of its"
            " knowledge is left in them"
        ]
    if softness < NEARLY_HARD:
        return [f"at temperature {temperature:g} the teacher's targets hardly differ from the labels; raise it"]
    return []


def _softness(logits: Tensor, temperature: float) -> float:
    """Mean entropy of the softened outputs, as a share of the largest possible."""
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


def _other_order(taught: Taught, classes: tuple[str, ...]) -> str:
    """The teacher's order in the data's classes, if its predictions fit another order far better; else nothing."""
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    ones = torch.ones_like(taught.targets)
    counts.index_put_((decode(taught.outputs), taught.targets), ones, accumulate=True)
    order = counts.argmax(1)
    permutation = len(order.unique()) == len(classes)
    relabelled = float(counts.max(1).values.sum()) / len(taught.targets)
    if not permutation or relabelled < taught.quality.value + OTHER_ORDER:
        return ""
    moved = [f"its {classes[i]} is {classes[int(label)]}" for i, label in enumerate(order) if i != int(label)]
    return ", ".join(moved[:5]) + (", ..." if len(moved) > 5 else "")
