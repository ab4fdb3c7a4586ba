import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from distiq.data.boxes import boxed_images, packaged_bccd
from distiq.data.load import load
from distiq.errors import UserError
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file
from tests.data.drawn_scenes import draw_boxes

SHAPE = (3, 48, 64)


def changed(folder: Path, part: str, boxes: list[list[float]]) -> None:
    """Gives the first image of a part these boxes alone."""
    path = folder / f"{part}.json"
    content = json.loads(path.read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != first]
    content["annotations"] += [
        {"id": 900 + n, "image_id": first, "category_id": 10, "bbox": b} for n, b in enumerate(boxes)
    ]
    path.write_text(json.dumps(content))


def test_boxes_of_a_folder_are_brought_into_the_form_of_the_images(tmp_path: Path):
    folder = draw_boxes(tmp_path, 4, 2)
    changed(folder, "train", [[10, 20, 30, 8]])
    whole, half = boxed_images(folder, SHAPE), boxed_images(folder, (3, 24, 64))
    assert whole.train.labels[0, 0].tolist() == [0, 10, 20, 40, 28, 0]
    assert half.train.labels[0, 0].tolist() == [0, 5, 10, 20, 14, 0], "half as large, in the upper left corner"
    assert (whole.train.labels[0, 1:, 0] == -1).all()


def test_boxes_beyond_the_image_are_cut_off_and_flat_ones_left_out(tmp_path: Path):
    folder = draw_boxes(tmp_path, 4, 2)
    changed(folder, "train", [[-5, 40, 20, 20], [10, 10, 0, 5], [70, 10, 5, 5]])
    loaded = boxed_images(folder, SHAPE)
    rows = loaded.train.labels[0]
    assert rows[rows[:, 0] >= 0].tolist() == [[0, 0, 40, 15, 48, 0]]
    assert "train: 2 boxes reach beyond their image; they are cut off at its sides" in loaded.notes
    assert "train: 2 boxes of less than one pixel are left out" in loaded.notes


def test_an_image_may_be_empty(tmp_path: Path):
    folder = draw_boxes(tmp_path, 4, 2)
    changed(folder, "train", [])
    loaded = boxed_images(folder, SHAPE)
    assert (loaded.train.labels[0, :, 0] == -1).all()
    assert "train: 1 of 4 images have no box" in loaded.notes


def test_a_class_without_training_images_is_refused(tmp_path: Path):
    folder = draw_boxes(tmp_path, 4, 2)
    content = json.loads((folder / "test.json").read_text())
    content["categories"].append({"id": 30, "name": "star"})
    content["annotations"][0]["category_id"] = 30
    (folder / "test.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match='the test part has boxes of "star", which no training image shows'):
        boxed_images(folder, SHAPE)


def test_the_packed_blood_cells():
    loaded = packaged_bccd((3, 60, 80))
    assert loaded.classes == ("RBC", "WBC", "Platelets")
    assert (len(loaded.train), len(loaded.validation or ()), len(loaded.test)) == (205, 87, 72)
    counts = [int((part.labels[:, :, 0] >= 0).sum()) for part in (loaded.train, loaded.test)]
    assert counts == [2804, 945]
    assert loaded.train.samples.shape == (3, 60, 80)
    rows = loaded.test.labels[loaded.test.labels[:, :, 0] >= 0]
    assert float(rows[:, 3].max()) <= 80 and bool((rows[:, 3] > rows[:, 1]).all())
    assert torch.equal(packaged_bccd((3, 60, 80)).test.labels, loaded.test.labels)


def test_validation_images_that_do_not_steer_are_trained_on():
    whole, joined = packaged_bccd((3, 60, 80)), packaged_bccd((3, 60, 80), 27)
    assert (len(joined.train), len(joined.validation), len(joined.test)) == (205 + 60, 27, 72)
    images = {tuple(one.flatten()[::97].tolist()) for part in (joined.train, joined.validation) for one in part.inputs}
    assert images == {
        tuple(one.flatten()[::97].tolist()) for part in (whole.train, whole.validation) for one in part.inputs
    }
    assert joined.notes == ("60 of the set's 87 validation images are trained on, 27 steer",)


def test_the_recipe_of_the_blood_cells_reads_a_folder_of_boxes_in_their_place(tmp_path: Path):
    draw_boxes(tmp_path)
    changes = [f'data.folder="{tmp_path}"', "data.image_size=[24,32]", "data.validation=2", "data.calibration=2"]
    recipe = load_recipe(recipe_file("bccd"), changes)
    assert load(recipe.data, seed=0).classes == boxed_images(tmp_path, (3, 24, 32)).classes


@pytest.mark.parametrize("size", [(1, 1), (8000, 50), (3, 900)])
def test_images_of_any_size(tmp_path: Path, size: tuple[int, int]):
    folder = draw_boxes(tmp_path, 4, 2)
    content = json.loads((folder / "train.json").read_text())
    Image.new("RGB", size, (200, 0, 0)).save(folder / "images" / "odd.png")
    content["images"].append({"id": 999, "file_name": "odd.png", "width": size[0], "height": size[1]})
    content["annotations"].append({"id": 999, "image_id": 999, "category_id": 10, "bbox": [0, 0, *size]})
    (folder / "train.json").write_text(json.dumps(content))
    loaded = boxed_images(folder, SHAPE)
    label, x0, y0, x1, y1, _ = loaded.train.labels[4, 0].tolist()
    assert (label, x0, y0) == (0, 0, 0) and 0 < x1 <= 64 and 0 < y1 <= 48
    seen = (loaded.train.inputs[4, 0] == 200).nonzero().max(0).values + 1
    assert seen.tolist() == [max(1, round(y1)), max(1, round(x1))], "the box is the image"


def test_a_box_that_stands_twice_counts_once_and_that_is_said(tmp_path: Path):
    folder = draw_boxes(tmp_path, 4, 2)
    changed(folder, "train", [[10, 20, 30, 8], [10, 20, 30, 8], [10, 20, 30, 9]])
    loaded = boxed_images(folder, SHAPE)
    assert (loaded.train.labels[0, :, 0] >= 0).sum() == 2
    assert "train: 1 boxes stand in their image more than once; one of each is kept" in loaded.notes
