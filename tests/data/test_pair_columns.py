"""Columns of texts and scores are found in files of any header or none, of any kind."""

import json
from pathlib import Path

import pytest

from distiq.data.pair_columns import PairColumns, find_columns, read_named
from distiq.recipe.data import PairSettings

ROWS = [('a "dog" runs in the park', "the dog, he runs", 4.2), ("it rains a lot today", "no sun at all here", 1.5)]
CSV = "".join('"{}","{}",{}\n'.format(one.replace('"', '""'), other, score) for one, other, score in ROWS)
TSV = "".join(f"{one}\t{other}\t{score}\n" for one, other, score in ROWS)
SICK = "".join(f"{number}\t{one}\t{other}\t{score}\tNEUTRAL\n" for number, (one, other, score) in enumerate(ROWS))
KEYS = ("sentence1", "sentence2", "label")


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", CSV, ("column 1", "column 2", "column 3")),
        ("a.csv", "s1,s2,score\n" + CSV, ("s1", "s2", "score")),
        ("a.csv", TSV, ("column 1", "column 2", "column 3")),
        ("a.tsv", f"pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment\n{SICK}",
         ("sentence_A", "sentence_B", "relatedness_score")),
        ("a.tsv", "left\tright\thow alike\n" + TSV, ("left", "right", "how alike")),
        ("a.txt", SICK, ("column 2", "column 3", "column 4")),
        ("a.jsonl", "\n".join(json.dumps(dict(zip(KEYS, row, strict=True), tokens=[1])) for row in ROWS), KEYS),
        ("a.json", json.dumps([dict(zip(KEYS, row, strict=True)) for row in ROWS]), KEYS),
    ],
)  # fmt: skip
def test_columns_are_found(tmp_path: Path, name: str, content: str, columns: tuple):
    (tmp_path / name).write_text(content)
    table = read_named(tmp_path / name, ())
    found = find_columns(table, PairSettings(), name)
    assert found == columns
    texts = [tuple(table[column]) for column in found[:2]]
    assert texts == [tuple(row[place] for row in ROWS) for place in (0, 1)]
    assert [float(cell) for cell in table[found.score]] == [4.2, 1.5]


@pytest.mark.parametrize("content", ["Ann saw a dog\nit rains a lot\n", "text\nAnn saw a dog\nit rains a lot\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_texts_stand_alone(tmp_path: Path, name: str, content: str):
    if name == "a.txt":
        content = content.removeprefix("text\n")
    (tmp_path / name).write_text(content)
    table = read_named(tmp_path / name, ())
    found = find_columns(table, PairSettings(), name)
    assert found[1:] == ("", "")
    assert table[found.first] == ["Ann saw a dog", "it rains a lot"]


def test_what_is_named_is_taken():
    table = {"a": ["x y z"], "b": ["x y"], "text": ["x"], "other": ["y"], "n": ["1"]}
    assert find_columns(table, PairSettings(first="b", second="a", score="n"), "x") == PairColumns("b", "a", "n")
    assert find_columns(table, PairSettings(first="text"), "x") == PairColumns("text", "other", "n")
