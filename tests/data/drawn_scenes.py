"""Folders of drawn images: discs and squares, as masks and as boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("ground", "disc", "square")


def scenes(count: int, seed: int, size: tuple[int, int] = (48, 64)) -> list[tuple[Image.Image, Image.Image, list[Any]]]:
    """Images, their masks, and rows of class (1, 2) and corners, of (height, width)."""
    generator = np.random.default_rng(seed)
    height, width = size
    drawn = []
    for _ in range(count):
        image = Image.fromarray(generator.integers(0, 60, (height, width, 3), dtype=np.uint8))
        mask, boxes = Image.new("L", (width, height), 0), []
        for _ in range(generator.integers(1, 4)):
            side, kind = int(generator.integers(10, 18)), int(generator.integers(1, 3))
            x, y = int(generator.integers(0, width - side)), int(generator.integers(0, height - side))
            for picture, fill in ((image, (40, 220, 60) if kind == 1 else (220, 40, 40)), (mask, kind)):
                pen = ImageDraw.Draw(picture)
                (pen.ellipse if kind == 1 else pen.rectangle)((x, y, x + side - 1, y + side - 1), fill=fill)  # type: ignore[operator]
            boxes.append([kind, x, y, x + side, y + side])
        drawn.append((image, mask, boxes))
    return drawn


def draw_masks(folder: Path, train: int = 12, test: int = 6) -> Path:
    """train/, train_masks/, test/, test_masks/ and classes.txt."""
    for part, count, seed in (("train", train, 0), ("test", test, 1)):
        (folder / part).mkdir(parents=True)
        (folder / f"{part}_masks").mkdir()
        for number, (image, mask, _) in enumerate(scenes(count, seed)):
            image.save(folder / part / f"s{number % 4}_{number:02d}.png")
            mask.save(folder / f"{part}_masks" / f"s{number % 4}_{number:02d}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def coco_of(boxes: list[list[Any]], names: list[str], size: tuple[int, int] = (48, 64)) -> dict[str, Any]:
    """COCO's form of the boxes of images; ids are not 1 to N."""
    images = [{"id": 7 + 3 * n, "file_name": name, "height": size[0], "width": size[1]} for n, name in enumerate(names)]
    annotations = [
        {"id": 5 * n, "image_id": image["id"], "category_id": 10 * kind, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for image, rows in zip(images, boxes, strict=True)
        for n, (kind, x0, y0, x1, y1) in enumerate(rows)
    ]  # fmt: skip
    kinds = [{"id": 20, "name": "square"}, {"id": 10, "name": "disc"}]
    return {"images": images, "annotations": annotations, "categories": kinds}


def draw_boxes(folder: Path, train: int = 12, test: int = 6) -> Path:
    """images/, train.json and test.json."""
    (folder / "images").mkdir(parents=True)
    for part, count, seed in (("train", train, 0), ("test", test, 1)):
        drawn = scenes(count, seed)
        names = [f"{part}{number:02d}.png" for number in range(count)]
        for name, (image, _, _) in zip(names, drawn, strict=True):
            image.save(folder / "images" / name)
        (folder / f"{part}.json").write_text(json.dumps(coco_of([boxes for _, _, boxes in drawn], names)))
    return folder
