"""Detection: the boxes of objects, each with one of several classes."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import Labels
from distiq.device.run import SHOWN_SCORE, detected, overlaps
from distiq.errors import UserError
from distiq.models.detector import joined, strides_of
from distiq.models.signature import Tensors, read_outputs
from distiq.records.quality import Metric
from distiq.tasks.assignment import assign, overlap, positions_of, usual_positions
from distiq.tasks.average_precision import average_precision, interval, matches, mean_precision, weighted
from distiq.tasks.precision import full_precision, refuse_unless
from distiq.tasks.segmentation import refuses
from distiq.tasks.task import Scores, Task

BOX_WEIGHT, FOCUS = 6.0, 2.0  # boxes weighed 2 by Feng et al. 2021 (equations 4 and 7) fit small data sets too loosely
SAME_BOX = 0.95  # overlap from which two models found the same


def detection(labels: Labels) -> Task:
    """Outputs (N, 4 + classes, positions): corners x0, y0, x1, y1 in pixels, then logits; targets (N, M, 6) float32.

    Networks give them in one tensor, or by stride "classes_8" and "boxes_8"; see `distiq.models.detector.Detector`.
    What is scored are the boxes that are left of them, (N, K, 6); see `distiq.device.run.detected`.
    """
    count, size = len(labels.classes), labels.size
    return Task(
        name="detection",
        predicts=f"boxes of {count} classes",
        outputs=4 + count,
        classes=count,
        class_figure="average precision",
        places=lambda _: (usual_positions(size),),
        components=lambda outputs: {"boxes": outputs[:, :4], "scores": outputs[:, 4:]},
        refuses=refuses,
        weighted=partial(weighted, classes=count),
        loss=partial(loss, size=size),
        distillation=distillation,
        read=partial(read, size=size),
        keep=lambda outputs: torch.from_numpy(detected(outputs.float().numpy(), (size[0], size[1]))),
        decode=decode,
        score=lambda kept, targets: score(kept, targets, count),
        agreement=agreement,
        change=change,
        likeness=likeness,
        decoding="boxes",
        tolerance=f"boxes that overlap by {SAME_BOX:g}",
    )


def read(outputs: Tensors, size: Sequence[int]) -> Tensor:
    """What a network or a file gives as one tensor (N, 4 + classes, positions).

    Args:
        size: (height, width) of the images.

    Raises:
        UserError: there are several outputs, which are not named by strides, or by others than their maps have.
    """
    outputs = read_outputs(outputs)
    if isinstance(outputs, Tensor):
        return outputs
    if not (strides := strides_of(outputs)):
        raise UserError(
            f"the network gives {', '.join(outputs)}; a detector gives a dict of classes_8 and boxes_8, named by their"
            " stride, or one tensor (N, 4 + classes, positions)"
        )
    for stride in strides:
        wanted = [math.ceil(side / stride) for side in size]
        for name in (f"classes_{stride}", f"boxes_{stride}"):
            if list(outputs[name].shape[2:]) != wanted:
                raise UserError(
                    f"the network's {name} is of the shape {tuple(outputs[name].shape)}, but at a stride of {stride},"
                    f" images of {size[0]} x {size[1]} have {wanted[0]} x {wanted[1]} positions; name outputs by their"
                    " stride"
                )
    return joined(outputs)


def loss(outputs: Tensor, targets: Tensor, size: Sequence[int]) -> Tensor:
    """Of each image, (N,): the cross entropy of all scores with what `assign` wants, weighted by how far they are from
    it, so that the many positions without an object do not outweigh a rare class; and one minus the generalized overlap
    of the boxes that learn; both over what is to be learned in all images, in mean.

    Args:
        size: (height, width) of the images.
    """
    outputs, targets = outputs.float(), _without_padding(targets)
    boxes, logits = outputs[:, :4].transpose(1, 2), outputs[:, 4:].transpose(1, 2)
    positions = positions_of(size, outputs.shape[2])
    positions = positions._replace(centres=positions.centres.to(outputs.device))
    learned = assign(logits.detach().sigmoid(), boxes.detach(), targets, positions)
    total = learned.scores.sum().clamp(min=1) / len(outputs)
    far = (logits.sigmoid() - learned.scores).abs().pow(FOCUS)
    entropy = (far * F.binary_cross_entropy_with_logits(logits, learned.scores, reduction="none")).sum(2)
    rows = learned.objects.unsqueeze(2).expand(-1, -1, 4)
    apart = 1 - overlap(boxes, targets[:, :, 1:5].gather(1, rows), generalized=True)
    weighted = apart * learned.scores.sum(2) * learned.learning
    return ((entropy * ~learned.ignored).sum(1) + BOX_WEIGHT * weighted.sum(1)) / total


def _without_padding(targets: Tensor) -> Tensor:
    """The boxes of each image before its padding, as many rows as the image with the most has."""
    is_padding = targets[:, :, 0] < 0
    order = is_padding.long().argsort(dim=1, stable=True).unsqueeze(2).expand(-1, -1, targets.shape[2])
    most = max(1, int((~is_padding).sum(1).max()))
    return targets.gather(1, order)[:, :most]


@full_precision
def distillation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """What a student learns of its teacher's scores and boxes, counted by how sure the teacher is of a position.

    The divergence of each class's probability, softened, times T^2, and BOX_WEIGHT times one minus the generalized
    overlap of the boxes, weighted by the teacher's highest score; both over the sum of those scores.

    Shapes: both (B, 4 + classes, positions) -> scalar.
    """
    refuse_unless(
        student.shape == teacher.shape, "detection", student, teacher, "both need the same classes and strides"
    )
    sure = teacher[:, 4:].sigmoid().amax(1)
    total = sure.sum().clamp(min=1)
    logits, shares = student[:, 4:] / temperature, (teacher[:, 4:] / temperature).sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, shares, reduction="sum")
    lowest = F.binary_cross_entropy(shares, shares, reduction="sum")
    apart = 1 - overlap(student[:, :4].transpose(1, 2), teacher[:, :4].transpose(1, 2), generalized=True)
    return ((entropy - lowest) * temperature**2 + BOX_WEIGHT * (apart * sure).sum()) / total


def decode(kept: Tensor) -> Tensor:
    """Boxes are what is predicted."""
    return kept


def score(kept: Tensor, targets: Tensor, classes: int) -> Scores:
    """COCO's mean average precision with its bootstrap interval over images; that at an overlap of 0.5; by class."""
    by_class_matches = matches(kept, targets, classes)
    values = mean_precision(by_class_matches)[0]
    by_class = [average_precision(one)[0].mean() for one in by_class_matches]
    primary = Metric(
        name="map",
        title="mAP",
        note="mean average precision at overlaps of 0.5 to 0.95, as COCO's",
        value=float(values.mean()),
        interval=interval(by_class_matches, len(targets)),
        interval_by="bootstrap over images",
    )
    loose = Metric(name="map50", title="mAP50", note="at an overlap of 0.5", value=float(values[0]))
    return Scores(primary, (loose,), tuple(None if np.isnan(one) else float(one) for one in by_class))


def agreement(one: Tensor, other: Tensor) -> float:
    """The share of the boxes of both models that the other has, too: of the same class, overlapping by 0.95.

    Counted are boxes that are named and drawn (SHOWN_SCORE); the other's may be less likely.
    """
    matched = shown = 0
    for boxes, others in zip(one.numpy(), other.numpy(), strict=True):
        for first, second in ((boxes, others), (others, boxes)):
            counted = first[(first[:, 0] >= 0) & (first[:, 5] >= SHOWN_SCORE)]
            pool = second[second[:, 0] >= 0]
            same = (overlaps(counted[:, 1:5], pool[:, 1:5]) >= SAME_BOX) & (counted[:, None, 0] == pool[:, 0])
            matched, shown = matched + int(same.any(1).sum()), shown + len(counted)
    return matched / shown if shown else 1.0


def likeness(one: Tensor, teacher: Tensor) -> Metric:
    return Metric(name="agreement", title="boxes as the teacher's", value=agreement(one, teacher))


def change(one: Tensor, before: Tensor) -> Metric:
    value = 1 - agreement(one, before)
    return Metric(name="flips", title="boxes changed against float32", value=value, higher_is_better=False)
