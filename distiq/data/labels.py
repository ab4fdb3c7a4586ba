"""What the labels of samples are: a class each, any number of labels, a number, a class at each place, boxes, text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.errors import UserError

UNLABELLED = -1
VOID = 255


class Target(NamedTuple):
    """Of labels that are numbers: mean and standard deviation of the training split, in their own unit. Networks learn
    and predict the distance from the mean in standard deviations."""

    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class LabelForm:
    """How the labels of a split are stored.

    Args:
        sample: what one sample has, in words.
        missing: stands for an unknown label in a training split.
        labelled: labels (N, ...) -> which samples have one, (N,) bool.
    """

    sample: str
    missing: float
    labelled: Callable[[Tensor], Tensor]


CLASS = LabelForm("a class", UNLABELLED, lambda labels: labels != UNLABELLED)
"""(N,) int64: the number of the class."""
LABEL_SET = LabelForm("several labels", UNLABELLED, lambda labels: labels[:, 0] != UNLABELLED)
"""(N, classes) int64: 1 at each label that the sample has, 0 elsewhere."""
NUMBER = LabelForm("a number", math.nan, lambda labels: ~labels.isnan())
"""(N,) float32: a number, in standard deviations from the mean; see `Target`."""
SHARES = LabelForm("a share for each class", math.nan, lambda labels: ~labels[:, 0].isnan())
"""(N, classes) float32: probabilities of the classes, of training samples; others are measured by the likeliest one."""
MASK = LabelForm("a class for each pixel", VOID, lambda labels: (labels != VOID).flatten(1).any(1))
"""(N, H, W) uint8: the number of each pixel's class; `VOID` where none counts."""
BOXES = LabelForm("boxes", math.nan, lambda labels: ~labels.isnan().flatten(1).any(1))
"""(N, M, 6) float32: class, x0, y0, x1, y1, crowd of each box; rows of class -1 are padding."""
TAGS = LabelForm("a class for each token", UNLABELLED, lambda labels: (labels != UNLABELLED).any(1))
"""(N, T) int16: the number of each token's class; `UNLABELLED` where none counts."""
SYMBOLS = LabelForm("a text", UNLABELLED, lambda labels: (labels != UNLABELLED).any(1))
"""(N, L) int32: the numbers of a text's symbols; `UNLABELLED` behind its end."""
FORMS: dict[tuple[torch.dtype, int], LabelForm] = {
    (torch.int64, 1): CLASS,
    (torch.int64, 2): LABEL_SET,
    (torch.float32, 1): NUMBER,
    (torch.float32, 2): SHARES,
    (torch.uint8, 3): MASK,
    (torch.float32, 3): BOXES,
    (torch.int16, 2): TAGS,
    (torch.int32, 2): SYMBOLS,
}
"""The type and the number of dimensions tell the forms apart."""
SUM_TOLERANCE = 1e-3


class Labels(NamedTuple):
    """The labels of a data set: their form, the names of the classes (of a number: its own), the unit of numbers,
    and of images their height and width."""

    form: LabelForm
    classes: tuple[str, ...]
    target: Target = Target()
    size: tuple[int, ...] = ()


def form_of(labels: Tensor) -> LabelForm:
    """The form that labels have."""
    plain = torch.float32 if labels.dtype in (torch.float64, torch.float16, torch.bfloat16) else labels.dtype
    if form := FORMS.get((plain, labels.ndim)):
        return form
    raise UserError(
        f"labels are {str(labels.dtype).removeprefix('torch.')}; give whole numbers as int64 (labels.long()), numbers"
        f" as float32, one for each sample; their shape is {tuple(labels.shape)}"
    )


def is_labelled(labels: Tensor) -> Tensor:
    """Which samples have a label, (N,) bool."""
    return form_of(labels).labelled(labels)


def shows(labels: Tensor, number: int) -> Tensor:
    """Which samples are of a class, or show it, (N,) bool."""
    match form_of(labels):
        case form if form is LABEL_SET:
            return labels[:, number] == 1
        case form if form is BOXES:
            return (labels[:, :, 0] == number).any(1)
        case form if form is MASK or form is TAGS:
            return (labels == number).flatten(1).any(1)
    return likeliest(labels) == number


def classes_in(labels: Tensor) -> set[int]:
    """The classes that there are; none of numbers and texts."""
    form = form_of(labels)
    if form is NUMBER or form is SYMBOLS:
        return set()
    if form is LABEL_SET:
        return set((labels == 1).any(0).nonzero().flatten().tolist())
    values = labels[:, :, 0].nan_to_num(-1).long() if form is BOXES else likeliest(labels)
    return {int(value) for value in values.unique() if value >= 0} - ({VOID} if form is MASK else set())


def likeliest(labels: Tensor) -> Tensor:
    """Of shares (N, classes) the class of the largest, `UNLABELLED` where there are none; others as they are."""
    if form_of(labels) is not SHARES:
        return labels
    return labels.argmax(1).masked_fill(~is_labelled(labels), UNLABELLED)


def untruncated(labels: Tensor) -> Tensor:
    """Labels of any type as int64 where nothing is lost by it; else as float32."""
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):
        return labels.float()
    return labels.long()


def filled(labels: Tensor) -> Tensor:
    """The labels with a valid one where there is none: 0."""
    missing = ~is_labelled(labels)
    return labels.masked_fill(missing.view(-1, *[1] * (labels.ndim - 1)), 0)


def numbered_classes(labels: Tensor) -> tuple[str, ...]:
    """Names for classes that have none: the numbers in labels (N,), or those of the columns (N, classes)."""
    if len(labels) == 0 or form_of(labels) is NUMBER:
        return ()
    if form_of(labels) in (MASK, BOXES):
        return tuple(str(number) for number in range(max(classes_in(labels), default=-1) + 1))
    is_set = labels.ndim == 2 and labels.shape[1] > 1
    count = labels.shape[1] if is_set else int(labels.max()) + 1
    return tuple(str(number) for number in range(count))


def check_labels(
    labels: Tensor,
    samples: int,
    classes: Sequence[str],
    noun: str,
    where: str,
    varied: bool,
    lowest: int,
) -> None:
    """Raises UserError, saying where, if labels cannot be learned from or measured on.

    Args:
        noun: what the samples are called.
        varied: at least two different ones must occur.
        lowest: the smallest label that is allowed, 0 or `UNLABELLED`.
    """
    form = FORMS.get((labels.dtype, labels.ndim))
    if form in (TAGS, SYMBOLS):
        return _check_tags(labels, samples, classes, noun, where, lowest)
    if form is MASK:
        return _check_masks(labels, samples, classes, where)
    if form is BOXES:
        return _check_boxes(labels, samples, classes, where, lowest)
    if len(labels) != samples or labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (len(classes),)):
        raise UserError(
            f"{where}: {samples} {noun} but labels of shape {tuple(labels.shape)}; give one label each, or of"
            f" several labels a 0 or 1 for each of the {len(classes)}"
        )
    if labels.dtype == torch.float32 and len(classes) == 1 and labels.ndim == 1:
        return _check_numbers(labels, classes[0], where, varied, lowest)
    shares = labels.dtype == torch.float32 and labels.ndim == 2
    if labels.dtype != torch.int64 and not shares:
        raise UserError(
            f"{where}: labels are {str(labels.dtype).removeprefix('torch.')}; give whole numbers as int64"
            " (labels.long()), float32 shares of the classes in rows (N, classes) that sum to 1, or a float32 number"
            " each, with one name in place of the classes"
        )
    if samples == 0:
        raise UserError(f"{where}: no {noun}")
    if len(classes) < 2:
        raise UserError(f"{where}: only one class ({', '.join(classes)}); there is nothing to tell apart")
    if shares:
        _check_shares(labels, noun, where, lowest)
        labels = likeliest(labels)
    _check_range(labels, len(classes), where, lowest)
    if varied and len(labels.unique(dim=0)) < 2:
        if form_of(labels) is LABEL_SET:
            raise UserError(f"{where}: every sample has the same labels; there is nothing to tell apart")
        raise UserError(f"{where}: every sample has the label {int(labels[0])}; at least two classes are needed")


def _check_tags(labels: Tensor, samples: int, classes: Sequence[str], noun: str, where: str, lowest: int) -> None:
    if len(labels) != samples or samples == 0:
        raise UserError(f"{where}: {samples} {noun}, but tags of {len(labels)}; give each token of each a tag")
    if int(labels.min()) < UNLABELLED or int(labels.max()) >= len(classes):
        raise UserError(
            f"{where}: tags run from {int(labels.min())} to {int(labels.max())}, but there are {len(classes)} (0 to"
            f" {len(classes) - 1}); those that do not count are {UNLABELLED}"
        )
    if lowest == 0 and not is_labelled(labels).all():
        raise UserError(f"{where}: {int((~is_labelled(labels)).sum())} {noun} have no tag; take them out")


def _check_masks(masks: Tensor, samples: int, classes: Sequence[str], where: str) -> None:
    if len(masks) != samples or samples == 0:
        raise UserError(f"{where}: {samples} images but {len(masks)} masks; give one each, at least one")
    if not classes or len(classes) > VOID:
        raise UserError(f"{where}: {len(classes)} classes; masks tell 1 to {VOID} apart")
    strange = classes_in(masks) - set(range(len(classes)))
    if strange:
        first = int(shows(masks, min(strange)).nonzero()[0])
        raise UserError(
            f"{where}: mask {first} holds the value {min(strange)}, but there are {len(classes)} classes (0 to"
            f" {len(classes) - 1}); name the class, or give such pixels the value {VOID}"
        )
    if not classes_in(masks):
        raise UserError(f"{where}: no pixel of any mask has a class; give some")


def _check_boxes(boxes: Tensor, samples: int, classes: Sequence[str], where: str, lowest: int) -> None:
    if len(boxes) != samples or samples == 0 or boxes.shape[2] != 6:
        raise UserError(
            f"{where}: {samples} images but boxes of shape {tuple(boxes.shape)}; give (N, most boxes, 6) as class, x0,"
            " y0, x1, y1, crowd, rows of class -1 where an image has fewer"
        )
    labelled = boxes[is_labelled(boxes)] if lowest == UNLABELLED else boxes
    rows = labelled[labelled[:, :, 0] != UNLABELLED]
    if not torch.isfinite(rows).all():
        raise UserError(f"{where}: a box is not finite; correct it or take it out")
    numbers = rows[:, 0]
    if len(rows) and (float(numbers.min()) < 0 or float(numbers.max()) >= len(classes) or bool((numbers % 1).any())):
        raise UserError(
            f"{where}: boxes have the classes {float(numbers.min()):g} to {float(numbers.max()):g}, but there are"
            f" {len(classes)} (0 to {len(classes) - 1}); correct them or name all classes"
        )
    flat = (rows[:, 3] <= rows[:, 1]) | (rows[:, 4] <= rows[:, 2])
    if flat.any():
        raise UserError(f"{where}: {int(flat.sum())} boxes have no area (x1 <= x0 or y1 <= y0); take them out")
    if not len(rows):
        raise UserError(f"{where}: no image has a box; there is nothing to find")


def _check_range(labels: Tensor, classes: int, where: str, lowest: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if form_of(labels) is LABEL_SET and (low < lowest or high > 1):
        raise UserError(f"{where}: labels run from {low} to {high}; of several labels each is 0 or 1")
    if low < lowest or high >= classes:
        raise UserError(
            f"{where}: labels run from {low} to {high}, but there are {classes} classes (0 to {classes - 1}); correct"
            " the labels or name all classes"
        )


def _check_shares(labels: Tensor, noun: str, where: str, lowest: int) -> None:
    has_sum = (labels.sum(1) - 1).abs() <= SUM_TOLERANCE
    is_missing = labels.isnan().all(1) & (lowest == UNLABELLED)
    sound = ((labels >= 0).all(1) & has_sum) | is_missing
    if not sound.all():
        first, count = int((~sound).nonzero()[0]), int((~sound).sum())
        shown = ", ".join(f"{value:g}" for value in labels[first, :4].tolist())
        raise UserError(
            f"{where}: the labels of {noun[:-1]} {first} ({shown}{', ...' if labels.shape[1] > 4 else ''}) are no"
            f" shares of the classes ({count} {noun}); each is 0 or more, a row sums to 1; several labels are int64"
        )


def _check_numbers(labels: Tensor, name: str, where: str, varied: bool, lowest: int) -> None:
    if len(labels) == 0:
        raise UserError(f"{where}: no texts")
    given = labels[is_labelled(labels)] if lowest == UNLABELLED else labels
    if not torch.isfinite(given).all():
        first = int((~torch.isfinite(labels)).nonzero()[0])
        raise UserError(f"{where}: the {name} of text {first} is {float(labels[first])}; give each a finite number")
    if varied and len(given.unique()) < 2 and (len(given) or lowest != UNLABELLED):  # nobody needs to know one
        raise UserError(f"{where}: every {name} is the same; there is nothing to learn")
