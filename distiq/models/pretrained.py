"""A transformers classifier from a folder or hub name: its labels in the data's order, its head trained or to be."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

NAMELESS = re.compile(r"LABEL_\d+")


def pretrained_classifier(
    auto: Any, weights: str, classes: int, names: Sequence[str], finished: bool, options: dict[str, Any]
) -> Any:
    """The classifier that transformers' class `auto` loads.

    Args:
        weights: the folder or hub name.
        names: of the classes. If the weights name their labels, those of the data are picked out by name; labels
            called LABEL_0, LABEL_1 ... are taken in the order of the classes.
        finished: it answers as it is. Otherwise it is trained on, and gets a new head where its own does not fit.
        options: of the config.

    Raises:
        ValueError: it is finished, but lacks a class among its labels or holds no trained head.
    """
    import transformers

    labels = _labels(transformers.AutoConfig.from_pretrained(weights), names, finished)
    with quiet(transformers):
        model, found = auto.from_pretrained(
            weights,
            num_labels=len(labels) or classes,
            ignore_mismatched_sizes=not finished,
            output_loading_info=True,
            **options,
        )
    drawn = [key for key in found["missing_keys"] if not key.startswith(model.base_model_prefix)]
    if finished and drawn:
        raise ValueError(f"it holds no trained classifier ({drawn[0]} is missing): set teacher.finetune = true")
    if labels:
        _order(model, [labels.index(label) for label in names])
    return model


def keep_rows(linear: nn.Linear, kept: Tensor) -> None:
    """Leaves those rows of the weight and the bias, in place."""
    linear.weight = nn.Parameter(linear.weight.detach()[kept].clone())
    linear.bias = nn.Parameter(linear.bias.detach()[kept].clone())
    linear.out_features = len(kept)


def _labels(config: Any, names: Sequence[str], finished: bool) -> tuple[str, ...]:
    """The labels of the weights where each class is among them by name; none where a new or nameless head serves."""
    labels = tuple(config.id2label[number] for number in sorted(config.id2label))
    if not names or all(NAMELESS.fullmatch(label) for label in labels):
        return ()
    missing = [name for name in names if name not in labels]
    if missing and finished:
        raise ValueError(
            f"it does not know {', '.join(map(repr, missing))}. Its labels: {', '.join(labels)}. The data's classes:"
            f" {', '.join(names)}. Call the classes by its labels, or set teacher.finetune = true, which trains a new"
            " head"
        )
    return () if missing else labels


def _order(model: Any, rows: Sequence[int]) -> None:
    """Leaves those rows of the last layer, in this order."""
    head = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ][-1]
    keep_rows(head, torch.tensor(rows))
    labels = [model.config.id2label[row] for row in rows]
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """A new head is no surprise here."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
