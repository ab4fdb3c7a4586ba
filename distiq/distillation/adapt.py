"""A teacher that was trained with other preprocessing, or with its classes in another order, on this data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distiq.data.images import Images
from distiq.data.splits import Data
from distiq.device.run import nfc
from distiq.errors import UserError
from distiq.models.adapted import Adapted, Refit
from distiq.models.predictor import are_independent_probabilities, are_probabilities, log_odds, logarithms
from distiq.models.signature import one_output
from distiq.progress import Watch
from distiq.recipe.training import TeacherPreprocessing
from distiq.tasks.choose import task_of

SAMPLES = 32  # on which a network's outputs are looked at


def adapted(
    network: nn.Module, data: Data, own: TeacherPreprocessing, watch: Watch | None = None, trained: bool = True
) -> nn.Module:
    """The network, fed as it was trained and giving logits of the data's classes; itself where nothing differs.

    Logits are computed where a network ends in a softmax, or for several labels in a sigmoid, with a note.

    Args:
        trained: its weights are trained; the outputs of random ones may lie between 0 and 1 by chance.

    Raises:
        UserError: the data are no images and `own` is of images, does not fit their channels, or lacks a class.
    """
    view = refit(data, own.mean, own.std, own.size, own.channels == "bgr")
    columns = columns_of(data, own.labels) if own.labels else None
    decoding, logits = task_of(data).decoding, None
    if gives_probabilities(network, data, view) and (trained or decoding == "softmax"):
        logits = logarithms if decoding == "softmax" else log_odds
        if watch:
            taken = "their logarithms are" if decoding == "softmax" else "their log odds are"
            watch.note(
                f"teacher: its outputs are probabilities (it ends in a {decoding}); {taken} taken as logits, and its"
                ' layers are named behind "network."'
            )
    if view is None and columns is None and logits is None:
        return network
    return Adapted(network, view, columns, logits)


@torch.no_grad()
def gives_probabilities(network: nn.Module, data: Data, view: Refit | None = None) -> bool:
    """Whether a network gives probabilities of classes or labels for samples of the data, seen through its view."""
    if (decoding := task_of(data).decoding) not in ("softmax", "sigmoid"):
        return False
    was_training = network.training
    inputs = data.normalize(data.calibration.drawn(SAMPLES).inputs)
    try:
        outputs = one_output(network.eval()(inputs if view is None else view(inputs)))
    except (UserError, RuntimeError, ValueError, TypeError):
        return False  # the check of networks says why
    finally:
        network.train(was_training)
    looks_so = are_probabilities if decoding == "softmax" else are_independent_probabilities
    return outputs.ndim == 2 and outputs.is_floating_point() and looks_so(outputs.float())


def example_of(data: Data, own: TeacherPreprocessing) -> Tensor:
    """(1, ...) zeros of the form that the teacher sees."""
    return torch.zeros(1, data.sample_shape[0], *own.size) if own.size else data.example


def refit(
    data: Data, mean: Sequence[float], std: Sequence[float], size: Sequence[int], reverse: bool = False
) -> Refit | None:
    """The transform from the data's inputs to a teacher's; None if they agree. Empty arguments mean the data's values.

    Args:
        mean, std: per channel, of pixels in 0..1, in the order that the teacher reads. size: (height, width).
        reverse: the teacher reads BGR.

    Raises:
        UserError: the data are no images, or have other channels.
    """
    if not (mean or std or size or reverse):
        return None
    images = data.preprocessing
    if not isinstance(images, Images):
        raise UserError(
            f"teacher.preprocessing: mean, std, size and channels are of images, the data are {data.noun}; leave them"
            " out"
        )
    channels, height, width = images.shape
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (0, channels):
            raise UserError(
                f"teacher.preprocessing.{name}: {len(numbers)} numbers, but the images have {channels} channels; give"
                f" {channels}"
            )
    if reverse and channels != 3:
        raise UserError(f'teacher.preprocessing.channels = "bgr", but the images have {channels} channel; leave it out')
    order = slice(None, None, -1 if reverse else 1)
    after = (tuple(mean) or images.mean[order], tuple(std) or images.std[order])
    target = (size[0], size[1]) if size else (height, width)
    return Refit((images.mean, images.std), after, (height, width), target, reverse)


def columns_of(data: Data, labels: Sequence[str]) -> tuple[int, ...]:
    """Where the data's classes stand among a teacher's labels.

    Raises:
        UserError: samples have no classes, or the teacher lacks one; both lists are shown.
    """
    if (task := task_of(data)).decoding not in ("softmax", "sigmoid"):
        raise UserError(f"teacher.preprocessing.labels is for classes, but the task is {task.name}; leave it out")
    labels = [nfc(label) for label in labels]
    if missing := [name for name in data.classes if name not in labels]:
        raise UserError(
            f"the teacher does not know {', '.join(map(repr, missing))}. The teacher's classes: {', '.join(labels)}."
            f" The data's classes: {', '.join(data.classes)}"
        )
    return tuple(labels.index(name) for name in data.classes)
