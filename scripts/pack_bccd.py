"""Packs the blood cells of BCCD, at 320 x 240, into distiq/data/bccd.

    python scripts/pack_bccd.py FOLDER      (images/, train.json, val.json, test.json, LICENSE)

Halved by area from 640 x 480; boxes in pixels of the halved images. MIT, (c) 2017 shenggan.
"""

import io
import json
import sys
import zipfile
from pathlib import Path

from PIL import Image

TARGET = Path(__file__).resolve().parent.parent / "distiq" / "data" / "bccd"
SIZE, QUALITY = (320, 240), 90


def main(folder: Path) -> None:
    about: dict[str, object] = {}
    TARGET.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(TARGET / "images.zip", "w") as archive:
        for part in ("train", "val", "test"):
            content = json.loads((folder / f"{part}.json").read_bytes())
            kinds = sorted(content["categories"], key=lambda kind: kind["id"])
            about["classes"] = [kind["name"] for kind in kinds]
            places = {kind["id"]: number for number, kind in enumerate(kinds)}
            rows: dict[int, list[list[float]]] = {image["id"]: [] for image in content["images"]}
            for box in content["annotations"]:
                x, y, width, height = box["bbox"]
                corners = (x / 2, y / 2, (x + width) / 2, (y + height) / 2)
                rows[box["image_id"]].append([places[box["category_id"]], *corners])
            about[part] = [[image["file_name"], rows[image["id"]]] for image in content["images"]]
            for image in content["images"]:
                archive.writestr(zipfile.ZipInfo(image["file_name"]), _halved(folder / "images" / image["file_name"]))
    (TARGET / "boxes.json").write_text(json.dumps(about, separators=(",", ":")) + "\n")
    (TARGET / "LICENSE.txt").write_text((folder / "LICENSE").read_text())


def _halved(path: Path) -> bytes:
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize(SIZE, Image.Resampling.BOX).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
