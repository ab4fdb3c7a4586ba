"""Sentences with tags as tokens: a word's tag stands at its first token, long texts are windows."""

from pathlib import Path

import pytest
import torch

from distiq.data.entities import PACKAGED, align, tag_names
from distiq.data.labels import TAGS
from distiq.data.load import load
from distiq.data.tagged import Sentence, read_tagged
from distiq.data.tokenizer import TextEncoder
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, EntitySettings, TextSettings

SHARED = Path(__file__).parents[3] / "shared" / "data" / "wnut17"
TAG_NAMES = ("O", "B-x", "I-x")


def test_a_words_tag_stands_at_its_first_token(tokenizer):
    """Ids of the words are 4 and on, [CLS] 2, [SEP] 3; "as" is a ##s."""
    aligned = align([Sentence(["as", "film", "a"], ["B-x", "I-x", "O"])], TextEncoder(tokenizer, 8), TAG_NAMES, "x")
    assert aligned.inputs.tolist() == [[2, 4, 7, 6, 4, 3, 0, 0]]
    assert aligned.labels.tolist() == [[-1, 1, -1, 2, 0, -1, -1, -1]]
    assert aligned.labels.dtype == torch.int16


def test_a_sentence_of_two_thousand_tokens_is_read_in_windows(tokenizer):
    """Each word counts in one window, and no span is cut; what is shared is seen on both sides."""
    words, tags = ["film"] * 2000, (["O"] * 7 + ["B-x", "I-x", "I-x"]) * 200
    aligned = align([Sentence(words, tags)], TextEncoder(tokenizer, 34), TAG_NAMES, "x")
    counted = [row[row != -1] for row in aligned.labels]
    assert [TAG_NAMES[tag] for tag in torch.cat(counted).tolist()] == tags
    assert all(int(row[0]) != 2 for row in counted), "no window begins within a span"
    assert (aligned.inputs != 0).sum() > 2000 + 2 * len(counted)
    assert "1 of 1 sentences are longer than 34 tokens (the longest has 2,000)" in aligned.notes[0]


def test_a_word_that_the_tokenizer_drops_keeps_its_place(tokenizer):
    from tokenizers.normalizers import Replace

    tokenizer.normalizer = Replace("fine", "")
    aligned = align([Sentence(["film", "fine"], ["O", "B-x"])], TextEncoder(tokenizer, 6), TAG_NAMES, "x")
    assert aligned.inputs.tolist() == [[2, 6, 1, 3, 0, 0]]
    assert aligned.labels.tolist() == [[-1, 0, 1, -1, -1, -1]]


def test_tags_that_training_lacks_are_refused(tokenizer):
    assert tag_names([Sentence(["a"], ["B-x"])]) == TAG_NAMES
    with pytest.raises(UserError, match='the tag "B-y" is none of the training texts, which have O, B-x, I-x'):
        align([Sentence(["a"], ["B-y"])], TextEncoder(tokenizer, 6), TAG_NAMES, "test")


def test_kinds_that_training_lacks_are_missed_and_said(tmp_path: Path):
    (tmp_path / "train.conll").write_text("a O\nAnn S-PER\n\n" * 20)
    (tmp_path / "test.conll").write_text("Ann B-PER\nLee E-PER\n\nBonn S-LOC\n\n")
    data = load(DataSettings(source="entities", folder=str(tmp_path), validation=4, calibration=4), 0)
    assert data.classes == ("O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES"))
    assert "test.conll: 1 spans are of kinds that no training text shows (LOC): they are missed" in data.notes


def test_splits_hold_the_same_kinds_of_sentences(tmp_path: Path):
    plain, named = "a O\nfilm O\n\n", "Ann B-PER\nin O\nRome B-LOC\n\n"
    (tmp_path / "train.conll").write_text((plain + named) * 20)
    (tmp_path / "test.conll").write_text(plain + named)
    settings = DataSettings(
        source="entities", folder=str(tmp_path), validation=10, calibration=4, text=TextSettings(length=8)
    )
    data = load(settings, 0)
    assert (data.labels.form, data.classes) == (TAGS, ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    has_name = (data.validation.labels > 0).any(1)
    assert (len(has_name), int(has_name.sum())) == (10, 5)


def test_without_a_validation_file_every_tenth_training_sentence_steers(tmp_path: Path):
    (tmp_path / "train.txt").write_text("".join(f"w{number} O\nAnn B-PER\n\n" for number in range(40)))
    (tmp_path / "test.txt").write_text("Ann B-PER\n\nin O\n\n")
    settings = DataSettings(source="entities", folder=str(tmp_path), validation="dev", calibration=4)
    data = load(settings, 0)
    assert (len(data.train), len(data.validation), len(data.calibration), len(data.test)) == (32, 4, 4, 2)
    assert "no file is called validation" in data.notes[0]
    (tmp_path / "train.txt").write_text("w O\nAnn B-PER\n\nw O\n\n")
    with pytest.raises(UserError, match="2 training sentences are too few to hold some out; give a validation file"):
        load(settings, 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the originals are not here")
@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_the_packaged_sentences_are_the_originals(part: str):
    assert (PACKAGED / f"{part}.conll").read_bytes() == (SHARED / f"{part}.conll").read_bytes()


def test_the_packaged_sentences_are_read():
    counts = [len(read_tagged(PACKAGED / f"{part}.conll", EntitySettings()).sentences) for part in ("dev", "test")]
    assert counts == [1009, 1287]
