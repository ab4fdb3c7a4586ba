import json
from pathlib import Path

import pytest
from PIL import Image

from distiq.data.annotations import read_part
from distiq.data.survey import survey
from distiq.data.unread import unread
from distiq.errors import UserError

COCO = json.dumps({"images": [], "annotations": [], "categories": []})
TABLE = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
LABELME = json.dumps({"shapes": [], "imagePath": "a.jpg"})


def folder_with(folder: Path, place: str, content: str) -> Path:
    for name in ("images/a.jpg", "train/a.jpg") if place.startswith("train/") else ("images/a.jpg",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("place", "content", "said"),
    [
        ("result.json", COCO, "result.json annotates images that are in no part; split them"),
        ("annotations/instances_default.json", COCO, "annotations/instances_default.json annotates images"),
        ("annotations/a.xml", "<annotation/>", r"annotations/\*.xml annotates images that are in no part"),
        ("labels/a.txt", "0 0.5 0.5 0.1 0.1", r"labels/\*.txt annotates images that are in no part"),
        ("train/a.json", LABELME, r"a.json: is of LabelMe, .* convert the annotations to COCO"),
        ("train/_annotations.csv", TABLE, r"_annotations.csv: is a table of boxes, .* export them as COCO"),
    ],
)
def test_annotations_that_are_not_read_are_named_with_what_to_do(tmp_path: Path, place: str, content: str, said: str):
    folder = folder_with(tmp_path, place, content)
    for read in (survey, lambda folder: read_part(folder, "train")):
        with pytest.raises(UserError, match=said):
            read(folder)


@pytest.mark.parametrize("place", ["rows.json", "train/a/notes.json", "labels/classes.txt", "train.csv"])
def test_other_files_are_no_annotations(tmp_path: Path, place: str):
    assert unread(folder_with(tmp_path, place, '[{"text": "images"}]')) == "" == unread(tmp_path / "missing")
