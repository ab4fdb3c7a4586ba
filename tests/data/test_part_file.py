"""The file of a part is the one that is named, or the one that is called so."""

from pathlib import Path

import pytest

from distiq.data.part_file import part_file, part_files, part_names
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


def test_a_word_that_says_no_part_is_a_file_s_name(tmp_path: Path):
    for name in ("train.csv", "dev.csv", "test.csv", "steer.csv"):
        (tmp_path / name).write_text("x")
    assert part_files(tmp_path, "", "", "steer", "data.pairs").validation == tmp_path / "steer.csv"
    with pytest.raises(UserError, match=r"dve: no such file; the folder holds dev\.csv, steer\.csv"):
        part_files(tmp_path, "", "", "dve", "data.pairs")
    with pytest.raises(UserError, match=r"learn: no such file; .* name one in data\.pairs\.train"):
        part_files(tmp_path, "learn", "", "dev", "data.pairs")


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


def written(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("x")
    return folder


def test_without_a_validation_file_training_samples_are_held_out_and_that_is_said(tmp_path: Path):
    found = part_files(written(tmp_path, "train.csv", "test.csv"), "", "", "dev", "data.pairs")
    assert (found.train.name, found.test.name, found.validation, found.holds_out) == (
        "train.csv",
        "test.csv",
        None,
        True,
    )
    assert "no file is called validation: one in 10 training samples is held out to steer by" in found.notes[0]
    assert part_files(tmp_path, "", "", "", "data.pairs")[2:] == (None, False, ()), "a recipe's number"


def test_without_a_test_file_that_of_validation_is_measured_on_and_steers_nothing(tmp_path: Path):
    found = part_files(written(tmp_path, "train.csv", "dev.csv"), "", "", "dev", "data.pairs")
    assert (found.test.name, found.validation, found.holds_out) == ("dev.csv", None, True)
    assert (
        "no file is called test; dev.csv is measured on" in found.notes[0] and "no other one is left" in found.notes[1]
    )
    with pytest.raises(UserError, match=r"data\.validation names the only other one; give it a test file"):
        part_files(tmp_path, "", "", "dev.csv", "data.pairs")


def test_packed_files_are_named_with_what_to_do(tmp_path: Path):
    written(tmp_path, "train.csv.gz", "test.csv.gz")
    with pytest.raises(UserError, match=r"test\.csv\.gz, train\.csv\.gz are packed: unpack with gunzip"):
        part_files(tmp_path, "", "", "dev", "data.pairs")


def test_parts_may_be_written_with_capitals():
    assert {"valid", "Valid", "VALID", "Val", "val2017"} <= set(part_names("val"))
    assert part_names("val")[0] == "val" and part_names("own part") == ("own part",)
