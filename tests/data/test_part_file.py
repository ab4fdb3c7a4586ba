"""The file of a part is the one that is named, or the one that is called so."""

from pathlib import Path

import pytest

from distiq.data.part_file import part_file
from distiq.errors import UserError


@pytest.mark.parametrize(
    "names",
    [
        ("train.conll", "dev.conll", "test.conll"), ("eng.train", "eng.testa", "eng.testb"),
        ("sts-train.csv", "sts-dev.csv", "sts-test.csv"), ("NER-de-train.tsv", "NER-de-valid.tsv", "NER-de-test.tsv"),
    ],
)  # fmt: skip
def test_files_are_found_by_their_parts(tmp_path: Path, names: tuple):
    for name in (*names, "README.train.md"):
        (tmp_path / name).write_text("x")
    found = [part_file(tmp_path, "", part, "key").name for part in ("train", "validation", "test")]
    assert tuple(found) == names
    assert part_file(tmp_path, "dev", "validation", "key").name == names[1]
    assert part_file(tmp_path, names[2], "train", "key").name == names[2]


def test_what_is_missing_or_twice_there_is_named(tmp_path: Path):
    for name in ("train.csv", "train.tsv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(
        UserError, match=r"train\.csv and train\.tsv are both called train; name one in data\.pairs\.train"
    ):
        part_file(tmp_path, "", "train", "data.pairs.train")
    with pytest.raises(UserError, match=r"no file is called validation; the folder holds .* data\.validation = 500"):
        part_file(tmp_path, "dev", "validation", "data.validation")
    with pytest.raises(
        UserError, match=r"dev\.csv: no such file; the folder holds train\.csv, train\.tsv: name one in"
    ):
        part_file(tmp_path, "dev.csv", "validation", "data.validation")
