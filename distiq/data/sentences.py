"""Texts for embeddings: what is learned from needs no labels, what is measured on are pairs with scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.columns import read_columns
from distiq.data.samples import Split, in_memory
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder, load_tokenizer, train_tokenizer
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, PairSettings

EMBEDDING = "embedding"  # the task
FEWEST = 3  # pairs that a correlation is of


class Pairs(NamedTuple):
    """Pairs of texts; a score each, NaN where there is none. A text alone has no second."""

    first: list[str]
    second: list[str]
    scores: Tensor


def sentences(settings: DataSettings, seed: int) -> Data:
    """The texts of a recipe: `data.source` is "pairs".

    Validation and test samples are pairs of consecutive texts, which share a score.

    Raises:
        UserError: a file cannot be read, or a pair that is measured on has no score.
    """
    folder, own, of_text = Path(settings.folder), settings.pairs, settings.text
    train = _read(folder / own.train, own)
    test = _scored(_read(folder / own.test, own), folder / own.test, own)
    if settings.validation_part:
        file = folder / settings.validation_part
        steering = _scored(_read(file, own), file, own)
    else:
        train, steering = _held_out(train, int(settings.validation), seed, folder / own.train, own)
    held = {*steering.first, *steering.second}
    texts = [text for text in dict.fromkeys([*train.first, *train.second]) if text.strip() and text not in held]
    if len(texts) < settings.calibration + 2:
        raise UserError(
            f"{folder / own.train}: {len(texts)} texts cannot give {settings.calibration} for calibration and leave any"
            " to learn from; lower data.calibration"
        )
    tokenizer = load_tokenizer(of_text.tokenizer) if of_text.tokenizer else train_tokenizer(texts, of_text.vocabulary)
    encoder = TextEncoder(tokenizer, of_text.length)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    learned, calibrated = order[settings.calibration :], order[: settings.calibration]
    notes: list[str] = []

    def split(texts: Sequence[str], scores: Tensor, where: str) -> Split:
        encoded = encoder.encode(texts, where)
        notes.extend(encoded.notes)
        return in_memory(encoded.inputs, scores.float())

    def alone(numbers: Sequence[int], score: float) -> Split:
        return split([texts[number] for number in sorted(numbers)], torch.full((len(numbers),), score), own.train)

    def paired(pairs: Pairs, where: str) -> Split:
        both = [text for pair in zip(pairs.first, pairs.second, strict=True) for text in pair]
        return split(both, pairs.scores.repeat_interleave(2), where)

    where = settings.validation_part or own.train
    return Data(
        settings.source, (own.score,), alone(learned, math.nan), paired(steering, where),
        alone(calibrated, 0.0), paired(test, own.test), Text.of(encoder), notes=tuple(dict.fromkeys(notes)),
        task=EMBEDDING,
    )  # fmt: skip


def _read(path: Path, own: PairSettings) -> Pairs:
    """The texts of a file; its second column and its scores where it has them."""
    texts = read_columns(path, [own.first], own.header)
    columns = texts | {
        name: values for name in (own.second, own.score) for values in [_optional(path, name, own)] if values
    }
    first = columns[own.first]
    second = columns.get(own.second, [""] * len(first))
    cells = columns.get(own.score, [""] * len(first))
    return Pairs(first, second, torch.tensor([_number(cell, path, row) for row, cell in enumerate(cells, start=1)]))


def _optional(path: Path, name: str, own: PairSettings) -> list[str]:
    """A column that a file of texts to learn from may lack."""
    if own.header and name not in own.header:
        return []
    try:
        return read_columns(path, [name], own.header)[name]
    except UserError as error:
        if "no column" in str(error):
            return []
        raise


def _number(cell: str, path: Path, row: int) -> float:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise UserError(f'{path}: row {row} has the score "{cell}", which is no number; correct it') from None


def _scored(pairs: Pairs, path: Path, own: PairSettings) -> Pairs:
    """The pairs, of which each has two texts and a score."""
    bare = next((row for row, text in enumerate(pairs.second, start=1) if not text.strip()), 0)
    if bare:
        raise UserError(
            f'{path}: row {bare} has no text in the column "{own.second}"; what is measured on are pairs of texts with'
            " a score each"
        )
    if missing := int(pairs.scores.isnan().sum()):
        row = int(pairs.scores.isnan().nonzero()[0]) + 1
        raise UserError(
            f'{path}: {missing} of {len(pairs.scores)} pairs have no score in the column "{own.score}", row {row} the'
            " first; what is measured on needs one each (training texts need none)"
        )
    if len(pairs.scores) < FEWEST or len(pairs.scores.unique()) < 2:
        raise UserError(f"{path}: {len(pairs.scores)} pairs with {len(pairs.scores.unique())} scores rank nothing")
    return pairs


def _held_out(train: Pairs, count: int, seed: int, path: Path, own: PairSettings) -> tuple[Pairs, Pairs]:
    """Without so many scored pairs, drawn at random, and those."""
    with_score = (~train.scores.isnan()).nonzero().flatten()
    if len(with_score) < count:
        raise UserError(
            f"{path}: {len(with_score)} pairs have a score, but data.validation = {count}; name a file of pairs with"
            " scores in data.validation"
        )
    drawn = with_score[torch.randperm(len(with_score), generator=torch.Generator().manual_seed(seed))[:count]]
    held = set(drawn.tolist())
    kept = [row for row in range(len(train.first)) if row not in held]

    def rows(numbers: Sequence[int]) -> Pairs:
        return Pairs(
            [train.first[row] for row in numbers], [train.second[row] for row in numbers], train.scores[list(numbers)]
        )

    return rows(kept), _scored(rows(sorted(held)), path, own)
