"""Folders of classes: nothing in them is left out in silence."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distiq.data.folders import class_names, find_files, left_out
from distiq.data.images import image_folder
from distiq.data.load import load
from distiq.errors import UserError
from distiq.recipe.data import DataSettings


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_what_is_no_image_is_counted_and_what_is_hidden_is_skipped(tmp_path: Path):
    for name in ("cat/1.png", "cat/indoors/2.PNG", "dog/3.png", "dog/4.heic", "dog/old/5.heic", "dog/notes", "6.txt"):
        touch(tmp_path / "train" / name)
    for name in ("cat/.DS_Store", "cat/._1.png", "cat/.thumbs/7.png", ".git/8.png"):
        touch(tmp_path / "train" / name)
    part = tmp_path / "train"
    found = find_files(part, ("cat", "dog"), (".png",), "images")
    assert [file.relative_to(part).as_posix() for file in found.files] == [
        "cat/1.png",
        "cat/indoors/2.PNG",
        "dog/3.png",
    ]
    assert found.labels == (0, 0, 1)
    (note,) = left_out(part, found, "images")
    assert note.startswith(f"{part}: 4 files are left out, which are no images that distiq reads: 2 .heic, ")
    assert "1 .txt" in note and "1 without an ending" in note


def test_classes_that_are_numbers_sort_as_numbers(tmp_path: Path):
    for name in ("10", "9", "1", "2"):
        (tmp_path / name).mkdir()
    assert class_names(tmp_path) == ("1", "2", "9", "10")
    (tmp_path / "b").mkdir()
    assert class_names(tmp_path) == ("1", "10", "2", "9", "b")


def image(file: Path, value: int, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(file, **options)


def test_names_are_the_same_however_their_accents_are_written(tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for part, name in (("train", decomposed), ("test", composed)):
        image(tmp_path / part / name / "1.png", 9)
        image(tmp_path / part / "bar" / "1.png", 90)
    assert image_folder(tmp_path, (3, 4, 4)).classes == ("bar", composed)


def test_without_a_test_part_the_validation_part_is_measured_on_and_said(tmp_path: Path):
    for part, count in (("train", 6), ("valid", 2)):
        for number in range(count):
            image(tmp_path / part / "dark" / f"{number}.png", number)
            image(tmp_path / part / "light" / f"{number}.png", 200 + number)
    loaded = image_folder(tmp_path, (3, 4, 4))
    assert (len(loaded.train), len(loaded.test)) == (12, 4)
    assert loaded.names[1][0] == "valid/dark/0.png"
    assert "has no test part; the validation part is measured on" in loaded.notes[0]
    with pytest.raises(UserError, match="names the only other one"):
        image_folder(tmp_path, (3, 4, 4), "valid")


@pytest.mark.parametrize("ending", ["bmp", "webp", "gif", "tiff", "tif", "png"])
def test_images_of_every_kind_are_read(ending: str, tmp_path: Path):
    for part in ("train", "test"):
        image(tmp_path / part / "dark" / f"1.{ending}", 30, **({"lossless": True} if ending == "webp" else {}))
        image(tmp_path / part / "light" / "1.png", 200)
    loaded = image_folder(tmp_path, (3, 4, 4))
    assert loaded.train.inputs[:, 0, 0, 0].tolist() == [30, 200] and loaded.notes == ()


def test_of_several_frames_the_first_is_read_and_said(tmp_path: Path):
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    for part in ("train", "test"):
        image(tmp_path / part / "a" / "1.png", 9)
        (tmp_path / part / "b").mkdir()
        frames[0].save(tmp_path / part / "b" / "1.gif", save_all=True, append_images=frames[1:])
    loaded = image_folder(tmp_path, (1, 4, 4))
    assert loaded.train.inputs[1].unique().tolist() == [40]
    assert loaded.notes == ("2 of 4 images have several frames: the first is read",)


def test_an_image_of_floats_is_refused(tmp_path: Path):
    for part in ("train", "test"):
        image(tmp_path / part / "a" / "1.png", 9)
        (tmp_path / part / "b").mkdir()
        Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / part / "b" / "1.tiff")
    with pytest.raises(UserError, match=r"b/1\.tiff: this image holds floats; save it with 8 or 16 bits"):
        image_folder(tmp_path, (1, 4, 4))


def photos(folder: Path, *parts: str) -> Path:
    for number, part in enumerate(parts):
        for label, name in enumerate(("a", "b")):
            for index in range(6):
                image(folder / part / name / f"{index}.png", 100 * label + 10 * index + number)
    return folder


def test_validation_images_may_have_a_folder_of_their_own(tmp_path: Path):
    settings = DataSettings(source="folder", folder=str(photos(tmp_path, "train", "test", "val")), image_size=4,
                            channels=1, validation="val", calibration=2)  # fmt: skip
    data = load(settings, seed=0)
    assert [len(part) for part in (data.train, data.validation, data.calibration, data.test)] == [10, 12, 2, 12]
    assert (data.validation.inputs[:, 0, 0, 0] % 10).unique().tolist() == [2], "as those of the folder val are"


def test_the_same_file_in_training_and_test_is_said_by_name(tmp_path: Path):
    folder = photos(tmp_path, "train", "test")
    (folder / "test" / "b" / "0.png").write_bytes((folder / "train" / "a" / "3.png").read_bytes())
    settings = DataSettings(source="folder", folder=str(folder), image_size=4, validation=2, calibration=2)
    (note,) = load(settings, seed=0).notes
    assert note.startswith("1 of 12 test images are training images, too (test/b/0.png is train/a/3.png)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0}, "hold out at least 1"),
        ({"validation": "val"}, 'source = "fashion_mnist" has none; give a number'),
        ({"validation": "", "source": "folder"}, "give a number, or name a folder"),
    ],
)
def test_validation_that_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DataSettings(**settings)


def test_a_validation_folder_of_other_classes_is_refused(tmp_path: Path):
    folder = photos(tmp_path, "train", "test", "val")
    (folder / "val" / "b").rename(folder / "val" / "c")
    with pytest.raises(UserError, match=r"train/ has the classes \['a', 'b'\], val/ has \['a', 'c'\]"):
        image_folder(folder, (1, 4, 4), "val")


def test_a_folder_is_a_class_whatever_its_name_says(tmp_path: Path):
    for name in ("None", "nan", "yes"):
        touch(tmp_path / name / "1.png")
    assert class_names(tmp_path) == ("None", "nan", "yes")


def test_files_behind_links_are_read_once(tmp_path: Path):
    for name in ("train/a/1.png", "train/b/1.png", "elsewhere/2.png"):
        touch(tmp_path / name)
    (tmp_path / "train/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/a/round").symlink_to(tmp_path / "train/a")
    found = find_files(tmp_path / "train", ("a", "b"), (".png",), "images")
    assert [file.relative_to(tmp_path / "train").as_posix() for file in found.files] == [
        "a/1.png", "a/more/2.png", "b/1.png",
    ]  # fmt: skip
