"""Embedding: a vector for each sample, learned from a teacher's alone, judged by pairs with a score each or classes."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from distiq.data.labels import CLASS, Labels
from distiq.recipe.recipe import Recipe
from distiq.records.quality import Metric
from distiq.tasks import probes
from distiq.tasks.intervals import fisher_interval
from distiq.tasks.neighbours import nearest, same_neighbours
from distiq.tasks.precision import full_precision
from distiq.tasks.regression import correlation
from distiq.tasks.task import Scores, Task, advise_by_metrics

SAME = 0.999  # the cosine of vectors that agree
NEIGHBOURS = 10
WEIGHT = 0.01  # of pairs that are nothing alike


def embedding(labels: Labels) -> Task:
    """Vectors (N, width) of any width; targets (N,) float32, of which two consecutive samples share one, or classes
    (N,) int64, which only judge: see `probes`."""
    pairs = Task(
        name="embedding",
        predicts="a vector",
        outputs=0,
        loss=loss,
        distillation=similarities,
        decode=lambda outputs: outputs,
        score=score,
        agreement=agreement,
        likeness=likeness,
        change=change,
        refuses=refuses,
        advise=advise_by_metrics,
        decoding="vector",
        together=2,
        tolerance=f"to a cosine of {SAME}",
    )
    if labels.form is not CLASS:
        return pairs
    return replace(pairs, score=probes.score, counts=probes.counts, of_counts=probes.of_counts, together=1)


def loss(outputs: Tensor, _targets: Tensor) -> Tensor:
    """0 for each sample: a score is of two."""
    return 0.0 * outputs.float().sum(1)


@full_precision
def similarities(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean squared difference of the cosines between all samples of the batch, each times `WEIGHT` and the square of
    the teacher's cosine where that is positive: what is near counts most. The temperature means nothing.

    Tung and Mori 2019, "Similarity-preserving knowledge distillation" (arXiv:1907.09682), with cosines in place of
    rows of length 1, and without those of a sample with itself. Widths may differ.

    Shapes: (B, D1), (B, D2).
    """
    own, reference = (F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T for vectors in (student, teacher))
    squares = (own - reference).square() * (reference.clamp(min=0).square() + WEIGHT)
    others = ~torch.eye(len(own), dtype=torch.bool, device=own.device)
    return squares[others].mean() if len(own) > 1 else squares.mean()


def cosines(outputs: Tensor) -> Tensor:
    """Of every two consecutive samples, (N, D) -> (N / 2,) float64."""
    return F.cosine_similarity(outputs[0::2].double(), outputs[1::2].double(), dim=1)


def score(outputs: Tensor, targets: Tensor) -> Scores:
    """Spearman's correlation of the cosines of pairs with their scores, and Pearson's."""
    own, scores = cosines(outputs), targets[0::2].double()
    constant = bool((own == own[0]).all() or (scores == scores[0]).all())
    spearman = 0.0 if constant else float(spearmanr(own, scores)[0])
    return Scores(
        Metric(
            name="spearman", title="Spearman", note="rank correlation of cosines with scores", value=spearman,
            interval=fisher_interval(spearman, len(own)), interval_by="Fisher",
        ),
        (Metric(name="pearson", title="Pearson", note="correlation of cosines", value=correlation(own, scores)),),
    )  # fmt: skip


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of samples whose vectors have a cosine of `SAME` or more."""
    return float((F.cosine_similarity(one.double(), other.double(), dim=1) >= SAME).double().mean())


def likeness(outputs: Tensor, teacher: Tensor) -> Metric:
    """How many of the teacher's nearest neighbours are among as many of the model's."""
    count = min(NEIGHBOURS, len(outputs) - 1)
    value = same_neighbours(outputs, teacher, count).recall if count else 1.0
    return Metric(
        name="neighbours", title="neighbours of the teacher", note=f"recall at {count} against the teacher", value=value
    )


def change(outputs: Tensor, float32: Tensor) -> Metric:
    """Share of samples whose nearest neighbour is another than in float32."""
    moved = (nearest(outputs, 1) != nearest(float32, 1)).double().mean() if len(outputs) > 1 else 0.0
    return Metric(name="moved", title="other nearest than in float32", value=float(moved), higher_is_better=False)


def refuses(recipe: Recipe) -> str:
    """A student learns from the teacher's vectors alone, and the teacher is taken as it is."""
    if recipe.distil.teacher == "none" or not recipe.distil.output_losses:
        return "vectors are learned from a teacher's alone; leave distil.teacher and distil.kd_weight as they are"
    if recipe.teacher.finetune or not (recipe.teacher.weights or recipe.teacher.model.endswith(".onnx")):
        return "the teacher is taken as it is: name its weights in teacher.weights, without finetune"
    return ""
