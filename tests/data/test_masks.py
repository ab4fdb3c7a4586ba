import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distiq.data.load import load
from distiq.data.mask_colours import Classes
from distiq.data.masks import VOID, has_masks, masked_images, read_mask
from distiq.errors import UserError
from distiq.recipe.data import DataSettings
from tests.data.drawn_scenes import draw_masks

SHAPE = (3, 48, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw_masks(tmp_path / "scenes", 8, 4)


def test_a_folder_of_images_and_masks(folder: Path):
    loaded = masked_images(folder, SHAPE)
    assert loaded.classes == ("ground", "disc", "square")
    assert loaded.train.labels.shape == (8, 48, 64) and loaded.train.labels.dtype == torch.uint8
    mask = np.asarray(Image.open(folder / "train_masks" / loaded.names[0][3].split("/")[1]))
    assert torch.equal(loaded.train.labels[3], torch.from_numpy(mask.copy()))


def test_images_of_another_form_stand_in_the_corner_and_beside_them_is_void(folder: Path):
    loaded = masked_images(folder, (3, 24, 64))
    assert (loaded.train.labels[:, :, 32:] == VOID).all() and (loaded.train.labels[:, :, :32] < 3).all()
    assert (loaded.train.inputs[:, :, :, 32:] == 114).all()


def test_odd_sizes(folder: Path):
    for name, size in (("odd", (1, 1)), ("long", (8000, 50))):
        Image.new("RGB", size, (9, 9, 9)).save(folder / "train" / f"{name}.png")
        Image.new("L", size, 1).save(folder / "train_masks" / f"{name}.png")
    labels = dict(zip((loaded := masked_images(folder, SHAPE)).names[0], loaded.train.labels, strict=True))
    assert (labels["train/odd.png"] != VOID).sum() == 48 * 48
    assert (labels["train/long.png"] != VOID).sum() == 64, "one row at least"


def test_void_by_its_value_and_by_its_name(folder: Path):
    (folder / "classes.txt").write_text("ground\ndisc\nvoid\n")
    loaded = masked_images(folder, SHAPE)
    assert loaded.classes == ("ground", "disc") and set(loaded.train.labels.unique().tolist()) == {0, 1, VOID}
    (folder / "classes.txt").unlink()
    assert masked_images(folder, SHAPE, void=2).classes == ("0", "1")


def test_images_are_held_out_by_the_group_that_their_names_say(folder: Path):
    settings = DataSettings(
        source="masks", folder=str(folder), image_size=(48, 64), validation=2, calibration=2, group="^[^_]+"
    )
    data = load(settings, 0)
    assert (len(data.train), len(data.validation), len(data.calibration)) == (4, 2, 2)


def test_a_group_that_no_name_matches_is_refused(folder: Path):
    settings = DataSettings(source="masks", folder=str(folder), image_size=(48, 64), group="^scene[0-9]")
    with pytest.raises(UserError, match=r'"\^scene\[0-9\]" matches no image\'s name, such as s0_00.png; correct it'):
        load(settings, 0)


def test_a_mask_may_be_called_after_the_whole_name_of_its_image(folder: Path):
    for mask in list((folder / "train_masks").iterdir()):
        mask.rename(mask.with_name(f"{mask.stem}.png.png"))
    assert len(masked_images(folder, SHAPE).train.labels) == 8


def test_numbers_with_wide_gaps_are_no_classes(folder: Path):
    (folder / "classes.txt").unlink()
    for mask in (*(folder / "train_masks").iterdir(), *(folder / "test_masks").iterdir()):
        Image.fromarray(np.array(Image.open(mask)) * 100).save(mask)
    with pytest.raises(UserError, match=r"hold 0, 100, 200 alone; number the classes 0, 1, 2 .* or name all 201 in"):
        masked_images(folder, SHAPE)


def spoil(folder: Path, name: str, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(folder / "train_masks" / name)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((48, 60), np.uint8), r"60 x 48 pixels, its image 64 x 48; make them alike"),
        (np.full((48, 64), 7, np.uint8), r"holds the value 7, but there are 3 classes \(0 to 2\); name the class"),
        (np.full((48, 64, 3), (9, 8, 7), np.uint8), r"holds colours; save it as an image of class numbers"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(folder: Path, mask: np.ndarray, said: str):
    spoil(folder, "s1_01.png", mask)
    with pytest.raises(UserError, match=said):
        masked_images(folder, SHAPE)


def test_missing_parts_are_refused(folder: Path):
    (folder / "train_masks" / "s1_01.png").unlink()
    with pytest.raises(UserError, match=r"s1_01.png: has no mask in"):
        masked_images(folder, SHAPE)
    (folder / "train" / "s1_01.png").unlink()
    Image.new("L", (64, 48)).save(folder / "train_masks" / "alone.png")
    with pytest.raises(UserError, match="there is no image of this mask"):
        masked_images(folder, SHAPE)
    (folder / "train_masks" / "alone.png").unlink()
    (folder / "test_masks").rename(folder / "elsewhere")
    with pytest.raises(UserError, match=r"has no mask in"):
        masked_images(folder, SHAPE)
    (folder / "test").rename(folder / "gone")
    with pytest.raises(UserError, match="has no test part"):
        masked_images(folder, SHAPE)


def test_masks_beside_their_images(folder: Path, tmp_path: Path):
    for part in ("train", "test"):
        (tmp_path / "beside" / part).mkdir(parents=True)
        for image in (folder / part).iterdir():
            Image.open(image).save(tmp_path / "beside" / part / f"{image.stem}.jpg")
            mask = Image.open(folder / f"{part}_masks" / image.name)
            mask.save(tmp_path / "beside" / part / f"{image.stem}{'_mask' * (part == 'test')}.png")
    loaded = masked_images(tmp_path / "beside", SHAPE)
    assert len(loaded.train) == 8 and len(loaded.test) == 4 and loaded.classes == ("0", "1", "2")


def test_a_palette_is_read_by_its_numbers(tmp_path: Path):
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), "P")
    image.putpalette([number % 200 for number in range(3 * 256)])
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", Classes((), VOID, {})).tolist() == [[0, 1], [2, VOID]]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}/{}.jpg", "labels/{}/{}.png"), ("{}/{}.png", "{}annot/{}.png"), ("{}/{}.png", "{}_labels/{}_L.png"),
        ("{}/img/{}.jpg", "{}/masks_machine/{}.png"), ("images/{}ing/{}.jpg", "annotations/{}ing/{}.png"),
        ("leftImg8bit/{}/a/{}_leftImg8bit.png", "gtFine/{}/a/{}_gtFine_labelIds.png"),
        ("JPEGImages/{}{}.jpg", "SegmentationClass/{}{}.png"), ("{}/Images/{}.JPG", "{}/Masks/{}.PNG"),
    ],
)  # fmt: skip
def test_masks_lie_where_people_have_them(folder: Path, tmp_path: Path, image: str, mask: str):
    new = tmp_path / "new"
    for part in ("train", "test"):
        for file in (folder / part).iterdir():
            for form, source in ((image, file), (mask, folder / f"{part}_masks" / file.name)):
                target = new / form.format(part, file.stem)
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.open(source).save(target)
        if "JPEG" in image:
            (new / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
            names = "".join(f"{part}{file.stem}\n" for file in (folder / part).iterdir())
            (new / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(names)
        if "gtFine" in mask:
            Image.new("RGB", (64, 48)).save(new / "gtFine" / part / "a" / "s1_01_gtFine_color.png")
    assert has_masks(new)
    loaded = masked_images(new, SHAPE)
    assert (len(loaded.train), len(loaded.test), loaded.classes) == (8, 4, ("0", "1", "2"))
    assert sorted(map(str, loaded.test.labels)) == sorted(map(str, masked_images(folder, SHAPE).test.labels))


def test_masks_of_two_values_and_no_test_part(folder: Path):
    """0 and 255 are two classes; the validation part is measured on where there is no test part, and said."""
    (folder / "classes.txt").unlink()
    for part in ("train", "test"):
        for file in (folder / f"{part}_masks").iterdir():
            Image.fromarray(255 * (np.asarray(Image.open(file)) > 0).astype(np.uint8)).save(file)
    (folder / "test").rename(folder / "val")
    (folder / "test_masks").rename(folder / "val_masks")
    loaded = masked_images(folder, SHAPE)
    assert loaded.classes == ("0", "1")
    assert set(loaded.train.labels.unique().tolist()) == {0, 1}
    assert "the validation part is measured on" in loaded.notes[0] and "255 is taken as class 1" in loaded.notes[1]
    with pytest.raises(UserError, match=r"data\.validation names the only other one"):
        masked_images(folder, SHAPE, validation="val")
    with pytest.raises(UserError, match="hold 0 classes, beside pixels of none"):
        masked_images(folder, SHAPE, void=0)


def test_masks_of_16_bits_hold_classes_and_65535_is_void(folder: Path):
    wide = np.array(Image.open(folder / "train_masks" / "s1_01.png"), np.uint16)
    wide[0, :2] = 65535, 1
    Image.fromarray(wide).save(folder / "train_masks" / "s1_01.png")
    labels = masked_images(folder, (3, 48, 64)).train.labels
    assert labels[2, 0, :2].tolist() == [VOID, 1]
    wide[0, 0] = 26001
    Image.fromarray(wide).save(folder / "train_masks" / "s1_01.png")
    with pytest.raises(
        UserError, match=r"s1_01.png: holds the value 26001, .*; save class numbers, not those of objects"
    ):
        masked_images(folder, (3, 48, 64))


def test_names_of_masks_may_have_other_forms_of_the_same_letters(folder: Path):
    (folder / "train" / "s1_01.png").rename(folder / "train" / unicodedata.normalize("NFD", "Grün 1.png"))
    (folder / "train_masks" / "s1_01.png").rename(folder / "train_masks" / unicodedata.normalize("NFC", "Grün 1.png"))
    assert len(masked_images(folder, (3, 48, 64)).train.labels) == 8


def test_lists_of_voc_name_images_of_any_ending(tmp_path: Path):
    for part in ("train", "val"):
        stem = f"{part} scene 1"
        for place, ending, mode in (("JPEGImages", "PNG", "RGB"), ("SegmentationClass", "png", "L")):
            (tmp_path / place).mkdir(exist_ok=True)
            Image.new(mode, (8, 8), 1 if mode == "L" else 0).save(tmp_path / place / f"{stem}.{ending}")
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(f"{stem}\r\n", encoding="utf-8-sig")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nground:0,0,0::\nroad:1,1,1::\n")
    loaded = masked_images(tmp_path, (3, 8, 8))
    assert loaded.classes == ("ground", "road") and loaded.train.labels.unique().tolist() == [1]
