"""Columns of words and of tags are found by what they hold."""

from pathlib import Path

import pytest

from distiq.data.conll import Columns, Line, find_columns, read_conll

PAIRS = (("Ann", "B-PER"), ("saw", "O"), ("the", "O"), ("UN", "B-ORG"))


def written(folder: Path, form: str, before: str = "") -> Path:
    lines = "".join(form.format(number, word, tag) + "\n" for number, (word, tag) in enumerate(PAIRS, start=1))
    (folder / "train.txt").write_text(f"{before}{lines}\n{lines}\n")
    return folder / "train.txt"


@pytest.mark.parametrize(
    ("form", "before", "columns"),
    [
        ("{1}\t{2}", "", (0, -1)),
        ("{1} NN I-NP {2}", "-DOCSTART- -X- -X- O\n\n", (0, -1)),
        ("{2}\t{1}", "", (1, 0)),
        ("{0}\t{1}\t{2}\tO", "#\thttp://a.de/1 [2009-10-17]\n", (1, 2)),
        ("{0}\t{1}\t{2}\t-\t-", "# sent_id = 1\n# text = Ann saw\n", (1, 2)),
        ("bc/cctv\t0\t{0}\t{1}\tNN\t{2}", "#begin document (bc/cctv); part 000\n", (3, -1)),
    ],
    ids=["two", "CoNLL-2003", "MIT", "GermEval", "UniversalNER", "OntoNotes"],
)
def test_columns_are_found(tmp_path: Path, form: str, before: str, columns: tuple):
    file = written(tmp_path, form, before)
    assert find_columns(file) == columns
    first, second = read_conll(file, Columns(*columns))
    assert [(line.word, line.tag) for line in first] == list(PAIRS)
    assert [line[1:] for line in second] == list(PAIRS)


def test_a_nested_column_gives_way_to_the_outer_one(tmp_path: Path):
    (tmp_path / "train.tsv").write_text("1\tBank\tB-ORG\tO\n2\tof\tI-ORG\tO\n3\tUN\tI-ORG\tB-ORG\n\n1\ta\tO\tO\n")
    assert find_columns(tmp_path / "train.tsv") == (1, 2)


def test_a_blank_that_is_no_space_is_a_word(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\u00a0 O\nRome  B-LOC \n\nyes O\n")
    assert read_conll(tmp_path / "a.txt", Columns(0, -1))[0] == [Line(1, "\u00a0", "O"), Line(2, "Rome", "B-LOC")]


def test_a_word_may_begin_with_a_number_sign(tmp_path: Path):
    (tmp_path / "a.txt").write_text("#Rome B-LOC\n# O\n\nyes O\n")
    assert read_conll(tmp_path / "a.txt", Columns(0, -1))[0] == [Line(1, "#Rome", "B-LOC"), Line(2, "#", "O")]
