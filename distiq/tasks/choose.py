"""Which task a network is trained for: that of the data's labels, or the one that is named."""

import difflib
import functools
from collections.abc import Callable
from pathlib import Path

from distiq.data.labels import (
    BOXES,
    CLASS,
    LABEL_SET,
    MASK,
    NUMBER,
    SHARES,
    SYMBOLS,
    TAGS,
    LabelForm,
    Labels,
)
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.factory import call_factory
from distiq.files import sha256_of_file
from distiq.tasks.classification import classification
from distiq.tasks.detection import detection
from distiq.tasks.embedding import embedding
from distiq.tasks.multi_label import multi_label
from distiq.tasks.regression import regression
from distiq.tasks.segmentation import segmentation
from distiq.tasks.task import Task
from distiq.tasks.tokens import tokens
from distiq.tasks.transcripts import transcript

TASKS: tuple[tuple[LabelForm, Callable[[Labels], Task]], ...] = (
    (CLASS, classification),
    (SHARES, classification),
    (CLASS, embedding),
    (LABEL_SET, multi_label),
    (NUMBER, regression),
    (NUMBER, embedding),
    (TAGS, tokens),
    (MASK, segmentation),
    (BOXES, detection),
    (SYMBOLS, transcript),
)
"""The form of the labels and the task; of tasks with labels of one form the first is taken unless another is named."""


def task_of(data: Data) -> Task:
    """The task that the data names, else that of its labels.

    Raises:
        UserError: there is no task of that name, or its function gives none.
    """
    if ".py:" in data.task:
        return _from_file(data.task, _state(data), data.labels)
    names = list(dict.fromkeys(make.__name__ for _, make in TASKS))
    if data.task and data.task not in names:
        nearest = difflib.get_close_matches(data.task, names, n=1)
        advice = f'did you mean "{nearest[0]}"? ' if nearest else ""
        raise UserError(f'task = "{data.task}": {advice}take one of {", ".join(names)}, or "file.py:function"')
    for form, make in TASKS:
        if form is data.labels.form and data.task in ("", make.__name__):
            return make(data.labels)
    forms = " or ".join(form.sample for form, make in TASKS if make.__name__ == data.task)
    raise UserError(
        f'task = "{data.task}" is for samples with {forms} each, but those of this data have {data.labels.form.sample};'
        " leave task out"
    )


def _state(data: Data) -> str:
    """Changes when the code of the task does."""
    file = Path(data.task.rpartition(":")[0])
    return data.task_code or (sha256_of_file(file) if file.is_file() else "")


@functools.lru_cache(maxsize=8)
def _from_file(reference: str, _state: str, labels: Labels) -> Task:
    """The task that `file.py:function` gives for the labels, made once for each state of its code."""
    task = call_factory(reference, {"labels": labels}, "task")
    if not isinstance(task, Task):
        raise UserError(f"task: {reference} returned {type(task).__name__}; return a distiq.Task")
    return task
