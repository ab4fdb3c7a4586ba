"""Texts from files: their columns, labels, pairs and numbers."""

from pathlib import Path

import pytest
import torch

from distiq.data.labels import LABEL_SET, NUMBER
from distiq.data.load import load
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TextSettings

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path, tokenizer):
    for part, count in (("train", 30), ("test", 10)):
        rows = "".join(f"a {'fine ' * (number % 2)}film\t{'01'[number % 2]}\n" for number in range(count))
        (tmp_path / f"{part}.tsv").write_text(f"sentence\tlabel\n{rows}")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def settings(folder, **text):
    of_text = TextSettings(**{"text": "sentence", "length": 6, **text})
    return DataSettings(source="text", folder=str(folder), validation=4, calibration=4, text=of_text)


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_tokenizer_comes_from_a_folder_or_a_file(folder, name):
    data = load(settings(folder, tokenizer=str(folder / name), names=("bad", "good")), seed=0)
    assert (data.modality, data.classes, data.sample_shape) == ("text", ("bad", "good"), (6,))
    text = data.preprocessing
    assert (text.vocabulary, text.pad) == (8, 0)
    assert data.test.inputs[:2].tolist() == [[2, 4, 6, 3, 0, 0], [2, 4, 5, 6, 3, 0]]
    assert text.lengths(data.test.inputs[:2]).tolist() == [4, 5]
    assert text.trimmed(data.test.inputs[:1]).shape == (1, 4)
    words = data.words
    assert (words.mask, words.special.tolist()) == (None, [0, 2, 3])
    assert set(words.pool.tolist()) == {4, 5, 6}


def test_one_is_trained_where_none_is_named(folder):
    data = load(settings(folder, vocabulary=40), seed=0)
    assert data.preprocessing.vocabulary <= 40
    assert (data.words.mask, data.words.special.tolist()) == (4, [0, 1, 2, 3, 4])
    assert int(data.train.inputs.max()) < data.preprocessing.vocabulary


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("train", "sentence\tlabel\n", r"train\.tsv: holds no text"),
        ("test", "sentence\tlabel\n", r"test\.tsv: holds no text"),
        ("test", "sentence\tlabel\na\t0\n \t1\n", r"test\.tsv: text 2 is empty"),
        ("test", "sentence\tlabel\na\t0\nb\tx\n", r'test\.tsv: row 2 has the label "x", which no training row has'),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(folder, part, content, message):
    (folder / f"{part}.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        load(settings(folder), seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"text": "sentense"}, r'no column "sentense"; did you mean "sentence"\?'),
        ({"tokenizer": "/none"}, r"data.text.tokenizer: /none cannot be loaded"),
        ({"names": ("one",)}, r"data.text.names: 1 names, but the labels are 0, 1"),
        ({"test": "none.tsv"}, r"none\.tsv: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(folder, text, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        load(settings(folder, **text), seed=0)


def test_a_row_without_a_label_is_named_even_where_classes_have_names(folder):
    file = folder / "train.tsv"
    file.write_text(file.read_text() + "a film\t\n")
    with pytest.raises(UserError, match=r"train\.tsv: row 31 has no label"):
        load(settings(folder, tokenizer=str(folder), names=("bad", "good")), seed=0)


def test_a_text_may_have_several_labels(tmp_path):
    rows = [("a film", "fun, long", 1, 1), ("a fine film", "", 0, 0), ("fine", "long", 0, 1)] * 8
    lines = ["text\tabout\tfun\tlong", *("\t".join(map(str, row)) for row in rows), ""]
    for part in ("train", "test"):
        (tmp_path / f"{part}.tsv").write_text("\n".join(lines))
    for wanted in ({"labels": ("fun", "long")}, {"label": "about", "separator": ","}):
        data = load(settings(tmp_path, text="text", vocabulary=40, **wanted), seed=0)
        assert data.classes == ("fun", "long") and data.labels.form is LABEL_SET
        assert data.test.labels[:3].tolist() == [[1, 1], [0, 0], [0, 1]]


def test_two_texts_may_be_judged_together(tmp_path):
    rows = [("a film", "fine", 1), ("a fine film", "a film", 0)] * 12
    for part in ("train", "test"):
        lines = ["text\tother\tlabel", *("\t".join(map(str, row)) for row in rows), ""]
        (tmp_path / f"{part}.tsv").write_text("\n".join(lines))
    data = load(settings(tmp_path, text="text", pair="other", vocabulary=40, length=8), seed=0)
    text = data.preprocessing
    encoder = TextEncoder(text.tokenizer, 8, pair=True)
    names = [encoder.tokenizer.id_to_token(number) for number in data.test.inputs[1].tolist()]
    assert names == ["[CLS]", "a", "fine", "film", "[SEP]", "a", "film", "[SEP]"]
    assert text.pair and text.separator == data.test.inputs[1, 4]
    with pytest.raises(UserError, match=r'train\.tsv: no column "othr"; did you mean "other"\?'):
        load(settings(tmp_path, text="text", pair="othr"), seed=0)
    (tmp_path / "test.tsv").write_text("text\tother\tlabel\na\tfine\t1\na\t\t0\n")
    with pytest.raises(UserError, match=r"test\.tsv: second text 2 is empty"):
        load(settings(tmp_path, text="text", pair="other", vocabulary=40), seed=0)


def test_a_text_may_have_a_number(tmp_path):
    rows = [("a film", 1.5), ("a fine film", 4), ("fine", -2)] * 8
    for part in ("train", "test"):
        (tmp_path / f"{part}.tsv").write_text("\n".join(["text\tstars", *(f"{text}\t{y}" for text, y in rows), ""]))
    data = load(settings(tmp_path, text="text", vocabulary=40, target="stars"), seed=0)
    assert data.classes == ("stars",) and data.labels.form is NUMBER
    torch.testing.assert_close(data.test.labels[:3] * data.target.std + data.target.mean, torch.tensor([1.5, 4, -2]))
    with pytest.raises(UserError, match=r'no column "starts"; did you mean "stars"\?'):
        load(settings(tmp_path, text="text", target="starts"), seed=0)
    for part in ("train", "test"):
        (tmp_path / f"{part}.tsv").write_text("text\tstars\na film\tmany\n")
    with pytest.raises(UserError, match=r'row 1 has "many" in the column "stars"; regression needs a number'):
        load(settings(tmp_path, text="text", target="stars"), seed=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_sst2_sentences_are_read_as_they_are():
    text = TextSettings(header=("text", "label"), vocabulary=2000, length=32)
    data = load(DataSettings(source="text", folder=str(SHARED / "sst2_sentences"), text=text), seed=0)
    assert (len(data.train) + 2512, len(data.test)) == (6920, 1821)
    assert int(data.test.labels.sum()) == 909
    assert any("are longer than 32 tokens" in note for note in data.notes)


def write_texts(folder, part, rows):
    (folder / f"{part}.tsv").write_text("\n".join(["sentence\tlabel\twriter", *("\t".join(row) for row in rows), ""]))


def test_texts_of_a_writer_stay_together_and_labels_sort_as_numbers(tmp_path):
    rows = [(f"film {n}", ("9", "10")[n % 2], f"w{n // 10}") for n in range(80)]
    write_texts(tmp_path, "train", rows)
    write_texts(tmp_path, "test", [("a film", "9", "x"), ("no film", "10", "y")])
    data = load(settings(tmp_path, vocabulary=60, group="writer"), seed=0)
    assert data.classes == ("9", "10")
    assert [len(part) for part in (data.train, data.validation, data.calibration)] == [60, 10, 10]
    write_texts(tmp_path, "test", [("a film", "9", "w3"), ("no film", "10", "y")])
    with pytest.raises(UserError, match=r'test\.tsv: the writer "w3" is among the training rows'):
        load(settings(tmp_path, vocabulary=60, group="writer"), seed=0)


def test_validation_texts_may_have_a_file_of_their_own(folder):
    (folder / "dev.tsv").write_text("sentence\tlabel\na film\t0\na fine film\t1\n")
    chosen = settings(folder, tokenizer=str(folder))
    data = load(DataSettings(**(dict(chosen) | {"validation": "dev.tsv"})), seed=0)
    assert data.validation.labels.tolist() == [0, 1] and len(data.train) == 26
    assert "2 of 2 validation texts are training texts, too" in " ".join(data.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"text": "label"}, 'text = "label" is the label, too'),
        ({"pair": "label"}, 'pair = "label" is the label, too'),
        ({"text": "stars", "target": "stars"}, 'text = "stars" is the label, too'),
        ({"labels": ("fun", "sentence")}, 'text = "sentence" is the label, too'),
        ({"pair": "sentence"}, 'pair = "sentence" is the first text, too'),
    ],
)
def test_a_label_among_the_texts_is_refused(folder, text, message):
    with pytest.raises(ValueError, match=message):
        settings(folder, **text)


def test_a_tokenizer_is_read_once(tokenizer, monkeypatch):
    text = Text.of(TextEncoder(tokenizer, 6))
    first = text.encode("a fine film, a fine film", "here")
    monkeypatch.setattr("distiq.data.tokenizer._from_json", lambda _: pytest.fail("read again"))
    again = text.encode("a fine film, a fine film", "here")
    assert torch.equal(first.inputs, again.inputs)
    assert first.notes == again.notes
