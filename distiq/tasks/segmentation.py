"""Segmentation: one of several classes for each pixel."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.labels import VOID, Labels
from distiq.recipe.recipe import Recipe
from distiq.records.quality import Metric
from distiq.tasks.classification import kd
from distiq.tasks.intervals import bootstrap_interval
from distiq.tasks.task import Advice, Scores, Task, Taught

RARE = 1.02  # of Paszke et al. 2016
SMALL = 1.0  # pixels that keep the overlap of a class without any from being 0 / 0


def segmentation(labels: Labels) -> Task:
    """Logits (N, classes, H, W) and targets (N, H, W) uint8, 255 where a pixel belongs to no class.

    Networks may give coarser maps, which are enlarged bilinearly to learn from, and to the nearest to be scored.
    """
    count = len(labels.classes)
    return Task(
        name="segmentation",
        predicts=f"one of {count} classes for each pixel",
        outputs=count,
        loss=loss,
        distillation=kd,
        decode=decode,
        keep=class_map,
        score=lambda outputs, targets: score(outputs, targets, count),
        agreement=agreement,
        change=change,
        likeness=likeness,
        advise=advise,
        decoding="mask",
        class_dimension=1,
        class_figure="IoU",
        places=lambda targets: tuple(targets.shape[1:]),
        refuses=refuses,
        counts=lambda kept, targets: confusion(kept, targets, count).flatten(1).double(),
        of_counts=partial(summed, classes=count),
    )


def refuses(recipe: Recipe) -> str:
    """What no task with a prediction at each place can do."""
    if recipe.views.mixup or recipe.views.cutmix:
        return "views.mixup and views.cutmix blend images, whose boxes and masks cannot be; set both to 0"
    if recipe.distil.cache.storage != "float16":
        return f'distil.cache.storage = "{recipe.distil.cache.storage}" stores a row a sample; take "float16"'
    if any(loss.name == "dkd" for loss in recipe.distil.losses):
        return "dkd needs one label a sample; use kd"
    if recipe.teacher.preprocessing.labels:
        return "teacher.preprocessing.labels orders rows of logits; order the outputs in the teacher itself"
    return ""


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, and one minus the overlap of what is predicted and what is there, of each image, (N,).

    Void pixels count for nothing. A class counts the more, the fewer pixels of these images it has: 1 / log(RARE +
    share), as Paszke et al. 2016 (arXiv:1606.02147, section 5.2), of mean 1 over the pixels; where it counts as any
    other, thin things are never found in a few thousand steps. The second part is the soft Dice loss (Milletari et al.
    2016, arXiv:1606.04797), mean over the classes that an image shows.
    """
    logits = (
        F.interpolate(outputs.float(), targets.shape[1:], mode="bilinear") if _is_coarse(outputs, targets) else outputs
    )
    labelled = (targets != VOID).unsqueeze(1)
    logs = logits.float().log_softmax(1)
    classes = torch.arange(outputs.shape[1], device=outputs.device).view(1, -1, 1, 1)
    there = (targets.unsqueeze(1) == classes).float()
    counts = there.sum((2, 3))
    share = counts.sum(0) / counts.sum().clamp(min=1)
    weights = 1 / torch.log(RARE + share)
    weights = weights / (weights * share).sum().clamp(min=SMALL)
    entropy = -((logs * there).sum((2, 3)) * weights).sum(1) / counts.sum(1).clamp(min=1)
    shares = logs.exp() * labelled
    overlap = (2 * (shares * there).sum((2, 3)) + SMALL) / (shares.sum((2, 3)) + counts + SMALL)
    shown = (counts > 0).float()
    return entropy + ((1 - overlap) * shown).sum(1) / shown.sum(1).clamp(min=1)


def _is_coarse(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.shape[2:] != targets.shape[1:]


def class_map(outputs: Tensor) -> Tensor:
    """The likeliest class of each pixel: (N, classes, H, W) -> (N, H, W) uint8."""
    return outputs.argmax(1).to(torch.uint8)


def decode(kept: Tensor) -> Tensor:
    """Class maps are what is predicted."""
    return kept


def agreement(one: Tensor, other: Tensor) -> float:
    """The share of the pixels of both class maps that are the same."""
    return float((one == other).double().mean())


def likeness(one: Tensor, teacher: Tensor) -> Metric:
    return Metric(name="agreement", title="pixels as the teacher's", value=agreement(one, teacher))


def change(one: Tensor, before: Tensor) -> Metric:
    value = 1 - agreement(one, before)
    return Metric(name="flips", title="pixels changed against float32", value=value, higher_is_better=False)


def confusion(kept: Tensor, targets: Tensor, classes: int) -> Tensor:
    """How often each class was predicted where each is right, of each image: (N, right, predicted) int64."""
    if _is_coarse(kept.unsqueeze(1), targets):
        kept = F.interpolate(kept.unsqueeze(1).float(), targets.shape[1:], mode="nearest").squeeze(1).to(torch.uint8)
    counts = []
    for own, right in zip(kept, targets, strict=True):
        labelled = right != VOID
        pairs = right[labelled].long() * classes + own[labelled].long()
        counts.append(pairs.bincount(minlength=classes**2).view(classes, classes))
    return torch.stack(counts)


def unions(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of each class, and whether there is any: (..., classes) of (..., right, predicted)."""
    hits = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - hits
    return hits / union.clamp(min=1), union > 0


def mean_union(counts: Tensor) -> Tensor:
    """The mean over the classes that there are, of counts (..., right, predicted)."""
    values, there = unions(counts)
    return (values * there).sum(-1) / there.sum(-1).clamp(min=1)


def score(kept: Tensor, targets: Tensor, classes: int) -> Scores:
    """Mean intersection over union (mIoU) with its bootstrap interval over images; right pixels; the union by class."""
    counts = confusion(kept, targets, classes).double()
    total = counts.sum(0)
    values, there = unions(total)
    right = float(total.diagonal().sum() / total.sum().clamp(min=1))
    primary = Metric(
        name="miou",
        title="mIoU",
        note="mean intersection over union of the classes",
        value=float(mean_union(total)),
        interval=bootstrap_interval(counts.flatten(1), partial(summed, classes=classes)),
        interval_by="bootstrap over images",
    )
    per_class = tuple(float(value) if has else None for value, has in zip(values, there, strict=True))
    return Scores(primary, (Metric(name="pixel_accuracy", title="right pixels", value=right),), per_class)


def summed(counts: Tensor, classes: int) -> Tensor:
    """mIoU of flat sums of counts, (..., classes * classes)."""
    return mean_union(counts.unflatten(-1, (classes, classes)))


def advise(taught: Taught) -> Advice:
    """What the teacher measures, and classes that it never finds."""
    facts = [f"teacher: {taught.quality.in_words} on the validation split"]
    if blind := [number for number, value in enumerate(taught.quality.per_class) if value == 0]:
        names = ", ".join(str(number) for number in blind)
        return Advice(
            facts, [f"the teacher finds nothing of the classes numbered {names}; train it longer, or give it more"]
        )
    return Advice(facts, [])
