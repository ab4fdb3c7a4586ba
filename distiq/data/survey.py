"""What lies in a folder that a user brings: images, clips, rows or texts, and the figures that a recipe is made of."""

import csv
import json
import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from distiq.data.annotations import has_annotations, read_part
from distiq.data.annotations import has_part as has_boxes
from distiq.data.audio import CLIP_SUFFIXES
from distiq.data.columns import SUFFIXES as COLUMN_SUFFIXES
from distiq.data.columns import read_columns, sorted_classes
from distiq.data.folders import class_names, part_places, walk
from distiq.data.images import IMAGE_SUFFIXES
from distiq.data.mask_colours import classes_of
from distiq.data.masks import VOID, has_masks, images_of
from distiq.data.part_file import find_part, measured_part, part_names
from distiq.data.sound import read_sound
from distiq.data.survey_words import SAMPLED, Names, Speech, names_in, speech_in, spread
from distiq.data.unread import unread
from distiq.device.run import MISSING
from distiq.errors import UserError

LABEL_NAMES = ("label", "labels", "class", "target", "y", "category", "sentiment", "income", "species", "price")
PAIRS = (("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"), ("text_a", "text_b"))
TEXT_WORDS = 4  # words on average from which a column holds texts
MOST_CLASSES = 200
MOST_CATEGORIES = 100  # of one column; more make a name or a key


class Images(NamedTuple):
    """train/<class>/ and test/<class>/ of images; `size` is the median of (height, width)."""

    folder: Path
    classes: tuple[str, ...]
    train: int
    test: int
    size: tuple[int, int]
    channels: int


class Clips(NamedTuple):
    """Clips of sound, in class folders or named by a manifest; most are no longer than `seconds`."""

    folder: Path
    classes: tuple[str, ...]
    train: int
    test: int
    rate: int
    seconds: float
    manifest: str = ""
    held_out: tuple[str, ...] = ()


class Rows(NamedTuple):
    """Two files of rows, the column of the class, and what the other columns hold.

    Where `label` is a column of numbers, `classes` is empty.
    """

    folder: Path
    classes: tuple[str, ...]
    train: int
    parts: tuple[str, str]
    header: tuple[str, ...]
    label: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    left_out: tuple[str, ...]


class Texts(NamedTuple):
    """Two files of texts, the columns of text and class; most texts have no more than `words` words.

    `pair` is the column of a second text. Where `label` is a column of numbers, `classes` is empty.
    """

    folder: Path
    classes: tuple[str, ...]
    train: int
    parts: tuple[str, str]
    header: tuple[str, ...]
    text: str
    label: str
    words: int
    pair: str


class Scenes(NamedTuple):
    """Images with masks or boxes; `size` is the median of (height, width). Of masks, classes may have no names.
    `validation` is a third part, empty where there is none."""

    folder: Path
    source: Literal["masks", "boxes"]
    classes: tuple[str, ...]
    train: int
    test: int
    size: tuple[int, int]
    validation: str = ""


Survey = Images | Clips | Speech | Rows | Texts | Names | Scenes


def survey(path: Path) -> Survey:
    """What lies at `path`: a folder with train and test parts, a manifest of clips, or a file of training rows.

    Raises:
        UserError: nothing that a recipe could read; the message says what was there and how it must lie.
    """
    if path.is_dir() and (speech := speech_in(path)):
        return speech
    if path.is_file() and (tagged := names_in(path)):
        return tagged
    if path.is_file() and path.suffix.lower() in COLUMN_SUFFIXES:
        return _manifest(path) or _columns(path.parent, path.name, _test_file(path))
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name the folder of your data, or its file of training rows")
    if has_annotations(path) or has_masks(path):
        return _scenes(path)
    if not _has_classes(path) and (why := unread(path)):
        raise UserError(why)
    if _has_train(path):
        return _class_folders(path)
    if tagged := next((names for file in find_part(path, "train") if (names := names_in(file))), None):
        return tagged
    if files := sorted(file for file in path.iterdir() if file.suffix.lower() in COLUMN_SUFFIXES):
        if listed := next((clips for file in files if (clips := _manifest(file))), None):
            return listed
        train = next((file for file in files if file.stem.lower().startswith("train")), None)
        if train is None:
            some = ", ".join(file.name for file in files[:5])
            raise UserError(f"{path}: holds {some}, but no training rows; call their file train{files[0].suffix}")
        return _columns(path, train.name, _test_file(train))
    inside = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    folders = [entry.name for entry in inside]
    if known := next((one for one in inside if has_annotations(one) or has_masks(one) or _has_train(one)), None):
        raise UserError(f"{path}: holds no data itself; {known} does: name that folder")
    if folders and any((path / folders[0]).iterdir()):
        raise UserError(
            f"{path}: holds the folders {', '.join(folders[:5])}, but no train and test; move them to"
            f" {path / 'train'}, and a part of each class's files to {path / 'test'}, so that nothing is measured on"
            " what was learned"
        )
    raise UserError(
        f"{path}: holds nothing that distiq reads; it takes train/<class>/ and test/<class>/ of images or clips,"
        f" or train and test as {', '.join(COLUMN_SUFFIXES)}"
    )


def _has_train(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in part_names("train"))


def _has_classes(folder: Path) -> bool:
    """Whether a folder's training part has folders, such as of classes."""
    parts = (place for name in part_names("train") if (place := folder / name).is_dir())
    return any(entry.is_dir() for place in parts for entry in place.iterdir())


def _scenes(folder: Path) -> Scenes:
    if has_annotations(folder):
        measured = measured_part(partial(has_boxes, folder), "", folder)[0]
        parts = [read_part(folder, part) for part in ("train", measured)]
        files = [image.file for image in parts[0].images]
        if not files:
            raise UserError(f"{folder}: its train part annotates no image; there is nothing to learn")
        own = "val" if measured == "test" and has_boxes(folder, "val") else ""
        return Scenes(folder, "boxes", parts[0].names, len(files), len(parts[1].images), _image_form(files)[0], own)
    train, test = (images_of(folder, part) for part in ("train", "test"))
    own = "val" if has_masks(folder, "test") and has_masks(folder, "val") else ""
    return Scenes(folder, "masks", classes_of(folder, VOID).names, len(train), len(test), _image_form(train)[0], own)


# Folders of classes ---------------------------------------------------------------------------------------------------


def _class_folders(folder: Path) -> Images | Clips:
    places, _ = part_places(folder, "")
    classes = class_names(places["train"])
    parts = [_files(places[part]) for part in ("train", "test")]
    images, clips = ([[f for f in files if f.suffix.lower() in kinds] for files in parts] for kinds in
                     (IMAGE_SUFFIXES, CLIP_SUFFIXES))  # fmt: skip
    if not any(images) and not any(clips):
        kinds = ", ".join((*IMAGE_SUFFIXES, *CLIP_SUFFIXES))
        raise UserError(f"{folder}: its class folders hold no file that distiq reads ({kinds}); add some")
    of_images = len(images[0]) >= len(clips[0])
    train, test = images if of_images else clips
    if not test:
        raise UserError(f"{folder / 'test'}: holds nothing to measure on; move a part of each class's files there")
    if of_images:
        size, channels = _image_form(train)
        return Images(folder, classes, len(train), len(test), size, channels)
    rate, seconds = _clip_form(train)
    return Clips(folder, classes, len(train), len(test), rate, seconds)


def _files(part: Path) -> list[Path]:
    return sorted(walk(part)) if part.is_dir() else []


def _image_form(files: Sequence[Path]) -> tuple[tuple[int, int], int]:
    from PIL import Image

    sizes, grey = [], True
    for file in spread(files):
        try:
            with Image.open(file) as image:
                sizes.append((image.height, image.width))
                grey = grey and image.mode in ("1", "L", "I;16")
        except OSError as error:
            raise UserError(f"{file}: this image does not decode ({error}); repair or remove it") from error
    heights, widths = zip(*sizes, strict=True)
    return (int(statistics.median(heights)), int(statistics.median(widths))), 1 if grey else 3


def _clip_form(files: Sequence[Path]) -> tuple[int, float]:
    """The most common rate, and a length in seconds that 19 of 20 clips keep to."""
    sounds = [read_sound(file) for file in spread(files)]
    lengths = sorted(len(sound.samples) / sound.rate for sound in sounds)
    longest = lengths[math.ceil(0.95 * len(lengths)) - 1]
    return statistics.mode(sound.rate for sound in sounds), max(0.1, math.ceil(10 * longest) / 10)


def _manifest(file: Path) -> Clips | None:
    """The clips of a manifest with the columns path, label, and speaker or split; None where it is none."""
    names, header = _header(file)
    if header or not {"path", "label"} <= set(names) or not {"speaker", "split"} & set(names):
        return None
    which = "split" if "split" in names else "speaker"
    columns = read_columns(file, ("path", "label", which))
    held_out = () if which == "split" else (max(columns["speaker"]),)
    test = sum(value in ("test", *held_out) for value in columns[which])
    rate, seconds = _clip_form([file.parent / path for path in columns["path"]])
    classes, train = sorted_classes(columns["label"]), len(columns["path"]) - test
    return Clips(file.parent, classes, train, test, rate, seconds, file.name, held_out)


# Files of columns -----------------------------------------------------------------------------------------------------


def _test_file(train: Path) -> str:
    for name in ("test", "valid", "validation", "dev"):
        if (file := train.with_name(f"{name}{train.suffix}")).is_file():
            return file.name
    raise UserError(
        f"{train.parent}: no test{train.suffix} beside {train.name}; put a part of the rows there, to measure on"
    )


def _header(file: Path) -> tuple[list[str], tuple[str, ...]]:
    """The names of a file's columns; and, where its first line is no header, the names that a recipe gives them."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_schema(file).names), ()
    if kind in (".json", ".jsonl"):
        with file.open(encoding="utf-8-sig") as opened:
            rows = json.load(opened) if kind == ".json" else [json.loads(opened.readline() or "{}")]
        return list(rows[0]) if isinstance(rows, list) and rows else [], ()
    with file.open(encoding="utf-8-sig", newline="") as opened:
        first = next(csv.reader(opened, delimiter="\t" if kind == ".tsv" else ","), [])
    names = [name.strip() for name in first]
    if all(names) and not any(_is_number(name) or len(name.split()) > TEXT_WORDS for name in names):
        return names, ()
    generic = ("text", "label") if len(names) == 2 else tuple(f"column_{n}" for n in range(1, len(names) + 1))
    return list(generic), generic


def _columns(folder: Path, train: str, test: str) -> Rows | Texts:
    names, header = _header(folder / train)
    if len(names) < 2:
        raise UserError(f"{folder / train}: has {len(names)} column(s); a text or some features and a label are needed")
    columns = read_columns(folder / train, names, header)
    few = {name: values[:: max(1, len(values) // SAMPLED)] for name, values in columns.items()}
    texts = [name for name, values in few.items() if _is_text(values)]
    label = _label({name: values for name, values in columns.items() if name not in texts})
    classes = sorted_classes(columns[label]) if _is_class(columns[label]) else ()
    count, parts = len(columns[label]), (train, test)
    if texts:
        first, second = _text_columns({name: few[name] for name in texts}, header)
        lengths = sorted(
            len(f"{text} {other}".split()) for text, other in zip(few[first], few[second or first], strict=True)
        )
        words = lengths[math.ceil(0.95 * len(lengths)) - 1] // (1 if second else 2)
        return Texts(folder, classes, count, parts, header, first, label, words, second)
    numeric, categorical, left_out = _kinds({name: values for name, values in columns.items() if name != label})
    return Rows(folder, classes, count, parts, header, label, numeric, categorical, left_out)


def _text_columns(texts: dict[str, list[str]], header: tuple[str, ...]) -> tuple[str, str]:
    """The column of the longest text; or both, where two are compared: by their names, or as nameless twins."""
    pair = next((pair for pair in PAIRS if set(pair) <= set(texts)), None)
    if pair or (header and len(texts) == 2):
        first, second = pair or texts
        return first, second
    return max(texts, key=lambda name: sum(map(len, texts[name]))), ""


def _label(columns: dict[str, list[str]]) -> str:
    """The column of the class: by its name, else the last one of few values, else one of numbers."""
    lower = {name.lower(): name for name in reversed(list(columns))}
    classes = [name for name, values in columns.items() if _is_class(values)]
    rated = [name for name, values in columns.items() if all(map(_is_number, values))]
    named = [lower[name] for name in LABEL_NAMES if lower.get(name) in (*classes, *rated)]
    if not (named or classes or rated):
        raise UserError(
            f"no column of classes (2 to {MOST_CLASSES} values) or of numbers among {', '.join(columns)};"
            " `distiq init --all` writes a recipe to fill in by hand"
        )
    return (named[:1] or classes[-1:] or rated[-1:])[0]


def _is_class(values: Sequence[str]) -> bool:
    """Few values, and none a fraction."""
    distinct = set(values)
    whole = all(not _is_number(value) or float(value).is_integer() for value in distinct)
    return 2 <= len(distinct) <= MOST_CLASSES and whole


def _kinds(features: dict[str, list[str]]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Columns of numbers, of categories, and those that teach nothing: of one value, or of a new one in most rows."""
    numeric: list[str] = []
    categorical: list[str] = []
    left_out: list[str] = []
    for name, values in features.items():
        given = [value for value in values if value not in MISSING]
        distinct = len(set(given))
        if distinct < 2:
            left_out.append(name)
        elif all(_is_number(value) for value in given):
            numeric.append(name)
        else:
            (categorical if distinct <= MOST_CATEGORIES else left_out).append(name)
    return tuple(numeric), tuple(categorical), tuple(left_out)


def _is_text(values: Sequence[str]) -> bool:
    return sum(len(value.split()) for value in values) >= TEXT_WORDS * len(values) and len(set(values)) > 1


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
