"""load(): the data that a recipe names, split and checked."""

from dataclasses import replace
from pathlib import Path

import torch

from distiq.data.audio import Audio, audio_folder, audio_manifest, spoken_digits
from distiq.data.images import FASHION_MNIST_CLASSES, Images, fashion_mnist, image_folder, packaged_fashion_mnist
from distiq.data.preprocessing import Preprocessing
from distiq.data.samples import Split
from distiq.data.splits import Data, split
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
            classes, train, test, of_rows, notes = table(settings)
            return _split(settings, classes, train, test, seed, of_rows, notes)
        case "text":
            classes, train, test, of_texts, notes = texts(settings)
            return _split(settings, classes, train, test, seed, of_texts, notes)
        case unknown:
            raise UserError(
                f'data.source: "{unknown}" is unknown; take "fashion_mnist", "folder", "spoken_digits", "audio",'
                ' "adult", "table", "text" or "file.py:function"'
            )
    return _split(settings, classes, train, test, seed, Images(train.samples.shape, train.samples.dtype))


def _load_audio(settings: DataSettings, seed: int) -> Data:
    folder = Path(settings.folder)
    if settings.source == "spoken_digits":
        clips = spoken_digits(settings.audio)
    elif settings.audio.manifest:
        clips = audio_manifest(folder, settings.audio)
    else:
        clips = audio_folder(folder, settings.audio)
    return _split(settings, clips.classes, clips.train, clips.test, seed, Audio.of(settings.audio), clips.notes)


def _split(
    settings: DataSettings,
    classes: tuple[str, ...],
    train: Split,
    test: Split,
    seed: int,
    preprocessing: Preprocessing,
    notes: tuple[str, ...] = (),
) -> Data:
    train = _spread(train, settings.train, NOUNS[preprocessing.modality])
    held_out = settings.validation, settings.calibration
    return replace(split(settings.source, classes, train, test, *held_out, seed, preprocessing), notes=notes)


def _spread(samples: Split, count: int, noun: str) -> Split:
    if count > len(samples):
        raise UserError(f"data.train = {count}, but there are only {len(samples)} training {noun}; lower it or use 0")
    # Evenly spread: the samples of a folder are sorted by class, and the first would miss the last classes.
    return samples.take(torch.arange(count) * len(samples) // count) if count else samples
