"""Tokenizers: raw text to token numbers; from a folder or a hub, or trained here.

A tokenizer is a `tokenizers.Tokenizer`; its JSON goes into the bundle, so that it takes raw text.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distiq.data.samples import Encoded
from distiq.device.run import nfc
from distiq.errors import UserError
from distiq.recipe.data import SHORTEST_TEXT

PAD, UNKNOWN, FIRST, LAST, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
PADS = (PAD, "<pad>", "<PAD>")
SHOWN = 5  # tokens named in a message
PROBES = (
    "a", "The End", "caf\u00e9 na\u00efve", "it's 3.14, isn't it?", "two  spaces", "\u6771\u4eac", "\ufb01\u00bd",
    "@home #1 x_y-z", "\U0001f600",
)  # fmt: skip
"""Texts that tokenizers of the same tokens may read otherwise: by case, accents, signs, spaces, widths of letters."""


class TextEncoder:
    """Raw text to token numbers.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, or its JSON.
        length: the most tokens that are kept of a text, or of two together.
        kept: of a model with a trimmed vocabulary, what it knows: see `bitmap`.
        pair: texts come in pairs.

    Raises:
        UserError: the tokenizer's JSON is damaged, it has no token to pad with, or puts none between two texts.
    """

    def __init__(self, tokenizer: Any, length: int, kept: str = "", pair: bool = False) -> None:
        self.tokenizer = _from_json(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.length, self.kept, self.pair = length, kept, pair
        self.cuts_left, self.pads_left = sides_of(self.tokenizer)
        self.vocabulary = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.pad_token = next((token for token in PADS if self.tokenizer.token_to_id(token) is not None), None)
        if self.pad_token is None:
            raise UserError(f"data.text.tokenizer: it has no token to pad with; give it one of {', '.join(PADS)}")
        self.pad = self.tokenizer.token_to_id(self.pad_token)
        self.special = self.tokenizer.num_special_tokens_to_add(pair)
        if pair and self.special <= self.tokenizer.num_special_tokens_to_add(False):
            raise UserError("data.text.pair: the tokenizer puts no token between two texts; take another tokenizer")
        self.unknown = next((n for t in (UNKNOWN, "<unk>") if (n := self.tokenizer.token_to_id(t)) is not None), None)
        if length < self.special + (2 if pair else 1):
            raise UserError(
                f"data.text.length = {length} leaves no room beside {self.special} special tokens; raise it"
            )

    def as_text(self) -> str:
        """The tokenizer's own JSON, without padding and truncation; where it does either in front, it says so."""
        self._rest()
        return self.tokenizer.to_str()

    def _rest(self) -> None:
        """Leaves the tokenizer without padding and truncation, but for the sides of those that are done in front."""
        self.bare()
        if self.cuts_left:
            self.tokenizer.enable_truncation(self.length, direction="left")
        if self.pads_left:
            self.tokenizer.enable_padding(direction="left", pad_id=self.pad, pad_token=self.pad_token)

    def bare(self) -> None:
        """Leaves the tokenizer without padding and truncation."""
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @property
    def mask(self) -> int | None:
        """The token that hides another, where there is one."""
        return next((n for t in (MASK, "<mask>") if (n := self.tokenizer.token_to_id(t)) is not None), None)

    @property
    def special_tokens(self) -> tuple[int, ...]:
        """Tokens that stand for no piece of text, ascending."""
        self.bare()
        added = [number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]
        special = tuple(sorted({*added, *self.tokenizer.encode("").ids}))
        self._rest()
        return special

    @property
    def separator(self) -> int | None:
        """The token that ends the first of two texts, where the tokenizer counts what follows as the second segment.

        Raises:
            UserError: the second segment begins elsewhere.
        """
        if not self.pair:
            return None
        self.bare()
        both = self.tokenizer.encode("a", "a")
        self._rest()
        if 1 not in both.type_ids:
            return None
        first = both.type_ids.index(1)
        if not both.special_tokens_mask[first - 1] or 0 in both.type_ids[first:]:
            raise UserError(
                "data.text.pair: the tokenizer begins the second segment elsewhere than behind the token that ends the"
                " first text; take another tokenizer"
            )
        return both.ids[first - 1]

    def encode(
        self, texts: Sequence[str], where: str, to_longest: bool = False, seconds: Sequence[str] = ()
    ) -> Encoded:
        """Token numbers of the texts, cut at `length` on the tokenizer's side, padded behind to it, or to the longest.

        Args:
            seconds: of pairs, the second text of each. The longer of the two is cut first.

        Raises:
            UserError: a text is empty, or is no Unicode text.
        """
        texts, seconds = ([nfc(text) for text in part] for part in (texts, seconds))
        for part, which in ((texts, ""), (seconds, "second ")):
            for row, text in enumerate(part):
                _check_text(text, f"{where}: {which}text {row + 1}")
        inputs = list(zip(texts, seconds, strict=True)) if self.pair else list(texts)
        self.bare()
        rows = self._numbers(inputs)
        lengths = [len(own) for own in rows]
        if too_long := [place for place, length in enumerate(lengths) if length > self.length]:
            self.tokenizer.enable_truncation(self.length, direction="left" if self.cuts_left else "right")
            for place, cut in zip(too_long, self._numbers([inputs[place] for place in too_long]), strict=True):
                rows[place] = cut
        self._rest()
        width = max(SHORTEST_TEXT, min(self.length, max(lengths))) if to_longest else self.length
        numbers = torch.tensor([own + [self.pad] * (width - len(own)) for own in rows], dtype=torch.int64)
        return Encoded(numbers, tuple(self._notes(lengths, numbers, where)))

    def _numbers(self, inputs: list[Any]) -> list[list[int]]:
        """Token numbers of each text or pair; of one alone without the threads that share a batch."""
        if len(inputs) == 1:
            texts = inputs[0] if self.pair else inputs
            return [self.tokenizer.encode(*texts).ids]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(inputs)]

    def _notes(self, lengths: list[int], numbers: Tensor, where: str) -> list[str]:
        notes: list[str] = []
        if self.kept:
            bits = np.unpackbits(np.frombuffer(base64.b64decode(self.kept), np.uint8))
            strange = numbers[torch.from_numpy(bits)[numbers] == 0].unique().tolist()
            if strange:
                shown = ", ".join(self.tokenizer.id_to_token(number) for number in strange[:SHOWN])
                notes.append(
                    f"{where}: {len(strange)} tokens are none of the model's vocabulary and count as unknown: {shown}"
                )
        if long := [length for length in lengths if length > self.length]:
            notes.append(
                f"{where}: {len(long)} of {len(lengths)} are longer than {self.length} tokens (the longest has"
                f" {max(long)}); cut there{', their beginnings' if self.cuts_left else ''}"
            )
        if self.unknown is not None:
            in_vocabulary = (numbers != self.unknown) & (numbers != self.pad)
            if strange := int((in_vocabulary.sum(1) <= self.special).sum()):
                notes.append(f"{where}: {strange} of {len(lengths)} hold no token that the tokenizer knows")
        return notes


def _from_json(text: str) -> Any:
    """A `tokenizers.Tokenizer` from its JSON; the library raises bare Exceptions, and panics that are none."""
    try:
        return _tokenizers().Tokenizer.from_str(text)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | UserError):
            raise
        raise UserError(f"the tokenizer's JSON is damaged ({error}); copy it again") from error


def sides_of(tokenizer: Any) -> tuple[bool, bool]:
    """Whether a tokenizer cuts texts in front, and whether it pads them there."""
    cut, pad = ((section or {}).get("direction") for section in (tokenizer.truncation, tokenizer.padding))
    return cut == "left", pad == "left"


def _check_text(text: str, where: str) -> None:
    if not text.strip():
        raise UserError(f"{where} is empty; take it out or give it words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds what is no UTF-8, behind {error.start} characters; save it as UTF-8") from error


def bitmap(tokens: Sequence[int], vocabulary: int) -> str:
    """Which of the numbers 0 to `vocabulary` - 1 are among the tokens: a bit for each, in base64."""
    bits = np.zeros(vocabulary, np.uint8)
    bits[list(tokens)] = 1
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def check_same_tokens(tokenizer: str, folder: Path, where: str) -> None:
    """Raises UserError, with the first tokens that differ, if a network's folder has another tokenizer, or with a text
    that becomes other tokens, if one of the same tokens that reads otherwise: in lower case, without accents.

    Args:
        tokenizer: the JSON of the data's.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        return
    here, there = _from_json(tokenizer), load_tokenizer(str(folder))
    own, other = (
        {number: token for token, number in one.get_vocab(with_added_tokens=True).items()} for one in (here, there)
    )
    differing = [number for number in sorted({*own, *other}) if own.get(number) != other.get(number)]
    if differing:
        named = "; ".join(
            f'{number} is "{other.get(number, "")}" there and "{own.get(number, "")}" here'
            for number in differing[:SHOWN]
        )
        raise UserError(
            f"{where}: {folder} was trained with another tokenizer than data.text.tokenizer: {len(differing)} tokens"
            f" differ: {named}; set data.text.tokenizer to the same folder"
        )
    for one in (here, there):
        one.no_padding()
        one.no_truncation()
    for text in PROBES:
        own, other = (one.encode(nfc(text)).tokens for one in (here, there))
        if own != other:
            raise UserError(
                f"{where}: {folder} was trained with a tokenizer that reads texts otherwise than data.text.tokenizer:"
                f' "{text}" is {" ".join(other)} there and {" ".join(own)} here; set data.text.tokenizer to the same'
                " folder"
            )


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder, a tokenizer.json or a hub name.

    Raises:
        UserError: it cannot be loaded.
    """
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file() and file.suffix == ".json":
            return _sided(_tokenizers().Tokenizer.from_file(str(file)), _config_beside(file))
        import transformers

        loaded = transformers.AutoTokenizer.from_pretrained(name)
        return _sided(loaded.backend_tokenizer, vars(loaded))
    except ImportError as error:
        raise UserError(f"data.text.tokenizer: {name}: needs the package transformers") from error
    except BaseException as error:  # tokenizers raises bare Exception, and panics that are none
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.text.tokenizer: {name} cannot be loaded ({reason}); give a folder"
            " with tokenizer.json, such a file, or a hub name, or leave it empty to train one"
        ) from error


def _config_beside(file: Path) -> dict[str, Any]:
    """What transformers says of a tokenizer in the file beside it; nothing where there is none."""
    config = file.with_name("tokenizer_config.json")
    return json.loads(config.read_bytes()) if config.is_file() else {}


def _sided(tokenizer: Any, config: Mapping[str, Any]) -> Any:
    """The tokenizer, which cuts and pads in front where its config says so."""
    if config.get("truncation_side") == "left":
        tokenizer.enable_truncation(SHORTEST_TEXT, direction="left")
    if config.get("padding_side") == "left":
        tokenizer.enable_padding(direction="left")
    return tokenizer


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A lower-casing WordPiece tokenizer of at most `vocabulary` tokens, trained on the texts as BERT's was.

    The library numbers letters within words in an order that changes from run to run, and breaks ties by these
    numbers. Here they are given in sorted order, so the same texts make the same tokenizer.
    """
    library = _tokenizers()
    trained = _bert_like(library, {})
    letters = _letters_within_words(trained, texts)
    special = [PAD, UNKNOWN, FIRST, LAST, MASK]
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[*special, *letters], show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    tokenizer = _bert_like(library, trained.get_vocab())  # anew: there letters are no special tokens
    tokenizer.add_special_tokens(special)
    ends = [(token, tokenizer.token_to_id(token)) for token in (FIRST, LAST)]
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}", pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1", special_tokens=ends
    )
    return tokenizer


def _bert_like(library: Any, vocabulary: dict[str, int]) -> Any:
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _letters_within_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Every letter that follows another within a word, as WordPiece writes it, sorted."""
    letters: set[str] = set()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            letters.update(word[1:])
    return [f"##{letter}" for letter in sorted(letters)]


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
        import tokenizers.trainers
    except ImportError as error:
        raise UserError("texts need the package tokenizers: pip install tokenizers") from error
    return tokenizers
