"""Words with tags from files: CoNLL of any columns, JSON of spans; what no sentence can be made of is refused."""

import json
from pathlib import Path

import pytest

from distiq.data.tagged import Sentence, read_tagged
from distiq.errors import UserError
from distiq.recipe.data import EntitySettings


def written(folder: Path, content: str, name: str = "train.conll") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ("Ann\tB-PER\nsaw\tO\nNew\tB-LOC\nYork\tI-LOC\n\nyes\tO\n\n", {}),
        ("Ann B-PER\nsaw O\nNew B-LOC\nYork I-LOC\n \nyes O\n", {}),
        ("-DOCSTART- -X- O O\n\nAnn NNP I-NP B-PER\nsaw V O O\nNew N O B-LOC\nYork N O I-LOC\n\nyes U O O", {}),
        (
            "1\tAnn\tB-PER\t_\n2\tsaw\tO\t_\n3\tNew\tB-LOC\t_\n4\tYork\tI-LOC\t_\n\n1\tyes\tO\t_\n",
            {"word": 1, "tag": 2},
        ),
        ("# id = 7\nAnn\tB-PER\nsaw\tO\nNew\tB-LOC\r\nYork\tI-LOC\n\nyes\tO\n", {}),
        ("Ann\tI-PER\nsaw\tO\nNew\tI-LOC\nYork\tI-LOC\n\nyes\tO\n", {}),
        ("Ann\tPER\nsaw\tO\nNew\tLOC\nYork\tLOC\n\nyes\tO\n", {}),
    ],
    ids=["tabs", "spaces", "four columns", "columns by number", "a comment", "I without B", "labels alone"],
)
def test_sentences_of_conll(tmp_path: Path, content: str, settings: dict):
    read = read_tagged(written(tmp_path, content), EntitySettings(**settings))
    assert read.sentences == [
        Sentence(["Ann", "saw", "New", "York"], ["B-PER", "O", "B-LOC", "I-LOC"]), Sentence(["yes"], ["O"])
    ]  # fmt: skip
    assert bool(read.notes) == (" B-PER" not in content and "\tB-PER" not in content)


def test_bilou_is_bioes(tmp_path: Path):
    read = read_tagged(written(tmp_path, "Ann U-PER\nNew B-LOC\nYork L-LOC\n\nyes O\n"), EntitySettings())
    assert read.sentences[0].tags == ["S-PER", "B-LOC", "E-LOC"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ann B-PER\nsaw O\nRome B-LOC\n", "no empty line stands between sentences, so its 3 words would be one"),
        ("Ann B-PER\n\nsaw\n\n", "line 3: has 1 column"),
        ("Ann NNP\n\nsaw VBD\n", 'line 1: the tag "NNP" is none of'),
        ("Ann O\n\nsaw O\n", "every tag is O"),
        ("\n\n", "is empty"),
    ],
)
def test_what_is_no_conll_is_refused(tmp_path: Path, content: str, message: str):
    with pytest.raises(UserError, match=message):
        read_tagged(written(tmp_path, content), EntitySettings())


def rows(folder: Path, *texts: dict) -> Path:
    return written(folder, "\n".join(map(json.dumps, texts)), "train.jsonl")


def test_spans_of_json_become_tags(tmp_path: Path):
    file = rows(
        tmp_path,
        {"text": "Ann's home: New York.", "spans": [[0, 3, "PER"], {"start": 12, "end": 20, "label": "LOC"}]},
        {"text": "nothing", "spans": []},
    )
    first, second = read_tagged(file, EntitySettings()).sentences
    assert first == Sentence(
        ["Ann", "'s", "home", ":", "New", "York", "."], ["B-PER", "O", "O", "O", "B-LOC", "I-LOC", "O"]
    )
    assert second == Sentence(["nothing"], ["O"])


def test_a_span_that_splits_a_word_is_widened_and_said(tmp_path: Path):
    read = read_tagged(rows(tmp_path, {"text": "a NewYorker", "spans": [[2, 9, "LOC"]]}), EntitySettings())
    assert read.sentences[0].tags == ["O", "B-LOC"]
    assert 'widened to whole words: "NewYork" to "NewYorker"' in read.notes[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "New York", "spans": [[0, 5, "LOC"], [4, 8, "ORG"]]}, "LOC and ORG overlap at character 4"),
        ({"text": "New York", "spans": [[4, 9, "LOC"]]}, "4 to 9 of LOC lies outside the text, which has 8 characters"),
        ({"text": "New York", "spans": [[4, 8]]}, "is no span"),
        ({"words": "New York", "spans": []}, 'is no object with a "text"; it has words, spans'),
        ({"text": "New York"}, 'has no list of "spans"; it has text'),
        ({"tokens": ["New", "York"], "tags": ["O"]}, "has 2 words and 1 tags"),
        ({"tokens": ["New", "York"], "ner_tags": [0, 1]}, "the tag 0 is a number, of which no name is given"),
    ],
)
def test_spans_that_no_tags_can_say_are_refused(tmp_path: Path, row: dict, message: str):
    with pytest.raises(UserError, match=f"text 1: .*{message}"):
        read_tagged(rows(tmp_path, row), EntitySettings())
