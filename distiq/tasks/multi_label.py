"""Multi-label classification: any number of the labels for each sample."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import Labels, is_labelled
from distiq.records.quality import Metric
from distiq.tasks.accuracy import f1, label_calibration_error, recall_by_label
from distiq.tasks.classification import against_guessing, guessing_warnings, softness_in_words, softness_warnings
from distiq.tasks.intervals import wilson_interval
from distiq.tasks.order import other_label_order
from distiq.tasks.precision import full_precision, refuse_unless
from distiq.tasks.task import Advice, Scores, Task, Taught, same_predictions


def multi_label(labels: Labels) -> Task:
    """Logits (N, labels) and targets (N, labels) int64 of 0 and 1."""
    count = len(labels.classes)
    return Task(
        name="multi_label",
        predicts=f"any of {count} labels",
        outputs=count,
        loss=loss,
        distillation=bernoulli_kd,
        decode=decode,
        score=score,
        agreement=same_predictions(decode),
        correct=correct,
        advise=advise,
        order=lambda outputs, targets: other_label_order(decode(outputs), targets),
        decoding="sigmoid",
        smooths_labels=True,
        parts=labels.classes,
    )


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each label's logistic output, mean over the labels of each sample, (N,)."""
    smoothed = targets * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(outputs.float(), smoothed, reduction="none").mean(1)


@full_precision
def bernoulli_kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Multi-label distillation: KL(teacher || student) of each label's softened logistic output, times T^2.

    Yang et al. 2023, "Multi-label knowledge distillation" (arXiv:2308.06453), the logit part, which has T = 1 and sums
    over the labels; here it is their mean, as that of the task loss, and T^2 is as in `kd`.

    Shapes: both (B, labels), or of any further dimensions: every element is a label of its own.
    """
    refuse_unless(student.shape == teacher.shape, "bernoulli_kd", student, teacher, "both must predict the same labels")
    own, reference = student / temperature, teacher / temperature
    present = torch.sigmoid(reference) * (F.logsigmoid(reference) - F.logsigmoid(own))
    absent = torch.sigmoid(-reference) * (F.logsigmoid(-reference) - F.logsigmoid(-own))
    return (present + absent).mean() * temperature**2


def decode(outputs: Tensor) -> Tensor:
    """1 at each label whose logit is above 0 (a probability above one half), (N, labels)."""
    return (outputs > 0).long()


def correct(predictions: Tensor, targets: Tensor) -> Tensor:
    """Samples all of whose labels are right, (N,) bool."""
    return (predictions == targets).all(1)


def score(outputs: Tensor, targets: Tensor) -> Scores:
    """Exact match, F1 over all labels and their mean, calibration error, recall of each label."""
    predictions, samples = decode(outputs), len(targets)
    matches = int(correct(predictions, targets).sum())
    exact = Metric(
        name="exact_match",
        title="exact match",
        value=matches / samples,
        interval=wilson_interval(matches, samples),
        interval_by="Wilson",
    )
    micro, macro = f1(predictions, targets, "micro"), f1(predictions, targets, "macro")
    calibration = Metric(
        name="calibration_error",
        title="calibration error",
        note="ECE",
        value=label_calibration_error(outputs, targets),
        higher_is_better=False,
    )
    averages = (
        Metric(name="micro_f1", title="micro F1", note="over all labels", value=micro),
        Metric(name="macro_f1", title="macro F1", note="mean of the labels", value=macro),
    )
    return Scores(exact, (*averages, calibration), recall_by_label(predictions, targets))


def advise(taught: Taught) -> Advice:
    """What the teacher knows beyond the labels, and what speaks against learning from it."""
    train = taught.train_targets[is_labelled(taught.train_targets)]
    softness = _softness(taught.outputs, taught.temperature)
    facts = [against_guessing(taught, train, "the same labels"), softness_in_words(softness, taught.temperature)]
    return Advice(facts, guessing_warnings(taught, train) + softness_warnings(softness, taught.temperature))


def _softness(logits: Tensor, temperature: float) -> float:
    """Mean entropy of the labels' softened outputs, as a share of the largest possible."""
    two = torch.stack([logits.flatten(), torch.zeros(logits.numel())], 1)
    logs = (two / temperature).log_softmax(1)
    return float(-(logs.exp() * logs).sum(1).mean()) / math.log(2)
