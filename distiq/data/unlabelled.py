"""Training samples without labels: a teacher alone says what they are."""

from dataclasses import replace
from pathlib import Path

import torch

from distiq.data.audio import CLIP_SUFFIXES, Audio
from distiq.data.columns import read_lines
from distiq.data.folders import walk
from distiq.data.holdout import repeated, spread_over_labels
from distiq.data.images import IMAGE_SUFFIXES, Images, read_images
from distiq.data.pack import Store
from distiq.data.samples import InMemory, Samples, Split
from distiq.data.splits import Data, with_unlabelled
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder
from distiq.errors import UserError


def with_files(data: Data, place: Path, store: Store | None) -> Data:
    """The data with the images or clips of a folder, sub-folders and all, or the lines of a file of texts, as training
    samples without labels.

    Raises:
        UserError: nothing is there, a file does not decode, or the samples are rows of a table.
    """
    preprocessing = data.preprocessing
    samples: Samples
    match preprocessing:
        case Images():
            files = _files(place, IMAGE_SUFFIXES, "images")
            (samples,) = read_images([files], preprocessing.shape, store, preprocessing.letterbox)
        case Audio():
            clips = _files(place, CLIP_SUFFIXES, "clips")
            samples = InMemory(torch.stack([preprocessing.read(str(file))[0] for file in clips]))
        case Text():
            encoder = TextEncoder(preprocessing.tokenizer, preprocessing.shape[0], preprocessing.kept)
            lines = [line for line in read_lines(place) if line.strip()]
            samples = InMemory(encoder.encode(lines, str(place)).inputs)
        case _:
            raise UserError("data.unlabelled is for images, clips and texts; rows of a table without a label are read")
    joined = with_unlabelled(data, samples)
    said = f"{place}: {len(samples):,} training {data.noun} without labels: the teacher alone says what they are"
    twice = repeated(data.test, Split(samples, torch.zeros(len(samples))), "test", data.noun)
    return replace(joined, notes=(*joined.notes, said, *([twice] if twice else [])))


def with_fewer_labels(data: Data, count: int) -> Data:
    """The data with the labels of so many training samples alone, of every class the same share.

    Raises:
        UserError: there are fewer samples, or a class would lose its last label.
    """
    labels = data.train.labels
    if count > len(labels):
        raise UserError(f"data.labelled = {count}, but {len(labels)} training {data.noun} are left; lower it or use 0")
    if count < 2 * len(data.classes):
        raise UserError(
            f"data.labelled = {count} gives {len(data.classes)} classes fewer than two labels each; raise it"
        )
    kept = torch.zeros(len(labels), dtype=torch.bool)
    kept[spread_over_labels(labels, count)] = True
    fewer = labels.clone()
    fewer[~kept] = data.labels.form.missing
    said = f"the labels of {count:,} of {len(labels):,} training {data.noun} are kept (data.labelled)"
    return replace(data, train=Split(data.train.samples, fewer), notes=(*data.notes, said))


def _files(place: Path, suffixes: tuple[str, ...], what: str) -> tuple[Path, ...]:
    if not place.is_dir():
        raise UserError(f"data.unlabelled: no such folder: {place}; correct the path, or leave it out")
    files = tuple(sorted(file for file in walk(place) if file.suffix.lower() in suffixes))
    if not files:
        raise UserError(f"data.unlabelled: {place} holds no {what} ({', '.join(suffixes)}); leave it out")
    return files
