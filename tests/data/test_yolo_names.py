from pathlib import Path

import pytest
from PIL import Image

from distiq.data.yolo_names import declared, listed_images
from distiq.errors import UserError


def yaml(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "data.yaml").write_bytes(text.encode(encoding))
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "names: [cat, 'big dog']", "names:\n  0: cat\n  1: big dog  # a comment\n", "names: {1: big dog, 0: cat}",
        "names:\n- cat\n- \"big dog\"\nnc: 2", "nc: 2\r\nnames: ['cat',\r\n  'big dog']\r\n",
        "path: C:\\data\\x\nnames: [cat, big dog]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_names_are_read_however_yaml_writes_them(tmp_path: Path, text: str, encoding: str):
    assert declared(yaml(tmp_path, text, encoding), "train").names == ("cat", "big dog")


def test_names_that_yaml_takes_for_something_else_stay_as_they_are_written(tmp_path: Path):
    assert declared(yaml(tmp_path, "names: [yes, 1.0, null]"), "train").names == ("yes", "1.0", "null")


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "train/labels/classes.txt", "obj.names"])
def test_names_lie_where_tools_write_them(tmp_path: Path, place: str):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("cat\r\nbig dog\r\n", encoding="utf-8-sig")
    assert declared(tmp_path, "train").names == ("cat", "big dog")


def test_keypoints_are_so_many_values(tmp_path: Path):
    assert declared(yaml(tmp_path, "kpt_shape: [17, 3]\nnames: [person]"), "train").keypoints == 51
    assert declared(tmp_path, "train").names == ("person",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: {0: cat, 2: dog}", "data.yaml: its names have the numbers 0, 2; number them from 0 on"),
        ("names: [cat, dog", r"data.yaml, line 1: no YAML"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, text: str, said: str):
    with pytest.raises(UserError, match=said):
        declared(yaml(tmp_path, text), "train")


def test_a_folder_without_names_has_none(tmp_path: Path):
    assert declared(yaml(tmp_path, "- 1"), "train") == ((), 0)


def drawn(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


@pytest.mark.parametrize("path", ["images/tr", "../images/tr", "images\\tr", "[images/tr]"])
def test_images_lie_in_the_folder_that_yaml_names(tmp_path: Path, path: str):
    drawn(tmp_path, "images/tr/a.jpg", "images/va/b.jpg")
    (tmp_path / "labels" / "tr").mkdir(parents=True)
    (tmp_path / "labels" / "tr" / "a.txt").touch()
    pairs = listed_images(yaml(tmp_path, f"train: {path}\nval: images/va"), "train")
    assert pairs == [(tmp_path / "images" / "tr" / "a.jpg", tmp_path / "labels" / "tr" / "a.txt")]
    assert listed_images(tmp_path, "val") == [], "none of its images has a txt file"


def test_images_may_be_listed_in_a_file(tmp_path: Path):
    drawn(tmp_path, "images/a.jpg", "images/b.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "b.txt").touch()
    (tmp_path / "val.txt").write_text("./images/b.jpg\r\n")
    folder = yaml(tmp_path, "path: .\nval: val.txt")
    assert listed_images(folder, "val") == [(tmp_path / "images" / "b.jpg", tmp_path / "labels" / "b.txt")]
    (tmp_path / "val.txt").write_text("./images/c.jpg\n")
    with pytest.raises(UserError, match=r"val.txt: the image ./images/c.jpg is missing"):
        listed_images(folder, "val")


def test_yaml_of_something_else_names_no_images(tmp_path: Path):
    assert listed_images(yaml(tmp_path, "train: [1, 2\n"), "train") == [] == listed_images(tmp_path / "none", "train")
    assert listed_images(yaml(tmp_path, "train: 5\nval: {a: 1}"), "train") == []
