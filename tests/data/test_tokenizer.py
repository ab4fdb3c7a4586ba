"""Texts become token numbers once; what is cut or unknown is counted, what is empty is refused."""

import json

import pytest
import torch

from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder, bitmap, check_same_tokens, load_tokenizer, train_tokenizer
from distiq.device import run as runner
from distiq.errors import UserError

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "##s"]


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


@pytest.mark.parametrize("said_in", ["tokenizer.json", "tokenizer_config.json"])
def test_texts_are_cut_and_padded_on_the_tokenizer_s_side(said_in: str, tokenizer, tmp_path):
    if said_in == "tokenizer.json":
        tokenizer.enable_truncation(9, direction="left")
        tokenizer.enable_padding(direction="left", pad_id=0, pad_token="[PAD]")
    else:
        sides = {"truncation_side": "left", "padding_side": "left"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(sides))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder(load_tokenizer(str(tmp_path)), 4)
    for found in (encoder, TextEncoder(encoder.as_text(), 4)):
        encoded = found.encode(["a fine film", "a"], "rows")
        assert encoded.inputs.tolist() == [[2, 5, 6, 3], [2, 4, 3, 0]], "[CLS] fine film [SEP], and [CLS] a [SEP]"
        assert "cut there, their beginnings" in encoded.notes[0]
    text = Text.of(encoder)
    assert text.pads_left
    (tmp_path / "own.json").write_text(text.tokenizer)
    found, notes = runner.tokens("a fine film", text.to_json(), tmp_path / "own.json")
    assert found.tolist() == [[2, 5, 6, 3]] and "it has 5" in notes[0]


def test_the_bundle_s_runner_keeps_the_side_where_other_work_comes_between(tokenizer, tmp_path):
    tokenizer.enable_truncation(9, direction="left")
    file = tmp_path / "own.json"
    file.write_text(tokenizer.to_str())
    about = Text.of(TextEncoder(tokenizer, 4)).to_json()
    first = runner.tokens("a fine film", about, file)[0]
    assert runner.read_tokenizer(file).truncation is None
    assert first.tolist() == runner.tokens("a fine film", about, file)[0].tolist() == [[2, 5, 6, 3]]


def test_one_text_has_the_tokens_that_it_has_among_others(tokenizer):
    encoder, texts = TextEncoder(tokenizer, 5), ["films", "a fine fine film", "a"]
    together = encoder.encode(texts, "texts").inputs
    assert torch.equal(torch.cat([encoder.encode([text], "text").inputs for text in texts]), together)


def test_padding_behind_is_the_rule(tokenizer):
    assert not Text.of(TextEncoder(tokenizer, 5)).pads_left


def test_a_tokenizer_of_the_same_tokens_that_reads_otherwise_is_refused(tokenizer, tmp_path):
    own = tokenizer.to_str()
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    check_same_tokens(tokenizer.to_str(), tmp_path, "teacher.weights")
    vocabulary = json.loads(own)["model"]["vocab"] | {"the": 8, "end": 9}
    one, other = (json.loads(text) for text in (own, tokenizer.to_str()))
    one["model"]["vocab"] = other["model"]["vocab"] = vocabulary
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r'"The End" is \[CLS\] the end \[SEP\] there and'):
        check_same_tokens(json.dumps(one), tmp_path, "teacher.weights")
