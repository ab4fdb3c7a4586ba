"""evaluate(): what a model answers on a labelled split. Eager, simulated and deployed models go through here alike."""

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor

from distiq.data.samples import Split
from distiq.data.splits import Data, answers, right
from distiq.errors import UserError
from distiq.evaluation.accuracy import (
    area_under_curve,
    expected_calibration_error,
    f1,
    per_class_accuracy,
    wilson_interval,
)
from distiq.evaluation.regression import score_numbers
from distiq.models.signature import Predict, one_output
from distiq.records.quality import Metric, Quality

CHUNK = 250


@torch.no_grad()
def outputs(predict: Predict, data: Data, samples: Split) -> Tensor:
    """The logits of every sample, in order: (N, classes) float32."""
    chunks = [one_output(predict(data.normalize(part))).float().cpu() for part in samples.chunks(CHUNK)]
    return torch.cat(chunks)


def evaluate(
    predict: Predict,
    data: Data,
    samples: Split | None = None,
    *,
    teacher: Tensor | None = None,
    float_student: Tensor | None = None,
) -> Quality:
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
) -> Quality:
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
    name, title = ("exact_match", "exact match") if several else ("accuracy", "accuracy")
    found = (
        ("auc", "AUC", "area under the ROC curve", area_under_curve(logits, labels), True),
        ("micro_f1", "micro F1", "over all labels", f1(logits, labels, "micro"), True),
        ("macro_f1", "macro F1", "mean of the labels", f1(logits, labels, "macro"), True),
        ("calibration_error", "calibration error", "ECE", expected_calibration_error(logits, labels), False),
    )
    return Quality(
        samples=len(labels),
        primary=Metric(
            name=name,
            title=title,
            value=correct / len(labels),
            interval=wilson_interval(correct, len(labels)),
            interval_by="Wilson",
        ),
        metrics=tuple(
            Metric(name=name, title=title, note=note, value=value, higher_is_better=higher)
            for name, title, note, value, higher in found
            if value is not None
        ),
        per_class=per_class_accuracy(answers(logits, labels), labels, classes),
        agreement_with_teacher=None if teacher is None else same_answers(agreement(logits, teacher, several)),
        change_against_float=None if float_student is None else flips(agreement(logits, float_student, several)),
    )


def same_answers(share: float) -> Metric:
    """The share of samples on which a model and its teacher predict the same."""
    return Metric(name="agreement", title="agreement with teacher", value=share)


def flips(share: float) -> Metric:
    """From the share of samples on which a model and its float32 form predict the same: those that changed."""
    return Metric(name="flips", title="flips against float32", value=1 - share, higher_is_better=False)


def check_metrics(names: Iterable[str], data: Data) -> None:
    """Raises UserError unless validation and test samples give the metrics of these names."""
    for part in ("validation", "test"):
        labels, classes = getattr(data, part).labels, len(data.classes)
        measured = score(torch.zeros(len(labels), classes), labels, classes)
        own = [metric.name for metric in (measured.primary, *measured.metrics)]
        if strange := [name for name in names if name not in own]:
            nearest = difflib.get_close_matches(strange[0], own, n=1)
            advice = f'did you mean "{nearest[0]}"? ' if nearest else ""
            raise UserError(
                f"budget.metrics: {strange[0]} is not measured on the {part} samples of this data; {advice}measured are"
                f" {', '.join(own)}"
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
