"""Texts of all alignments, against the sum over every path; words and n-grams by hand."""

import itertools
import math

import numpy as np
import pytest

from distiq.device.run import Language, Refused, Search, log_probability, read_arpa, read_words, search_of, sought

LETTERS = ("<blank>", "a", "b", "|")
WORDS = ("<blank>", "one", "two")


def logits(*frames: list[float]) -> np.ndarray:
    """(symbols, frames) of probabilities of each frame."""
    return np.log(np.array(frames).T)


def texts(shares: np.ndarray) -> dict[tuple[int, ...], float]:
    """The probability of each text of (symbols, frames): the sum over all its paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(len(shares)), repeat=shares.shape[1]):
        text = tuple(number for number, _ in itertools.groupby(path) if number)
        found[text] = found.get(text, 0) + math.prod(shares[number, frame] for frame, number in enumerate(path))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_text_is_the_likeliest_over_all_paths(seed: int):
    scores = np.random.default_rng(seed).normal(size=(4, 5))
    shares = np.exp(scores) / np.exp(scores).sum(0)
    expected = texts(shares)
    assert tuple(sought(scores, LETTERS, Search(500))) == max(expected, key=lambda text: expected[text])


def test_two_frames_that_are_likelier_blank_each_may_still_say_a():
    """0.6 * 0.6 for nothing, 0.64 for an a in one of them or in both."""
    shares = logits([0.6, 0.4, 1e-9, 1e-9], [0.6, 0.4, 1e-9, 1e-9])
    assert sought(shares, LETTERS, Search(4)) == [1]


def test_only_words_of_the_list_are_written():
    """What stands as "a b" is likeliest; of "ab" and "b" only one begins with the a of the first frame."""
    shares = logits([0.1, 0.7, 0.1, 0.1], [0.2, 0.1, 0.1, 0.6], [0.1, 0.1, 0.7, 0.1])
    assert sought(shares, LETTERS, Search(20)) == [1, 3, 2]
    assert sought(shares, LETTERS, Search(20, frozenset({"ab", "b"}))) == [1, 2]
    assert sought(logits([0.1, 0.9, 1e-9], [0.1, 0.05, 0.85]), WORDS, Search(4, frozenset({"two"}))) == [2]


def test_an_ngram_model_weighs_words():
    """Frames say one by 0.6 to 0.4; behind the begin two is nine times as likely: 0.4 * 9**0.5 > 0.6."""
    language = Language(2, {("<s>",): (0, 0.0), ("<s>", "one"): (-1.0, 0.0), ("<s>", "two"): (math.log10(0.9), 0.0)})
    shares = logits([1e-9, 0.6, 0.4])
    assert sought(shares, WORDS, Search(4)) == [1]
    assert sought(shares, WORDS, Search(4, language=language)) == [2]
    assert sought(shares, WORDS, Search(4, language=language, weight=0.1)) == [1]


def test_words_back_off_as_katz_says(tmp_path):
    path = tmp_path / "two.arpa"
    path.write_text(
        "\\data\\\nngram 1=3\n\n\\1-grams:\n-1.0\t<unk>\n-0.5\tone\t-0.25\n-0.7\ttwo\t0\n\n"
        "\\2-grams:\n-0.1\tone two\n\n\\end\\\n"
    )
    language = read_arpa(path)
    ten = math.log(10)
    assert language.order == 2
    assert log_probability(language, ("two", "one"), "two") == pytest.approx(-0.1 * ten)
    assert log_probability(language, ("one",), "one") == pytest.approx((-0.25 - 0.5) * ten)
    assert log_probability(language, ("one",), "six") == pytest.approx((-0.25 - 1.0) * ten)


@pytest.mark.parametrize(
    ("content", "read", "message"),
    [
        ("", read_words, "holds no word"),
        ("one two", read_arpa, "holds no n-grams"),
        ("\\1-grams:\n-0.5 one two three", read_arpa, "line 2 holds no 1-gram"),
        ("\\1-grams:\nlikely one", read_arpa, "cannot be read"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, content, read, message):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(Refused, match=message):
        read(path)


def test_searches_that_cannot_be_are_refused(tmp_path):
    writes = {"decoding": "transcript"}
    for width, words, about, message in (
        (0, tmp_path, writes, "is for a beam search"),
        (4, None, {"decoding": "softmax"}, "for models that write a text"),
        (-1, None, writes, "follow one text at least"),
    ):
        with pytest.raises(Refused, match=message):
            search_of(width, words, None, about)
