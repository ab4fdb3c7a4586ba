import pytest
import torch

from distiq.data.images import Images
from distiq.data.labels import VOID
from distiq.data.placed import Placement, moved_boxes
from distiq.data.samples import Split, in_memory
from distiq.data.splits import Data
from distiq.data.views import Views
from distiq.recipe.data import ViewSettings
from distiq.training.batches import Batches

SIZE = (24, 32)
PLAIN = ViewSettings(flip=False, shift=0)
ALL = ViewSettings(flip=True, flip_vertical=True, shift=3, scale=0.5, crop=0.5, mosaic=0.6, colour=0.3)


def spots(count: int = 6) -> tuple[Split, Split]:
    """Dark images with a bright rectangle, whose place the mask and the box give."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 3, *SIZE, dtype=torch.uint8)
    masks = torch.zeros(count, *SIZE, dtype=torch.uint8)
    boxes = torch.full((count, 2, 6), 0.0)
    boxes[:, :, 0] = -1
    for number in range(count):
        y, x = (int(torch.randint(2, side - 12, (), generator=generator)) for side in SIZE)
        images[number, :, y : y + 9, x : x + 10] = 255
        masks[number, y : y + 9, x : x + 10] = 1
        boxes[number, 0] = torch.tensor([0, x, y, x + 10, y + 9, 0.0])
    return in_memory(images, masks), in_memory(images, boxes)


def view(split: Split, settings: ViewSettings, number: int = 0, indices: list[int] | None = None):  # type: ignore[no-untyped-def]
    chosen = torch.arange(len(split)) if indices is None else torch.tensor(indices)
    return Views(settings, 3).shown(split, Images((3, *SIZE)), number, chosen)


def test_without_settings_nothing_moves():
    for split in spots():
        shown = view(split, PLAIN)
        assert torch.equal(shown.inputs, split.inputs) and torch.equal(shown.labels, split.labels)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        ViewSettings(flip=True, shift=0),
        ViewSettings(flip=False, flip_vertical=True, shift=0),
        ViewSettings(flip=False, shift=4),
        ViewSettings(flip=False, shift=0, crop=0.4),
        ViewSettings(flip=False, shift=0, scale=0.6),
        ViewSettings(flip=True, flip_vertical=True, shift=2, scale=0.5, crop=0.5, mosaic=1.0),
    ],
    ids=["flip", "flip_vertical", "shift", "crop", "scale", "mosaic"],
)
def test_masks_and_boxes_go_where_the_pixels_go(settings: ViewSettings, number: int):
    masked, boxed = spots()
    with_mask, with_boxes = view(masked, settings, number), view(boxed, settings, number)
    assert torch.equal(with_mask.inputs, with_boxes.inputs)
    bright = with_mask.inputs.float().mean(1) > 180
    assert ((with_mask.labels == 1) == bright).float().mean() > 0.97, "but for edges that are read between two pixels"
    inside = torch.zeros(len(bright), *SIZE, dtype=torch.bool)
    for image, rows in zip(inside, with_boxes.labels, strict=True):
        for label, x0, y0, x1, y1, _ in rows.round().long().tolist():
            if label >= 0:
                image[y0:y1, x0:x1] = True
    assert (inside == bright).float().mean() > 0.93, "but for boxes that are dropped"


def test_a_view_depends_on_seed_number_and_index_alone():
    for split in spots():
        whole, one = view(split, ALL, 2), view(split, ALL, 2, [4])
        assert torch.equal(whole.inputs[4:5], one.inputs) and torch.equal(whole.labels[4:5], one.labels)
        assert not torch.equal(whole.inputs, view(split, ALL, 3).inputs)


def test_a_training_goes_on_within_an_epoch_of_mosaics_with_the_same_views():
    for split in spots():
        images = Images((3, *SIZE), mean=(0.5,) * 3, std=(1.0,) * 3)
        data = Data("drawn", ("spot", "other"), split, split, split, split, images)
        batches = Batches(data, Views(ALL, 3), 2, 0)
        whole, rest = list(batches.epoch(1)), list(batches.epoch(1, start=1))
        assert len(whole) == 3 and len(rest) == 2
        for one, other in zip(whole[1:], rest, strict=True):
            assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)


def test_beyond_the_image_is_grey_and_void():
    masked, _ = spots()
    shown = view(masked, ViewSettings(flip=False, shift=0, scale=3.0))
    is_void = shown.labels == VOID
    assert is_void.any() and (shown.inputs.permute(0, 2, 3, 1)[is_void] > 0).all(), "114, or near to it at an edge"


def test_no_box_is_left_that_lost_more_than_it_may():
    _, boxed = spots()
    for least in (0.25, 0.8):
        settings = ViewSettings(shift=12, min_visibility=least)
        shown = torch.cat([view(boxed, settings, number).labels for number in range(8)]).flatten(0, 1)
        left, upper, right, lower = shown[shown[:, 0] >= 0, 1:5].unbind(1)
        areas = (right - left) * (lower - upper)
        assert areas.max() == 90, "most are not cut"
        assert least * 90 <= areas.min() < (least + 0.15) * 90


def test_boxes_that_a_view_cuts():
    boxes = torch.tensor([[[0, 0, 0, 8, 8, 0.0], [1, 20, 0, 40, 8, 0], [1, 0, 0, 1, 20, 0], [-1, 0, 0, 0, 0, 0]]])
    ones = torch.ones(1)
    where = Placement(4 * ones, 0 * ones, 32 * ones, 24 * ones, torch.tensor([False]), torch.tensor([False]))
    window = torch.tensor([[0.0, 0, 32, 24]])
    moved = moved_boxes(boxes, where, SIZE, window, 0.25)[0]
    assert moved[0].tolist() == [0, 0, 0, 4, 8, 0], "half of it is left"
    stricter = moved_boxes(boxes, where, SIZE, window, 0.6)[0, :, 0].tolist()
    assert stricter == [-1, 1, -1, -1], "more than half of it was to be left; the second is not cut"
    assert moved[1].tolist() == [1, 16, 0, 32, 8, 0]
    assert moved[2, 0] == -1, "what keeps less than a fourth is dropped"
    where = where._replace(mirrored=torch.tensor([True]))
    assert moved_boxes(boxes, where, SIZE, window, 0.25)[0, 0].tolist() == [0, 28, 0, 32, 8, 0]
    where = where._replace(upended=torch.tensor([True]))
    assert moved_boxes(boxes, where, SIZE, window, 0.25)[0, 0].tolist() == pytest.approx([0, 28, 16, 32, 24, 0])
