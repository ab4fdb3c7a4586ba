import base64
import io

import torch
from PIL import Image

from distiq.data.images import Images
from distiq.data.samples import in_memory
from distiq.data.splits import Data
from distiq.run.scenes import scenes_of


def data_of(labels: torch.Tensor) -> Data:
    images = torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)
    split = in_memory(images, labels)
    return Data("drawn", ("cat", "dog"), split, split, split, split, Images((3, 16, 16)))


def test_boxes_are_counted_by_what_they_were_taken_for_and_the_worst_image_comes_first():
    right = torch.tensor([[[0, 0, 0, 8, 8, 0.0], [1, 8, 8, 16, 16, 0]], [[0, 0, 0, 8, 8, 0.0], [-1, 0, 0, 0, 0, 0]]])
    found = torch.full((2, 3, 6), -1.0)
    found[0, 0] = torch.tensor([0, 0, 0, 8, 8, 0.9])
    found[1, 0] = torch.tensor([1, 0, 0, 8, 8, 0.9])
    found[1, 1] = torch.tensor([1, 8, 8, 16, 16, 0.8])
    scenes = scenes_of(data_of(right), found)
    assert scenes is not None
    assert scenes.columns == ("cat", "dog", "missed") and scenes.rows == ("cat", "dog", "nothing there")
    assert scenes.confusion == ((1, 1, 0), (0, 0, 1), (0, 1, 0))
    assert [scene.index for scene in scenes.worst] == [1, 0]
    assert scenes.worst[0].said == "0 missed, 1 where nothing is, 1 of another class"
    assert scenes.precision["cat"][100] == 0.0 and scenes.precision["cat"][50] == 1.0
    assert scenes.colours == {"cat": "#e6194b", "dog": "#3cb44b"}, "the first two of what boxes are drawn in"


def test_masks_are_counted_by_pixel_and_drawn():
    masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    masks[1, :8] = 1
    scenes = scenes_of(data_of(masks), torch.zeros(2, 16, 16, dtype=torch.uint8))
    assert scenes is not None and scenes.confusion == ((384, 0), (128, 0)) and scenes.worst[0].index == 1
    image = Image.open(io.BytesIO(base64.b64decode(scenes.worst[0].truth_png)))
    assert image.size == (16, 16) and image.getpixel((0, 0)) != image.getpixel((0, 15))
    drawn = [tuple(int(scenes.colours[name][at : at + 2], 16) for at in (1, 3, 5)) for name in ("cat", "dog")]
    assert image.getpixel((0, 15)) == tuple(value // 2 for value in drawn[0]), "half the colour on a black image"
    assert image.getpixel((0, 0)) == tuple(value // 2 for value in drawn[1])
