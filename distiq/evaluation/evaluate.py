"""evaluate(): how good a model is on a labelled split. Eager, simulated and deployed models go through here alike."""

from functools import partial

import torch
from torch import Tensor

from distiq.data.samples import Split
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.models.signature import Predict
from distiq.records.quality import Quality
from distiq.tasks.choose import task_of
from distiq.tasks.score import kept, score
from distiq.tasks.task import Task
from distiq.training.padding import TRIED, takes_any_length, without_padding

CHUNK = 250


@torch.no_grad()
def outputs(predict: Predict, data: Data, samples: Split, task: Task | None = None) -> Tensor:
    """The outputs for every sample, in order, (N, outputs, ...) float32, or what the task keeps of them."""
    task, text = task or task_of(data), data.preprocessing
    if not isinstance(text, Text):
        return torch.cat([kept(task, predict(data.normalize(part))) for part in samples.chunks(CHUNK)])
    order = text.lengths(samples.inputs).argsort(stable=True)
    shortest = samples.fetch(order[:TRIED])
    run = partial(without_padding, predict, text) if takes_any_length(predict, text, shortest) else predict
    parts = [kept(task, run(samples.fetch(part))) for part in order.split(CHUNK)]
    return torch.cat(parts)[order.argsort()]


def evaluate(
    predict: Predict,
    data: Data,
    samples: Split | None = None,
    *,
    task: Task | None = None,
    teacher: Tensor | None = None,
    float_student: Tensor | None = None,
) -> Quality:
    """How good a model is on a split.

    Args:
        predict: normalized inputs (B, ...) -> outputs (B, outputs, ...): a network, or what a runtime's `load` returns.
        samples: the test split by default.
        task: that of the data by default.
        teacher, float_student: outputs of others for the same samples, to compare predictions with.

    Raises:
        UserError: an output is not finite, or there are not as many as the task needs.
    """
    samples = samples or data.test
    task = task or task_of(data)
    own = outputs(predict, data, samples, task)
    return score(task, own, samples.labels, teacher=teacher, float_student=float_student)
