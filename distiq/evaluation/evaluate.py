"""evaluate(): what a model answers on a labelled split. Eager, simulated and deployed models go through here alike."""

from collections.abc import Callable

import torch
from torch import Tensor

from distiq.data.splits import Data, Split, answers, right
from distiq.errors import UserError
from distiq.evaluation.accuracy import (
    area_under_curve,
    expected_calibration_error,
    f1,
    per_class_accuracy,
    wilson_interval,
)
from distiq.evaluation.regression import score_numbers
from distiq.records.quality import AccuracyRecord, QualityRecord

Predict = Callable[[Tensor], Tensor]
CHUNK = 250


@torch.no_grad()
def outputs(predict: Predict, data: Data, samples: Split) -> Tensor:
    """The logits of every sample, in order: (N, classes) float32."""
    chunks = [predict(data.normalize(images)).float().cpu() for images in samples.inputs.split(CHUNK)]
    return torch.cat(chunks)


def evaluate(
    predict: Predict,
    data: Data,
    samples: Split | None = None,
    *,
    teacher: Tensor | None = None,
    float_student: Tensor | None = None,
) -> QualityRecord:
    """Accuracy of a model on a split; where samples have a number in place of classes, correlation and error.

    Args:
        predict: normalized images (B, C, H, W) -> logits (B, classes): a network, or what a runtime's `load` returns.
        samples: the test split by default.
        teacher, float_student: logits of others on the same samples, to compare answers with.

    Raises:
        UserError: an output is not finite or does not fit the number of classes.
    """
    samples = samples or data.test
    answers = outputs(predict, data, samples)
    return score(answers, samples.labels, len(data.classes), teacher, float_student, data.target.std)


def score(
    logits: Tensor,
    labels: Tensor,
    classes: int,
    teacher: Tensor | None = None,
    float_student: Tensor | None = None,
    std: float = 1.0,
) -> QualityRecord:
    """The record of given logits (N, classes) and labels (N,), or of several labels (N, classes); see `evaluate`.

    Args:
        std: of numbers in place of classes; see `Target`.
    """
    if logits.shape != (len(labels), classes):
        raise UserError(f"the model answered {tuple(logits.shape)} for {len(labels)} samples of {classes} classes")
    if not torch.isfinite(logits).all():
        first = int((~torch.isfinite(logits)).any(1).nonzero()[0])
        raise UserError(f"the model's output is not finite for sample {first}; the network or the file is broken")
    if labels.is_floating_point():
        others = [None if other is None else other[:, 0] for other in (teacher, float_student)]
        return score_numbers(logits[:, 0], labels, std, *others)
    correct, several = int(right(logits, labels).sum()), labels.ndim == 2
    return AccuracyRecord(
        samples=len(labels),
        correct=correct,
        top1=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        per_class=per_class_accuracy(answers(logits, labels), labels, classes),
        expected_calibration_error=expected_calibration_error(logits, labels),
        auc=area_under_curve(logits, labels),
        micro_f1=f1(logits, labels, "micro"),
        macro_f1=f1(logits, labels, "macro"),
        agreement_with_teacher=agreement(logits, teacher, several) if teacher is not None else None,
        flips_against_float=1 - agreement(logits, float_student, several) if float_student is not None else None,
    )


def agreement(one: Tensor, other: Tensor, multi_label: bool = False) -> float:
    """Share of samples on which two models' logits (N, classes) have the same largest entry; of samples with several
    labels, on which the same entries are above 0; of a single output, on which it is the same to 1/255 of the span of
    the first model's."""
    if one.shape[1] == 1:
        return float(((one - other).abs() <= (one.max() - one.min()) / 255).double().mean())
    if multi_label:
        return float(((one > 0) == (other > 0)).all(1).double().mean())
    return float((one.argmax(1) == other.argmax(1)).double().mean())
