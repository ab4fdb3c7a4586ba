"""Texts become token numbers once; what is cut or unknown is counted, what is empty is refused."""

from pathlib import Path

import pytest
import torch

from distiq.data.load import load
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder, bitmap, check_same_tokens, train_tokenizer
from distiq.errors import UserError
from distiq.recipe.data import DataSettings, TextSettings

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
SHARED = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "##s"]


@pytest.fixture
def tokenizer():
    """Ids are the words' places: a is 4, ##s is 7."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def test_texts_are_cut_and_padded(tokenizer):
    found, notes = TextEncoder(tokenizer, 5).encode(["films", "a fine fine film"], "texts")
    assert found.tolist() == [[2, 6, 7, 3, 0], [2, 4, 5, 5, 3]]
    assert notes == ("texts: 1 of 2 are longer than 5 tokens (the longest has 6); cut there",)


def test_to_the_longest_pads_no_further(tokenizer):
    assert TextEncoder(tokenizer, 60).encode(["films", "film"], "texts", to_longest=True).inputs.shape == (2, 4)


def test_texts_without_a_known_token_are_counted(tokenizer):
    notes = TextEncoder(tokenizer, 5).encode(["ein", "a Film", "été 映画"], "texts").notes
    assert notes == ("texts: 2 of 3 hold no token that the tokenizer knows",)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(tokenizer, text):
    with pytest.raises(UserError, match=r"texts: text 2 is empty"):
        TextEncoder(tokenizer, 5).encode(["a", text], "texts")


def test_a_text_of_broken_bytes_is_refused(tokenizer):
    broken = b"a \xff film".decode("utf-8", "surrogateescape")  # as a command line gives it
    with pytest.raises(UserError, match=r"texts: text 2 holds what is no UTF-8, behind 2 characters"):
        TextEncoder(tokenizer, 5).encode(["a", broken], "texts")


def test_the_bundle_s_json_gives_the_same_tokens(tokenizer):
    encoder = TextEncoder(tokenizer, 6)
    before = encoder.encode(["a fine film"], "texts").inputs
    known = Text.of(encoder)
    assert (known.shape, known.pad, known.vocabulary) == ((6,), 0, 8)
    assert torch.equal(TextEncoder(known.tokenizer, 6).encode(["a fine film"], "texts").inputs, before)


def test_tokens_that_a_trimmed_model_does_not_know_are_named(tokenizer):
    encoder = TextEncoder(tokenizer, 8, bitmap((0, 1, 2, 3, 6), 8))
    assert encoder.encode(["a fine fine film"], "the text").notes == (
        "the text: 2 tokens are none of the model's vocabulary and count as unknown: a, fine",
    )
    assert encoder.encode(["film film"], "the text").notes == ()


def test_weights_of_another_tokenizer_are_refused_with_the_first_differing_tokens(tokenizer, tmp_path):
    own = tokenizer.to_str()
    check_same_tokens(own, tmp_path, "teacher.weights")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    check_same_tokens(own, tmp_path, "teacher.weights")
    tokenizer.add_tokens(["films"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r'1 tokens differ: 8 is "films" there and "" here; set data.text.tokenizer'):
        check_same_tokens(own, tmp_path, "teacher.weights")


def test_a_folder_with_a_plain_vocabulary_is_compared_as_well(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    words = [*WORDS[:4], "[MASK]", *WORDS[4:]]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text(transformers.BertConfig(vocab_size=len(words)).to_json_string())
    with pytest.raises(UserError, match=r'5 tokens differ: 4 is "\[MASK\]" there and "a" here; 5 is "a" there'):
        check_same_tokens(tokenizer.to_str(), tmp_path, "teacher.weights")


def test_a_tokenizer_that_cannot_pad_is_refused():
    with pytest.raises(UserError, match="no token to pad with"):
        TextEncoder(tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="a")), 5)


def test_a_length_without_room_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"data.text.length = 2 leaves no room beside 2 special tokens"):
        TextEncoder(tokenizer, 2)


def paired(tokenizer, template="[CLS] $A [SEP] $B:1 [SEP]:1"):
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=template, special_tokens=ends
    )
    return tokenizer


def test_of_pairs_the_longer_text_is_cut(tokenizer):
    encoder = TextEncoder(paired(tokenizer), 7, pair=True)
    found, notes = encoder.encode(["a", "film", "a a a a a"], "texts", seconds=["film", "fine fine fine fine", "film"])
    assert found.tolist() == [[2, 4, 3, 6, 3, 0, 0], [2, 6, 3, 5, 5, 5, 3], [2, 4, 4, 4, 3, 6, 3]]
    assert notes == ("texts: 2 of 3 are longer than 7 tokens (the longest has 9); cut there",)
    assert (encoder.pair, encoder.separator) == (True, 3)


def test_a_tokenizer_may_know_no_segments(tokenizer):
    assert TextEncoder(paired(tokenizer, "[CLS] $A [SEP] $B [SEP]"), 7, pair=True).separator is None


@pytest.mark.parametrize(
    ("template", "length", "message"),
    [
        ("[CLS] $A [SEP] $B:1 [SEP]:1", 4, r"length = 4 leaves no room beside 3 special tokens"),
        ("[CLS] $A $B:1 [SEP]", 7, r"puts no token between two texts"),
        ("[CLS] $A [SEP]:1 $B:1 [SEP]:1", 7, r"begins the second segment elsewhere"),
        ("[CLS] $A [SEP] $B:1 [SEP]", 7, r"begins the second segment elsewhere"),
    ],
)
def test_a_tokenizer_that_cannot_pair_is_refused(tokenizer, template, length, message):
    with pytest.raises(UserError, match=message):
        Text.of(TextEncoder(paired(tokenizer, template), length, pair=True))


def test_the_same_texts_train_the_same_tokenizer():
    texts = [f"word{number % 7} film{number % 3}" for number in range(50)]
    assert train_tokenizer(texts, 60).to_str() == train_tokenizer(texts, 60).to_str()
    assert train_tokenizer(texts, 60).encode("film1").tokens[0] == "[CLS]"


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
        assert data.classes == ("fun", "long") and data.multi_label and data.record().multi_label
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
    assert data.classes == ("stars",) and data.regression and data.record().regression
    torch.testing.assert_close(data.test.labels[:3] * data.target.std + data.target.mean, torch.tensor([1.5, 4, -2]))
    with pytest.raises(UserError, match=r'no column "starts"; did you mean "stars"\?'):
        load(settings(tmp_path, text="text", target="starts"), seed=0)
    with pytest.raises(UserError, match=r'row 1 has "a film" in the column "text"; regression needs a number'):
        load(settings(tmp_path, text="text", target="text"), seed=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_sst2_sentences_are_read_as_they_are():
    text = TextSettings(header=("text", "label"), vocabulary=2000, length=32)
    data = load(DataSettings(source="text", folder=str(SHARED / "sst2_sentences"), text=text), seed=0)
    assert (len(data.train) + 2512, len(data.test)) == (6920, 1821)
    assert int(data.test.labels.sum()) == 909
    assert any("are longer than 32 tokens" in note for note in data.notes)
