"""born_again(): each generation of a network teaches the next."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from distiq.data.splits import Data
from distiq.distillation.distil import distil
from distiq.distillation.teacher import Ensemble, LiveTeacher, freeze
from distiq.progress import Watch
from distiq.recipe.data import ViewSettings
from distiq.recipe.distil import DistilSettings
from distiq.recipe.part import changed
from distiq.recipe.training import TrainingSettings
from distiq.records.training import TrainingRecord
from distiq.tasks.task import Task


@dataclass(frozen=True)
class Generation:
    """One trained network and how its training went."""

    model: nn.Module
    training: TrainingRecord


def born_again(
    student: nn.Module,
    data: Data,
    generations: int = 3,
    settings: DistilSettings | None = None,
    training: TrainingSettings | None = None,
    *,
    views: ViewSettings | None = None,
    seed: int = 0,
    task: Task | None = None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> list[Generation]:
    """Trains the student on labels, then again from the start with the generation before as its teacher, and so on.

    Furlanello et al. 2018, "Born-again neural networks" (arXiv:1805.04770). `ensemble` joins the generations.

    Args:
        generations: networks in all; the first has no teacher.
        settings: what a generation learns from the one before; its teacher is live.
        checkpoint: a file to resume from; each generation adds its number to the name.
    """
    settings = changed(settings or DistilSettings(), {"teacher": "live"})
    made: list[Generation] = []
    for number in range(generations):
        teacher = made[-1].model if made else None
        model, record = distil(
            student,
            teacher,
            data,
            settings if made else settings.without_teacher(),
            training,
            views=views,
            seed=seed + number,
            task=task,
            stage=f"generation {number + 1}",
            checkpoint=checkpoint.with_name(f"{checkpoint.stem}-{number + 1}{checkpoint.suffix}")
            if checkpoint
            else None,
            watch=watch,
        )
        made.append(Generation(model, record))
    return made


def ensemble(generations: list[Generation]) -> Ensemble:
    """All generations as one teacher, which the paper finds better than any of them."""
    return Ensemble([LiveTeacher(freeze(generation.model)) for generation in generations])
