"""Tables of classes and colours, as tools write them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distiq.data.mask_colours import Classes, classes_of
from distiq.data.masks import read_mask
from distiq.errors import UserError

TABLES = {
    "class_dict.csv": "name, r, g, b\nground, 0, 0, 0\nvoid, 1, 2, 3\nroad, 128, 64, 128\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nground:0,0,0::\nvoid:1,2,3::\nroad:128,64,128::\n",
    "label_colors.txt": "0 0 0\tground\n1 2 3\tVoid\n128 64 128\troad\n",
}
VOID = 255
COLOURS = np.array([[[0, 0, 0], [128, 64, 128]], [[1, 2, 3], [0, 0, 0]]], np.uint8)


@pytest.mark.parametrize("name", TABLES)
def test_colours_are_classes(tmp_path: Path, name: str):
    (tmp_path / name).write_text(TABLES[name])
    classes = classes_of(tmp_path, 255)
    assert classes == Classes(("ground", "road"), 255, {(0, 0, 0): 0, (1, 2, 3): 255, (128, 64, 128): 1})
    for form in ("RGB", "P"):
        Image.fromarray(COLOURS).convert(form, palette=Image.Palette.ADAPTIVE).save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png", classes).tolist() == [[0, 1], [255, 0]]
    Image.fromarray(COLOURS + np.uint8(1)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"holds the colour \[1, 1, 1\], which the folder's table of classes lacks"):
        read_mask(tmp_path / "mask.png", classes)


def test_equal_channels_are_numbers(tmp_path: Path):
    Image.fromarray(np.full((2, 2, 3), 7, np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", classes_of(tmp_path, 7)).tolist() == [[255, 255], [255, 255]]


def test_a_colour_of_two_classes_is_refused(tmp_path: Path):
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\nroad,1,2,3\npath,1,2,3\n")
    with pytest.raises(UserError, match=r"road and path both have the colour \[1, 2, 3\]; give each its own"):
        classes_of(tmp_path, VOID)


def test_numbers_of_classes_in_the_table_of_the_training_part(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "_classes.csv").write_text("Pixel Value, Class\r\n1, road\r\n0, background\r\n")
    assert classes_of(tmp_path, VOID).names == ("background", "road")
    (tmp_path / "train" / "_classes.csv").write_text("0, background\n2, road\n")
    with pytest.raises(UserError, match=r"_classes.csv: no table of classes; give it their numbers, 0, 1, 2 and so on"):
        classes_of(tmp_path, VOID)
