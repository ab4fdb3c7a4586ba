"""evaluate(): how good a model is on a labelled split. Eager, simulated and deployed models go through here alike."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.samples import Split
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.models.signature import Predict, one_output
from distiq.records.quality import Quality
from distiq.tasks.choose import task_of
from distiq.tasks.score import kept, score
from distiq.tasks.task import Task

CHUNK = 250
TRIED, ALIKE = 4, 0.05
"""Texts on which to try whether padding changes outputs, and by what share of the largest it may: as int8 ranges do."""


@torch.no_grad()
def outputs(predict: Predict, data: Data, samples: Split, task: Task | None = None) -> Tensor:
    """The outputs for every sample, in order, (N, outputs, ...) float32, or what the task keeps of them."""
    task, text = task or task_of(data), data.preprocessing
    if not isinstance(text, Text):
        return torch.cat([kept(task, predict(data.normalize(part))) for part in samples.chunks(CHUNK)])
    order = text.lengths(samples.inputs).argsort(stable=True)
    run = partial(_without_padding, predict, text) if _takes_any_length(predict, text, samples, order) else predict
    parts = [kept(task, run(samples.fetch(part))) for part in order.split(CHUNK)]
    return torch.cat(parts)[order.argsort()]


def _without_padding(predict: Predict, text: Text, inputs: Tensor) -> Tensor:
    """Outputs for tokens (B, L), computed without what is padding in every row; tags of padding are zero."""
    found = one_output(predict(text.trimmed(inputs).contiguous()))
    return F.pad(found, (0, inputs.shape[1] - text.trimmed(inputs).shape[1])) if found.ndim == 3 else found


def _takes_any_length(predict: Predict, text: Text, samples: Split, order: Tensor) -> bool:
    """Whether padding does not change the outputs for the shortest texts, and so may be left out."""
    inputs = samples.fetch(order[:TRIED])
    if text.trimmed(inputs).shape == inputs.shape:
        return False
    try:
        short = _without_padding(predict, text, inputs)
    except Exception:  # whatever the runtime of a file that takes one length only raises
        return False
    whole = one_output(predict(inputs))
    return short.shape == whole.shape and bool((short - whole).abs().max() <= ALIKE * whole.abs().max())


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
