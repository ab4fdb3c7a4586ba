"""Texts for embeddings: what is learned from needs no labels, what is measured on are pairs with scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.pair_columns import PairColumns, find_columns, read_named
from distiq.data.part_file import HELD_SHARE, part_files
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
    columns: PairColumns


def sentences(settings: DataSettings, seed: int) -> Data:
    """The texts of a recipe: `data.source` is "pairs".

    Validation and test samples are pairs of consecutive texts, which share a score.

    Raises:
        UserError: a file cannot be read, or a pair that is measured on has no score.
    """
    folder, own, of_text = Path(settings.folder), settings.pairs, settings.text
    found = part_files(folder, own.train, own.test, settings.validation_part, "data.pairs")
    train_file, test_file = found.train, found.test
    tested = _read(test_file, own)
    test = _scored(tested, test_file)
    train = learned_from = _read(train_file, own, tested.columns)
    steering_file, steering = train_file, train
    if found.validation:
        steering_file = found.validation
        steering = _scored(_read(steering_file, own, tested.columns), steering_file)
    else:
        count = len(train.first) // HELD_SHARE if found.holds_out else int(settings.validation)
        train, steering = _held_out(train, count, seed, train_file)
    held = {*steering.first, *steering.second}
    texts = [text for text in dict.fromkeys([*train.first, *train.second]) if text.strip() and text not in held]
    if len(texts) < settings.calibration + 2:
        raise UserError(
            f"{train_file}: {len(texts)} texts cannot give {settings.calibration} for calibration and leave any"
            " to learn from; lower data.calibration"
        )
    tokenizer = load_tokenizer(of_text.tokenizer) if of_text.tokenizer else train_tokenizer(texts, of_text.vocabulary)
    encoder = TextEncoder(tokenizer, of_text.length)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    learned, calibrated = order[settings.calibration :], order[: settings.calibration]
    notes = [*found.notes, *_said_of_columns(test_file, tested, own)]
    if learned_from.columns[:2] != tested.columns[:2]:
        notes += _said_of_columns(train_file, learned_from, own)
    if both := len({*texts} & {*test.first, *test.second}):
        notes.append(f"{both:,} of the test texts are training texts, too, which are learned from without scores")

    def split(texts: Sequence[str], scores: Tensor, where: str) -> Split:
        encoded = encoder.encode(texts, where)
        notes.extend(encoded.notes)
        return in_memory(encoded.inputs, scores.float())

    def alone(numbers: Sequence[int], score: float) -> Split:
        return split([texts[number] for number in sorted(numbers)], torch.full((len(numbers),), score), train_file.name)

    def paired(pairs: Pairs, where: str) -> Split:
        both = [text for pair in zip(pairs.first, pairs.second, strict=True) for text in pair]
        return split(both, pairs.scores.repeat_interleave(2), where)

    return Data(
        settings.source, (tested.columns.score,), alone(learned, math.nan), paired(steering, steering_file.name),
        alone(calibrated, 0.0), paired(test, test_file.name), Text.of(encoder), notes=tuple(dict.fromkeys(notes)),
        task=EMBEDDING,
    )  # fmt: skip


def _read(path: Path, own: PairSettings, like: PairColumns | None = None) -> Pairs:
    """The texts of a file; its second column and its scores where it has them.

    Args:
        like: the columns of another file, which are taken where this one has them, too.
    """
    table = read_named(path, own.header)
    columns = (
        like if like and like.first in table and {like.second} <= {"", *table} else find_columns(table, own, str(path))
    )
    first = table[columns.first]
    second, cells = (table.get(name, [""] * len(first)) for name in (columns.second, columns.score))
    scores = torch.tensor([_number(cell, path, row) for row, cell in enumerate(cells, start=1)])
    return Pairs(first, second, scores, columns)


def _said_of_columns(path: Path, pairs: Pairs, own: PairSettings) -> list[str]:
    """What was found, where the recipe names no columns."""
    if own.first and own.second and own.score:
        return []
    texts = " and ".join(f'"{name}"' for name in pairs.columns[:2] if name)
    scores = f', scores from "{pairs.columns.score}"' if pairs.columns.score else ""
    return [f"{path.name}: texts are read from {texts}{scores}; data.pairs.first, second and score name others"]


def _number(cell: str, path: Path, row: int) -> float:
    if not cell:
        return math.nan
    try:
        score = float(cell)
    except ValueError:
        score = math.inf
    if math.isinf(score):
        raise UserError(f'{path}: row {row} has the score "{cell}", which is no number; correct it')
    return score


def _scored(pairs: Pairs, path: Path) -> Pairs:
    """The pairs, of which each has two texts and a score."""
    for texts, column in zip((pairs.first, pairs.second), pairs.columns[:2], strict=True):
        bare = next((row for row, text in enumerate(texts, start=1) if not text.strip()), 0)
        if not bare:
            continue
        named = f'in the column "{column}"' if column else "beside it: the file has one column of texts alone"
        raise UserError(
            f"{path}: row {bare} has no text {named}; what is measured on are pairs of texts with a score each"
        )
    if missing := int(pairs.scores.isnan().sum()):
        row = int(pairs.scores.isnan().nonzero()[0]) + 1
        column = f' in the column "{pairs.columns.score}"' if pairs.columns.score else ""
        raise UserError(
            f"{path}: {missing} of {len(pairs.scores)} pairs have no score{column}, row {row} the first;"
            " what is measured on needs one each (training texts need none)"
        )
    if len(pairs.scores) < FEWEST or len(pairs.scores.unique()) < 2:
        raise UserError(
            f"{path}: {len(pairs.scores)} pairs with {len(pairs.scores.unique())} scores rank nothing; what is measured"
            f" on needs {FEWEST} pairs at least, and two scores"
        )
    return pairs


def _held_out(train: Pairs, count: int, seed: int, path: Path) -> tuple[Pairs, Pairs]:
    """Without so many scored pairs, drawn at random, and those."""
    with_score = (~train.scores.isnan()).nonzero().flatten()
    if len(with_score) < count:
        raise UserError(
            f"{path}: {len(with_score)} pairs have a score, but {count} are to be held out to steer by; name a file of"
            " pairs with scores in data.validation"
        )
    if count < FEWEST:
        raise UserError(
            f"{path}: {count} of {len(with_score)} pairs with scores, held out to steer by, rank nothing; hold out"
            f" more, such as data.validation = {FEWEST}, or name a file of pairs there"
        )
    drawn = with_score[torch.randperm(len(with_score), generator=torch.Generator().manual_seed(seed))[:count]]
    held = set(drawn.tolist())
    kept = [row for row in range(len(train.first)) if row not in held]

    def rows(numbers: Sequence[int]) -> Pairs:
        return Pairs(
            [train.first[row] for row in numbers], [train.second[row] for row in numbers], train.scores[list(numbers)],
            train.columns,
        )  # fmt: skip

    return rows(kept), _scored(rows(sorted(held)), path)
