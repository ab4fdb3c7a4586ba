"""Texts whose tokens have a tag each: words become tokens, and long texts overlapping windows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.conll import OUTSIDE
from distiq.data.labels import UNLABELLED
from distiq.data.part_file import HELD_SHARE, part_files
from distiq.data.samples import Loaded, Split, in_memory
from distiq.data.tagged import SHOWN, Sentence, Tagged, read_tagged, with_columns
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder, load_tokenizer, train_tokenizer
from distiq.device.run import pieces_of, special_around, windows_of
from distiq.errors import UserError
from distiq.recipe.data import DataSettings

PACKAGED = Path(__file__).parent / "wnut17"
"""Derczynski et al. 2017, "Results of the WNUT2017 shared task on novel and emerging entity recognition"; CC BY 4.0."""


class Aligned(NamedTuple):
    """Token numbers (N, L) and the tag of each token (N, L) int16: that of a word stands at its first token."""

    inputs: Tensor
    labels: Tensor
    notes: tuple[str, ...]


def entities(settings: DataSettings) -> Loaded:
    """The texts of a recipe whose words have tags: `data.source` is "entities".

    Raises:
        UserError: a file cannot be read, or holds what is no tag; the message says where.
    """
    own, of_text = settings.entities, settings.text
    folder = Path(settings.folder) if settings.folder else PACKAGED
    found = part_files(folder, own.train, own.test, settings.validation_part, "data.entities")
    paths = [path for path in found[:3] if path is not None]
    own, notes_of_columns = with_columns(found.train, own)
    parts = [read_tagged(path, own) for path in paths]
    files = [path.name for path in paths]
    if found.holds_out:
        parts, files = _held_out(parts), [*files, found.train.name]
    if of_text.tokenizer:
        tokenizer = load_tokenizer(of_text.tokenizer)
    else:
        tokenizer = train_tokenizer([" ".join(one.words) for one in parts[0].sentences], of_text.vocabulary)
    encoder = TextEncoder(tokenizer, of_text.length)
    tags = tag_names([sentence for part in parts for sentence in part.sentences])
    splits: list[Split] = []
    notes = [*found.notes, *notes_of_columns, *_unseen(parts, files)]
    for file, part in zip(files, parts, strict=True):
        aligned = align(part.sentences, encoder, tags, file)
        splits.append(in_memory(aligned.inputs, aligned.labels))
        notes += [*part.notes, *aligned.notes]
    validation = splits[2] if len(splits) > 2 else None
    return Loaded(tags, splits[0], splits[1], Text.of(encoder), tuple(notes), validation)


def _held_out(parts: Sequence[Tagged]) -> list[Tagged]:
    """Training and test sentences, and behind them those of the training that are held out, evenly spread."""
    train, test = parts
    is_held = [number % HELD_SHARE == HELD_SHARE // 2 for number in range(len(train.sentences))]
    left, held = ([one for one, chosen in zip(train.sentences, is_held, strict=True) if chosen == part] for part in
                  (False, True))  # fmt: skip
    if not held:
        raise UserError(
            f"{len(train.sentences)} training sentences are too few to hold some out; give a validation file"
        )
    return [Tagged(left, train.notes), test, Tagged(held, ())]


def tag_names(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """O, then the tags of each label by its letters, such as B-person, I-person; B and I always both, in BIOES all."""
    tags = {tag for sentence in sentences for tag in sentence.tags} - {OUTSIDE}
    prefixes = "BIES" if any(tag[0] in "ES" for tag in tags) else "BI"
    tags = {f"{prefix}-{tag[2:]}" for tag in tags for prefix in prefixes}
    return OUTSIDE, *sorted(tags, key=lambda tag: (tag[2:], "BIES".index(tag[0])))


def _unseen(parts: Sequence[Tagged], files: Sequence[str]) -> Iterator[str]:
    """Sentences about kinds of spans that no training text shows."""
    known, *others = ([tag[2:] for one in part.sentences for tag in one.tags if tag[0] in "BS"] for part in parts)
    seen = set(known)
    for file, kinds in zip(files[1:], others, strict=True):
        strange = [kind for kind in kinds if kind not in seen]
        if strange:
            named = ", ".join(sorted(set(strange))[:SHOWN])
            yield f"{file}: {len(strange):,} spans are of kinds that no training text shows ({named}): they are missed"


def align(sentences: Sequence[Sentence], encoder: TextEncoder, tags: Sequence[str], where: str) -> Aligned:
    """Sentences as token numbers; those longer than `encoder.length` as overlapping windows, of which each word counts
    in one. Windows meet where no span is cut.

    Raises:
        UserError: a tag is none of `tags`.
    """
    encoder.bare()
    numbers = {tag: number for number, tag in enumerate(tags)}
    front, behind = special_around(encoder.tokenizer)
    most = encoder.length - len(front) - len(behind)
    rows, labels, parted, longest = [], [], 0, 0
    for sentence in sentences:
        if strange := next((tag for tag in sentence.tags if tag not in numbers), ""):
            raise UserError(f'{where}: the tag "{strange}" is none of the training texts, which have {", ".join(tags)}')
        pieces = [own[:most] for own in pieces_of(encoder.tokenizer, sentence.words)]
        sizes = [len(own) for own in pieces]
        windows = windows_of(sizes, most, [tag[0] in "OBS" for tag in [*sentence.tags, OUTSIDE]])
        parted, longest = parted + (len(windows) > 1), max(longest, sum(sizes))
        for window in windows:
            row, label = [*front], [UNLABELLED] * len(front)
            for place in range(window.begin, window.end):
                counts = window.own_begin <= place < window.own_end
                row += pieces[place]
                label += [numbers[sentence.tags[place]] if counts else UNLABELLED, *[UNLABELLED] * (sizes[place] - 1)]
            padding = encoder.length - len(row) - len(behind)
            rows.append([*row, *behind, *[encoder.pad] * padding])
            labels.append([*label, *[UNLABELLED] * (len(behind) + padding)])
    notes = []
    if parted:
        notes.append(
            f"{where}: {parted:,} of {len(sentences):,} sentences are longer than {encoder.length} tokens (the longest"
            f" has {longest:,}); read in overlapping windows, of which each word counts in one"
        )
    return Aligned(torch.tensor(rows, dtype=torch.int64), torch.tensor(labels, dtype=torch.int16), tuple(notes))
