"""Texts: how they become token numbers, and where they come from: named columns of files or of a hub."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from distiq.data.columns import (
    Columns,
    groups_of,
    label_flags,
    label_numbers,
    label_sets,
    read_columns,
    set_flags,
    sorted_classes,
    target_numbers,
)  # fmt: skip
from distiq.data.hub import HubColumns, hub_columns
from distiq.data.samples import Encoded, Loaded, Samples, Split, in_chunks, in_memory, name_of
from distiq.data.tokenizer import TextEncoder, check_same_tokens, load_tokenizer, train_tokenizer
from distiq.device.run import special_around
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TextSettings
from distiq.records.record import Modality


class Words(NamedTuple):
    """What a view of a text needs to know: the mask token's number, the tokens that it leaves alone, and all others
    of the training texts, each as often as it occurs, (K,)."""

    mask: int | None
    special: Tensor
    pool: Tensor


@dataclass(frozen=True)
class Text:
    """How texts become inputs: token numbers, cut at a length, padded behind.

    Args:
        shape: (L,), the most tokens of a text, or of two together.
        vocabulary: how many numbers tokens may have.
        pad, unknown, mask: numbers of the tokens that pad, stand for what is unknown, and hide others.
        special: numbers of all tokens that stand for no piece of text.
        pair: two texts are judged together.
        separator: of pairs, the token that ends the first text, where what follows counts as a second segment.
        tokenizer: its JSON; empty where token numbers came from elsewhere.
        kept: of a model with a trimmed vocabulary, the tokens that it knows: see `bitmap`.
        fixed_length: tokens of every text that the file takes; 0 where it takes any number up to L.
    """

    shape: tuple[int, ...]
    vocabulary: int
    pad: int = 0
    unknown: int | None = None
    mask: int | None = None
    special: tuple[int, ...] = ()
    pair: bool = False
    separator: int | None = None
    tokenizer: str = ""
    kept: str = ""
    fixed_length: int = 0

    modality: ClassVar[Modality] = "text"
    raw_name: ClassVar[str] = ""
    form: ClassVar[str] = "(N, L) token numbers as int64"
    dtype: ClassVar[torch.dtype] = torch.int64
    input_dtype: ClassVar[torch.dtype] = torch.int64
    has_lengths: ClassVar[bool] = True

    @classmethod
    def of(cls, encoder: TextEncoder) -> Self:
        return cls(
            (encoder.length,),
            encoder.vocabulary,
            encoder.pad,
            encoder.unknown,
            encoder.mask,
            encoder.special_tokens,
            encoder.pair,
            encoder.separator,
            encoder.as_text(),
        )

    def fits(self, inputs: Samples) -> bool:
        """Whether samples have the form of token numbers."""
        return len(inputs.shape) == 1 and inputs.dtype == torch.int64

    def fitted(self, samples: Samples) -> Self:
        """With numbers for every token that occurs, where no tokenizer says how many there are."""
        most = 0 if self.tokenizer else max((int(chunk.max()) + 1 for chunk in in_chunks(samples)), default=0)
        return replace(self, vocabulary=max(self.vocabulary, most))

    def normalize(self, inputs: Tensor) -> Tensor:
        """Token numbers are what the network sees."""
        return inputs

    @cached_property
    def encoder(self) -> TextEncoder:
        """Read once: the JSON of 30,000 tokens takes 50 ms, a text less than 0.1."""
        return TextEncoder(self.tokenizer, self.shape[0], self.kept, self.pair)

    def encode(self, sample: str, where: str, second: str = "") -> Encoded:
        """Token numbers (1, L) of a text, or of two.

        Raises:
            UserError: a text is empty or is no Unicode text, or no tokenizer is known.
        """
        if not self.tokenizer:
            raise UserError(f"{where}: this bundle cannot read raw texts; it predicts prepared inputs")
        seconds = [second] if self.pair else []
        inputs, notes = self.encoder.encode([sample], "the text", not self.fixed_length, seconds)
        if os.path.isfile(sample):
            notes = (f"{sample}: a file is called so, but its name is what was read; give texts themselves", *notes)
        return Encoded(inputs, notes)

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens in front of a text and behind it; none where no tokenizer says so."""
        if not self.tokenizer:
            return (), ()
        front, behind = special_around(TextEncoder(self.tokenizer, self.shape[0]).tokenizer)
        return tuple(front), tuple(behind)

    @property
    def pads_left(self) -> bool:
        """Whether the tokenizer pads in front, as its networks read texts. Here padding is behind all the same."""
        padding = (json.loads(self.tokenizer).get("padding") if self.tokenizer else None) or {}
        return padding.get("direction") == "Left"

    def lengths(self, inputs: Tensor) -> Tensor:
        """How many tokens (B, L) there are without the padding behind, (B,)."""
        return (inputs != self.pad).long().sum(1)

    def trimmed(self, inputs: Tensor) -> Tensor:
        """Token numbers (B, L) without what is padding in every row."""
        return inputs[:, : max(2, int(self.lengths(inputs).max()))]

    def attention_mask(self, inputs: Tensor) -> Tensor:
        """Ones at tokens (B, L), zeros at padding, int64."""
        return (inputs != self.pad).long()

    def words(self, inputs: Tensor) -> Words:
        """What views of the training texts (N, L) need to know."""
        special = torch.tensor(sorted({self.pad, *self.special}))
        tokens = inputs.flatten()
        return Words(self.mask, special, tokens[~torch.isin(tokens, special)])

    def used_tokens(self, parts: Iterable[Tensor]) -> tuple[int, tuple[int, ...]]:
        """The number of the unknown token (of padding, where there is none), and all tokens that occur in the parts,
        ascending, with those two and the mask token."""
        unknown = self.pad if self.unknown is None else self.unknown
        is_used = torch.zeros(self.vocabulary, dtype=torch.bool)
        for part in parts:
            is_used[part.flatten()] = True
        is_used[[self.pad, unknown, *([] if self.mask is None else [self.mask])]] = True
        return unknown, tuple(is_used.nonzero().flatten().tolist())

    def check_weights(self, folder: Path, where: str) -> None:
        """Raises UserError if a network's folder has another tokenizer."""
        if self.tokenizer:
            check_same_tokens(self.tokenizer, folder, where)

    def facts(self) -> dict[str, Any]:
        """What the record of the data says of it."""
        return {}

    def to_json(self) -> dict[str, Any]:
        own = asdict(self) | {"shape": list(self.shape), "special": list(self.special)}
        return {"modality": self.modality, "raw": name_of(self.dtype), **own}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        own = {field.name: value[field.name] for field in fields(cls)}
        return cls(**own | {"shape": tuple(value["shape"]), "special": tuple(value["special"])})


def texts(settings: DataSettings) -> Loaded:
    """The texts of a recipe: `data.source` is "text".

    Raises:
        UserError: a file or a column is missing, a text is empty, a label is unknown; the message says where.
    """
    of_text = settings.text
    targets = of_text.labels or (of_text.target or of_text.label,)
    columns = (of_text.text, *([of_text.pair] if of_text.pair else []))
    needed = tuple(dict.fromkeys((*columns, *targets, *([of_text.group] if of_text.group else []))))
    files = (*of_text.parts, *([settings.validation_part] if settings.validation_part else []))
    parts = [_read(settings, file, needed) for file in files]
    train = parts[0].columns
    learned_from = [text for column in columns for text in train[column]]
    tokenizer = (
        load_tokenizer(of_text.tokenizer) if of_text.tokenizer else train_tokenizer(learned_from, of_text.vocabulary)
    )
    encoder = TextEncoder(tokenizer, of_text.length, pair=bool(of_text.pair))
    labels = _label_names(of_text, parts[0])
    if of_text.names and len(of_text.names) != len(labels):
        raise UserError(
            f"data.text.names: {len(of_text.names)} names, but the labels are {', '.join(labels)}; give each one"
        )
    splits: list[Split] = []
    notes: list[str] = []
    for file, part in zip(files, parts, strict=True):
        rows = part.columns
        encoded = encoder.encode(rows[of_text.text], file, seconds=rows[of_text.pair] if of_text.pair else ())
        splits.append(in_memory(encoded.inputs, _labels(of_text, rows, labels, file)))
        notes += [*encoded.notes, *(note for note in part.notes if note not in notes)]
    groups = groups_of([part.columns for part in parts], of_text.group, files) if of_text.group else ()
    names = of_text.names or labels
    validation = splits[2] if settings.validation_part else None
    return Loaded(names, splits[0], splits[1], Text.of(encoder), tuple(notes), validation, groups)


def _read(settings: DataSettings, part: str, needed: Sequence[str]) -> HubColumns:
    """The columns of a file, or of a hub's split."""
    of_text, path = settings.text, Path(settings.folder) / part
    if of_text.hub:
        rows = hub_columns(of_text.hub, of_text.subset, part, needed)
    else:
        rows = HubColumns(read_columns(path, needed, of_text.header), {})
    if not rows.columns[of_text.text]:
        raise UserError(f"{of_text.hub or path}{f', split {part}' if of_text.hub else ''}: holds no text")
    return rows


def _label_names(settings: TextSettings, rows: HubColumns) -> tuple[str, ...]:
    """The labels of the training rows, as the files write them, or in the hub's order; of numbers their column."""
    if settings.labels or settings.target:
        return settings.labels or (settings.target,)
    if in_order := rows.classes.get(settings.label):
        return in_order
    cells = rows.columns[settings.label]
    sets = label_sets(cells, settings.separator) if settings.separator else [[cell] for cell in cells]
    return sorted_classes(name for names in sets for name in names)


def _labels(settings: TextSettings, rows: Columns, names: tuple[str, ...], where: str) -> Tensor:
    """(N,) classes, (N, labels) of 0 and 1, or (N,) numbers."""
    if settings.target:
        return target_numbers(rows[settings.target], settings.target, where)
    if settings.labels:
        return label_flags([rows[name] for name in names], names, where)
    if settings.separator:
        return set_flags(label_sets(rows[settings.label], settings.separator), names, where)
    return label_numbers(rows[settings.label], names, where)
