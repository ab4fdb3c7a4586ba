"""load(): the data that a recipe names, split and checked."""

from dataclasses import replace
from pathlib import Path

import torch

from distiq.data.audio import audio_folder, audio_manifest, spoken_digits
from distiq.data.images import FASHION_MNIST_CLASSES, fashion_mnist, image_folder, packaged_fashion_mnist
from distiq.data.splits import Data, Split, split
from distiq.data.tables import table
from distiq.data.text import texts
from distiq.errors import UserError
from distiq.factory import call_factory
from distiq.recipe.data import DataSettings
from distiq.records.record import NOUNS


def load(settings: DataSettings, seed: int) -> Data:
    """Reads and splits the data.

    Raises:
        UserError: a source is unknown or a file is missing or wrong; the message names it.
    """
    if ".py:" in settings.source:
        data = call_factory(settings.source, {}, "data.source")
        if not isinstance(data, Data):
            raise UserError(f"data.source: {settings.source} returned {type(data).__name__}; return a distiq.Data")
        return data
    match settings.source:
        case "fashion_mnist":
            classes: tuple[str, ...] = FASHION_MNIST_CLASSES
            folder = Path(settings.folder) if settings.folder else None
            train, test = fashion_mnist(folder, settings.download) if folder else packaged_fashion_mnist()
        case "folder":
            shape = (settings.channels, settings.image_size, settings.image_size)
            classes, train, test = image_folder(Path(settings.folder), shape)
        case "spoken_digits" | "audio":
            return _load_audio(settings, seed)
        case "adult" | "table":
            return _from_table(settings, seed)
        case "text":
            return _from_texts(settings, seed)
        case unknown:
            raise UserError(
                f'data.source: "{unknown}" is unknown; take "fashion_mnist", "folder", "spoken_digits", "audio",'
                ' "adult", "table", "text" or "file.py:function"'
            )
    return _split(settings, classes, train, test, seed)


def _from_table(settings: DataSettings, seed: int) -> Data:
    known = table(settings)
    data = _split(settings, known.classes, known.train, known.test, seed)
    return replace(data, mean=(), std=(), preparation={"table": known.encoding.as_json()}, notes=known.notes)


def _from_texts(settings: DataSettings, seed: int) -> Data:
    known = texts(settings)
    data = _split(settings, known.classes, known.train, known.test, seed)
    return replace(data, preparation=data.preparation | known.preparation, notes=known.notes)


def _split(settings: DataSettings, classes: tuple[str, ...], train: Split, test: Split, seed: int) -> Data:
    train = _spread(train, settings.train)
    return split(settings.source, classes, train, test, settings.validation, settings.calibration, seed)


def _load_audio(settings: DataSettings, seed: int) -> Data:
    folder = Path(settings.folder)
    if settings.source == "spoken_digits":
        clips = spoken_digits(settings.audio)
    elif settings.audio.manifest:
        clips = audio_manifest(folder, settings.audio)
    else:
        clips = audio_folder(folder, settings.audio)
    train = _spread(clips.train, settings.train)
    data = split(settings.source, clips.classes, train, clips.test, settings.validation, settings.calibration, seed)
    return replace(data, rate=clips.rate, notes=clips.notes)


def _spread(samples: Split, count: int) -> Split:
    if count > len(samples):
        raise UserError(
            f"data.train = {count}, but there are only {len(samples)} training {NOUNS[samples.kind]}; lower it or use 0"
        )
    # Evenly spread: the samples of a folder are sorted by class, and the first would miss the last classes.
    return samples.take(torch.arange(count) * len(samples) // count) if count else samples
