import json
from pathlib import Path

import pytest
from PIL import Image

from distiq.data.annotations import read_part
from distiq.errors import UserError
from tests.data.drawn_scenes import draw_boxes

VOC = """<annotation><filename>one.jpg</filename><size><width>20</width><height>10</height></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>8</xmax><ymax>10</ymax></bndbox></object>
</annotation>"""


def image(path: Path, size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_coco_whose_ids_are_not_one_to_n(tmp_path: Path):
    part = read_part(draw_boxes(tmp_path / "coco", 4, 2), "train")
    assert part.names == ("disc", "square"), "by their ids"
    content = json.loads((tmp_path / "coco" / "train.json").read_text())
    x, y, width, height = content["annotations"][0]["bbox"]
    assert part.images[0].boxes[0].corners == (x, y, x + width, y + height)


def test_voc_counts_from_one(tmp_path: Path):
    image(tmp_path / "train" / "one.jpg")
    text(tmp_path / "train" / "one.xml", VOC)
    part = read_part(tmp_path, "train")
    assert part.images[0].boxes[0].label == "cat" and part.images[0].boxes[0].corners == (0, 2, 8, 10)


def test_voc_in_its_own_folders(tmp_path: Path):
    image(tmp_path / "JPEGImages" / "one.jpg")
    text(tmp_path / "Annotations" / "one.xml", VOC)
    text(tmp_path / "ImageSets" / "Main" / "test.txt", "one\n")
    assert read_part(tmp_path, "test").images[0].boxes[0].label == "cat"


@pytest.mark.parametrize(
    "names", ["names: [cat, 'dog']", "names:\n  0: cat\n  1: dog\n", "names:\n- cat\n- dog\nnc: 2"]
)
def test_yolo(tmp_path: Path, names: str):
    for number in range(2):
        image(tmp_path / "images" / "train" / f"{number}.jpg")
    text(tmp_path / "labels" / "train" / "0.txt", "1 0.5 0.5 0.2 0.4\n")
    text(tmp_path / "data.yaml", names)
    part = read_part(tmp_path, "train")
    assert part.names == ("cat", "dog") and part.images[1].boxes == (), "an image without a file is empty"
    assert part.images[0].boxes[0].label == "dog"
    assert part.images[0].boxes[0].corners == pytest.approx((8, 3, 12, 7))


def test_two_formats_are_refused(tmp_path: Path):
    draw_boxes(tmp_path, 2, 2)
    image(tmp_path / "train" / "one.jpg")
    text(tmp_path / "train" / "one.xml", VOC)
    with pytest.raises(UserError, match=r"annotated twice, in .*train.json and .*train/\*.xml; leave one"):
        read_part(tmp_path, "train")


def test_no_test_annotations_are_refused(tmp_path: Path):
    draw_boxes(tmp_path, 2, 2)
    (tmp_path / "test.json").unlink()
    with pytest.raises(UserError, match=r"no annotations of a test part; give it test\.json of COCO"):
        read_part(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["images"][0].update(file_name="gone.png"), "the image gone.png is in none of"),
        (lambda c: c["annotations"][0].update(category_id=99), "the category 99, which no class is called"),
        (lambda c: c["annotations"][0].update(image_id=99), "is of image 99, which is not listed"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 5]), "give x, y, width and height"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 5, "wide"]), "'wide' is no coordinate"),
        (lambda c: c["images"][0].update(width=65), "says that .* has 65 x 48 pixels, but it has 64 x 48"),
        (lambda c: c["images"][1].update(id=c["images"][0]["id"]), "two images have the same id"),
        (lambda c: c.pop("categories"), "no COCO annotations"),
        (lambda c: c["categories"][0].pop("name"), r"the category \d+ has no name; give it one"),
        (lambda c: c["categories"][0].update(name=" "), r"the category \d+ has no name; give it one"),
    ],
)
def test_wrong_coco_is_refused(tmp_path: Path, change, said: str):  # type: ignore[no-untyped-def]
    draw_boxes(tmp_path, 2, 2)
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] == content["images"][0]["id"]]
    change(content)
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_part(tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 10 10 5 5", "counts pixels; YOLO's boxes are shares"),
        ("cat 0.5 0.5 0.1 0.1", "is no box; write class"),
        ("4 0.5 0.5 0.1 0.1", "has the class 4, but 1 are named"),
    ],
)
def test_wrong_yolo_is_refused(tmp_path: Path, line: str, said: str):
    image(tmp_path / "train" / "images" / "one.jpg")
    text(tmp_path / "train" / "labels" / "one.txt", line)
    text(tmp_path / "classes.txt", "cat\n")
    with pytest.raises(UserError, match=said):
        read_part(tmp_path, "train")


def test_wrong_voc_is_refused(tmp_path: Path):
    image(tmp_path / "train" / "one.jpg")
    text(tmp_path / "train" / "one.xml", VOC.replace("<name>cat</name>", ""))
    with pytest.raises(UserError, match="an object has no name"):
        read_part(tmp_path, "train")
    text(tmp_path / "train" / "one.xml", '<!DOCTYPE a [<!ENTITY b "c">]>' + VOC)
    with pytest.raises(UserError, match="declares a document type"):
        read_part(tmp_path, "train")
    text(tmp_path / "train" / "one.xml", VOC)
    (tmp_path / "train" / "one.jpg").unlink()
    with pytest.raises(UserError, match=r"its image one.jpg is missing"):
        read_part(tmp_path, "train")


def test_what_voc_calls_difficult_is_no_box_to_look_for(tmp_path: Path):
    image(tmp_path / "train" / "one.jpg")
    part = "<part><name>ear</name><bndbox><xmin>1</xmin></bndbox></part>"
    text(tmp_path / "train" / "one.xml", VOC.replace("<name>cat", f"<difficult>1</difficult>{part}<name>cat"))
    part = read_part(tmp_path, "train")
    assert [box.crowd for box in part.images[0].boxes] == [True]
    assert part.notes == ("1 objects are marked difficult; they are neither looked for nor counted as missed",)


def test_cocos_own_layout_has_years(tmp_path: Path):
    content = json.loads((draw_boxes(tmp_path / "drawn", 4, 2) / "train.json").read_text())
    for one in content["images"]:
        source = next((tmp_path / "drawn").rglob(one["file_name"]))
        image(tmp_path / "coco" / "train2017" / source.name, (64, 48))
        one["file_name"] = source.name
    text(tmp_path / "coco" / "annotations" / "instances_train2017.json", json.dumps(content))
    assert len(read_part(tmp_path / "coco", "train").images) == 4


def test_outlines_of_yolo_become_boxes_and_files_without_images_are_said(tmp_path: Path):
    image(tmp_path / "images" / "train2017" / "a.jpg")
    text(tmp_path / "labels" / "train2017" / "a.txt", "0 0.1 0.2 0.5 0.3 0.3 0.8\n")
    text(tmp_path / "labels" / "train2017" / "ghost.txt", "0 0.1 0.2 0.5 0.3\n")
    text(tmp_path / "coco8.yaml", "train: x\nnames:\n  # kinds\n  0: cat # small\n")
    part = read_part(tmp_path, "train")
    assert part.images[0].boxes[0].corners == pytest.approx((2, 2, 10, 8))
    assert part.names == ("cat",)
    assert part.notes[0].startswith("1 outlines") and "ghost.txt" in part.notes[1]


def coco(folder: Path, **changes: object) -> dict[str, object]:
    """One image of 20 x 10 with one box, as train.json; `changes` replace keys of the annotation."""
    content = {
        "images": [{"id": 1, "file_name": "one.jpg", "height": 10, "width": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [2, 1, 4, 3], **changes}],
        "categories": [{"id": 0, "name": "cat"}],
    }
    image(folder / "train" / "one.jpg")
    text(folder / "train.json", json.dumps(content))
    return content


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"bbox": ["2", "1.0", "4", "3"]}, {"category_id": "0", "image_id": "1"}, {"category_id": 0.0},
        {"bbox": [], "segmentation": [[2, 1, 6, 1, 6, 4], [2, 1, 3, 4]]}, {"iscrowd": "0"},
        {"bbox": None, "segmentation": [2, 1, 6, 1, 6, 4]},
    ],
)  # fmt: skip
def test_coco_as_tools_write_it(tmp_path: Path, changes: dict[str, object]):
    coco(tmp_path, **changes)
    (box,) = read_part(tmp_path, "train").images[0].boxes
    assert box == ("cat", (2, 1, 6, 4), False)


def test_sizes_of_coco_may_be_text_and_a_mark_may_stand_in_front(tmp_path: Path):
    content = coco(tmp_path)
    content["images"] = [{"id": "1", "file_name": "train\\ONE.jpg", "height": "10", "width": 20.0}]
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_part(tmp_path, "train").images[0].file == tmp_path / "train" / "one.jpg"


def test_no_box_at_all_is_refused(tmp_path: Path):
    coco(tmp_path, bbox=None)
    with pytest.raises(UserError, match="annotation 1: its box is None; give x, y, width and height"):
        read_part(tmp_path, "train")


def test_images_that_nothing_annotates_or_something_annotates_twice_are_said(tmp_path: Path):
    content = coco(tmp_path)
    image(tmp_path / "train" / "two.jpg")
    assert read_part(tmp_path, "train").notes == (
        "1 images beside them are not annotated here and are left out (two.jpg the first)",
    )
    content["images"] = [
        {"id": number, "file_name": name} for number, name in enumerate(["two.jpg", "one.jpg", "one.jpg"])
    ]
    text(tmp_path / "train.json", json.dumps(content))
    assert read_part(tmp_path, "train").notes == ("1 images are annotated twice, and each annotation counts",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_voc_is_read_in_the_encoding_that_it_declares(tmp_path: Path, encoding: str):
    image(tmp_path / "train" / "one.jpg")
    declared = encoding.removesuffix("-sig")
    xml = f'<?xml version="1.0" encoding="{declared}"?>\r\n{VOC.replace("cat", "Käfer")}'
    (tmp_path / "train" / "one.xml").write_bytes(xml.encode(encoding))
    assert read_part(tmp_path, "train").names == ("Käfer",)


def test_voc_whose_annotations_lie_in_a_folder_of_their_own(tmp_path: Path):
    image(tmp_path / "train" / "images" / "one.JPG")
    text(tmp_path / "train" / "annotations" / "one.xml", VOC)
    assert read_part(tmp_path, "train").images[0].file.name == "one.JPG"


def test_lists_of_voc_name_files_with_spaces_and_in_folders(tmp_path: Path):
    image(tmp_path / "JPEGImages" / "day 1" / "my cat.PNG")
    text(tmp_path / "Annotations" / "day 1" / "my cat.xml", VOC)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("day 1/my cat\r\n", encoding="utf-8-sig")
    assert read_part(tmp_path, "train").images[0].file.name == "my cat.PNG"


@pytest.mark.parametrize(("images", "labels"), [("Train/Images", "Train/Labels"), ("obj_train_data", "obj_train_data")])
def test_yolo_in_the_folders_of_other_tools(tmp_path: Path, images: str, labels: str):
    image(tmp_path / images / "one.jpg")
    (tmp_path / labels).mkdir(parents=True, exist_ok=True)
    (tmp_path / labels / "one.txt").write_text("\r\n1.0 0.5 0.5 0.2 0.4\r\n", encoding="utf-8-sig")
    text(tmp_path / "obj.names", "cat\ndog\n")
    (box,) = read_part(tmp_path, "train").images[0].boxes
    assert box.label == "dog" and box.corners == pytest.approx((8, 3, 12, 7))


def test_keypoints_of_yolo_are_no_outline(tmp_path: Path):
    image(tmp_path / "images" / "train" / "one.jpg")
    text(tmp_path / "labels" / "train" / "one.txt", "0 0.5 0.5 0.2 0.4 " + "0.1 0.9 " * 3)
    text(tmp_path / "data.yaml", "kpt_shape: [3, 2]\nnames: [person]\n")
    part = read_part(tmp_path, "train")
    assert part.images[0].boxes[0].corners == pytest.approx((8, 3, 12, 7)) and part.notes == ()
