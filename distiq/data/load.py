"""load(): the data that a recipe names, split and checked."""

import re
import tempfile
from pathlib import Path
from typing import Literal

from distiq.data.audio import audio_folder, audio_manifest, spoken_digits, with_further
from distiq.data.boxes import boxed_images, packaged_bccd
from distiq.data.entities import entities
from distiq.data.holdout import spread_over_labels
from distiq.data.hub import hub_folder
from distiq.data.images import FASHION_MNIST_CLASSES, Images, fashion_mnist, image_folder, packaged_fashion_mnist
from distiq.data.masks import masked_images
from distiq.data.pack import Store
from distiq.data.samples import Loaded
from distiq.data.sentences import sentences
from distiq.data.splits import Data, split
from distiq.data.tables import table
from distiq.data.text import texts
from distiq.data.transcripts import spoken_strings, transcripts
from distiq.data.unlabelled import with_fewer_labels, with_files
from distiq.errors import UserError
from distiq.factory import call_factory
from distiq.progress import Silent, Watch
from distiq.recipe.data import DataSettings
from distiq.records.record import NOUNS


def load(settings: DataSettings, seed: int, folder: Path | None = None, watch: Watch | None = None) -> Data:
    """Reads and splits the data.

    Args:
        folder: where a hub's files are written, and images packed that `data.memory_mb` has no room for; by default
            these stand in the system's folder for what is temporary, and all images lie in memory.

    Raises:
        UserError: a source is unknown or a file is missing or wrong; the message names it.
    """
    if ".py:" in settings.source:
        data = call_factory(settings.source, {}, "data.source")
        if not isinstance(data, Data):
            raise UserError(f"data.source: {settings.source} returned {type(data).__name__}; return a distiq.Data")
        return data
    if settings.source == "pairs":
        return sentences(settings, seed)
    store = Store(folder, settings.memory_mb * 10**6, watch or Silent()) if folder else None
    if settings.hub.name:
        loaded = _of_hub(settings, store)
    else:
        loaded = _read(settings, Path(settings.folder), settings.validation_part, store, seed)
    if settings.train:
        loaded = _spread(loaded, settings.train)
    data = split(settings.source, loaded, settings.validation, settings.calibration, seed)
    if settings.labelled:
        data = with_fewer_labels(data, settings.labelled)
    return with_files(data, Path(settings.unlabelled), store) if settings.unlabelled else data


def _of_hub(settings: DataSettings, store: Store | None) -> Loaded:
    """Images or clips of a hub, by way of a folder of files; classes are in the hub's order."""
    kind: Literal["Image", "Audio"] = "Image" if settings.source == "folder" else "Audio"
    own = {"validation": settings.validation_part} if settings.validation_part else {}
    parts = {"train": settings.hub.train, "test": settings.hub.test, **own}
    written = hub_folder(settings.hub, parts, kind, store.folder if store else Path(tempfile.gettempdir()) / "distiq")
    loaded = _read(settings, written.folder, "validation" if own else "", store)
    return loaded._replace(classes=written.classes, notes=(*loaded.notes, *written.notes))


def _read(settings: DataSettings, folder: Path, validation: str, store: Store | None, seed: int = 0) -> Loaded:
    match settings.source:
        case "fashion_mnist":
            train, test = fashion_mnist(folder, settings.download) if settings.folder else packaged_fashion_mnist()
            shape, dtype = train.samples.shape, train.samples.dtype
            return Loaded(FASHION_MNIST_CLASSES, train, test, Images(shape, dtype))
        case "folder":
            return image_folder(folder, (settings.channels, *settings.image_sides), validation, store)
        case "masks":
            shape = (settings.channels, *settings.image_sides)
            return _grouped(masked_images(folder, shape, settings.void, validation, store), settings.group)
        case "bccd" if not settings.folder:
            return packaged_bccd((settings.channels, *settings.image_sides), int(settings.validation))
        case "boxes" | "bccd":
            loaded = boxed_images(folder, (settings.channels, *settings.image_sides), validation, store)
            return _grouped(loaded, settings.group)
        case "spoken_digits":
            return spoken_digits(settings.audio)
        case "audio":
            read = audio_manifest if settings.audio.manifest else audio_folder
            loaded = read(folder, settings.audio, validation)
            return with_further(loaded, Path(settings.further), settings.audio) if settings.further else loaded
        case "adult" | "table":
            return table(settings)
        case "text":
            return texts(settings)
        case "entities":
            return entities(settings)
        case "transcripts":
            return transcripts(settings)
        case "digit_strings":
            return spoken_strings(settings, seed)
        case unknown:
            raise UserError(
                f'data.source: "{unknown}" is unknown; take "fashion_mnist", "folder", "masks", "boxes", "bccd",'
                ' "spoken_digits", "audio", "adult", "table", "text", "entities", "pairs", "transcripts",'
                ' "digit_strings" or "file.py:function"'
            )


def _grouped(loaded: Loaded, pattern: str) -> Loaded:
    """Samples whose names match alike belong together; one that does not match stands alone.

    Raises:
        UserError: none matches.
    """
    if not pattern:
        return loaded
    matches = [re.search(pattern, Path(name).name) for name in loaded.names[0]]
    if not any(matches):
        raise UserError(
            f'data.group = "{pattern}" matches no image\'s name, such as {Path(loaded.names[0][0]).name}; correct it'
        )
    return loaded._replace(groups=tuple(match.group() if match else "" for match in matches))


def _spread(loaded: Loaded, count: int) -> Loaded:
    """Fewer training samples, of every class the same share."""
    total = len(loaded.train)
    if count > total:
        noun = NOUNS[loaded.preprocessing.modality]
        raise UserError(f"data.train = {count}, but there are only {total} training {noun}; lower it or use 0")
    kept = spread_over_labels(loaded.train.labels, count)
    groups, names = (tuple(part[number] for number in kept.tolist()) if part else part for part in
                     (loaded.groups, loaded.names[0]))  # fmt: skip
    return loaded._replace(train=loaded.train.take(kept), groups=groups, names=(names, loaded.names[1]))
