"""Preprocessing: how raw samples become what a network sees, as one value a modality."""

from typing import Any

from distiq.data.audio import Audio
from distiq.data.images import Images
from distiq.data.samples import Samples
from distiq.data.tables import Table
from distiq.data.text import Text
from distiq.errors import UserError
from distiq.records.record import Modality

Preprocessing = Images | Audio | Text | Table
MODALITIES: tuple[type[Preprocessing], ...] = (Images, Audio, Text, Table)


def from_json(value: dict[str, Any]) -> Preprocessing:
    """What `to_json` gave, read back.

    Raises:
        UserError: its modality is none.
    """
    for kind in MODALITIES:
        if value.get("modality") == kind.modality:
            return kind.from_json(value)
    names = ", ".join(kind.modality for kind in MODALITIES)
    raise UserError(f'modality "{value.get("modality")}" is none; it is one of {names}')


def of_tensors(modality: Modality, samples: Samples, normalized: bool, rate: int) -> Preprocessing:
    """The preprocessing of training samples that came as a tensor.

    Args:
        normalized: images or vectors are ready for the network.
        rate: of sound, samples per second.
    """
    shape, dtype = samples.shape, samples.dtype
    channels = shape[0] if shape else 0
    mean, std = ((0.0,) * channels, (1.0,) * channels) if normalized else ((), ())
    match modality:
        case "image":
            return Images(shape, dtype, mean, std)
        case "audio":
            return Audio(shape, rate, dtype)
        case "text":
            return Text(shape, vocabulary=1)
        case "table":
            return Table(shape, None, mean, std)
