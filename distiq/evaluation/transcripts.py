"""What a network of frames has written down: greedy decoding, word and character error rate."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torchmetrics.functional.text import char_error_rate, word_error_rate

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class ErrorRates(NamedTuple):
    """Edits (substitutions, insertions, deletions) over words, and over characters, of what was said."""

    words: float
    characters: float


def greedy(logits: Tensor, blank: int = 0) -> list[list[int]]:
    """The likeliest token of each frame, repeats merged, then blanks taken out (Graves et al. 2006, section 3.2).

    Shapes: (B, tokens, frames) -> B lists of tokens.
    """
    rows = logits.argmax(1).tolist()
    return [
        [token for before, token in zip([blank, *row], row, strict=False) if token not in (before, blank)]
        for row in rows
    ]


def error_rates(predicted: Sequence[Sequence[int]], said: Sequence[Sequence[int]], words: Sequence[str]) -> ErrorRates:
    """Of all sequences together; token number n is words[n - 1]."""
    texts = [[" ".join(words[token - 1] for token in tokens) for tokens in rows] for rows in (predicted, said)]
    return ErrorRates(float(word_error_rate(*texts)), float(char_error_rate(*texts)))
