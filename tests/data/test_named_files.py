import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from distiq.data.named_files import NamedImages, image_of_stem, listed_stems, plain_lines
from distiq.errors import UserError


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_editors_of_windows(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes("Käse\r\n\r\nroter Wein \r\n".encode(encoding))
    assert plain_lines(tmp_path / "a.txt") == ["Käse", "roter Wein"]


def test_what_is_no_utf_8_is_refused_by_its_place(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(UserError, match=r"a.txt: byte 1 is not UTF-8; save the file as UTF-8"):
        plain_lines(tmp_path / "a.txt")


def test_stems_may_hold_spaces_and_have_a_mark_of_their_class_behind(tmp_path: Path):
    (tmp_path / "train.txt").write_text("my photo 12\nmy photo 1\ncat_1  1\ncat_2 -1\nplain\n")
    (tmp_path / "my photo 1.xml").touch()
    stems = listed_stems(tmp_path / "train.txt", tmp_path, ".xml")
    assert stems == ["my photo 12", "my photo 1", "cat_1", "cat_2", "plain"]


@pytest.mark.parametrize(
    "name",
    ["a b.JPG", "train/a b.JPG", "train\\a b.JPG", "C:\\data\\train\\a b.jpg", "/home/me/photos/a b.jpg", "a%20b.jpg"],
)
def test_a_name_is_found_however_it_is_written(tmp_path: Path, name: str):
    images(tmp_path, "train/a b.JPG", "test/a b.JPG", "train/c.jpg")
    assert NamedImages([tmp_path / "train", tmp_path]).find(name) == tmp_path / "train" / "a b.JPG"


def test_letters_with_marks_have_two_forms(tmp_path: Path):
    decomposed = unicodedata.normalize("NFD", "Käse.jpg")
    images(tmp_path, decomposed)
    assert NamedImages([tmp_path]).find("Käse.jpg") == tmp_path / decomposed


def test_of_two_images_that_are_alike_the_longer_common_path_counts_and_else_none(tmp_path: Path):
    images(tmp_path, "one/x.jpg", "two/x.jpg")
    found = NamedImages([tmp_path])
    assert found.find("D:/set/two/x.jpg") == tmp_path / "two" / "x.jpg"
    assert found.find("D:/set/x.jpg") is None is found.find("y.jpg")
    assert found.of_stem("x") is None


def test_images_of_a_stem(tmp_path: Path):
    images(tmp_path, "deep/a.b.PNG")
    assert image_of_stem(tmp_path / "deep", "a.b") == tmp_path / "deep" / "a.b.PNG"
    assert NamedImages([tmp_path]).of_stem("A.b") == tmp_path / "deep" / "a.b.PNG"
