import hashlib
import subprocess
import sys

import pytest
import torch

from distiq.data.images import Images
from distiq.data.labels import BOXES, MASK
from distiq.data.samples import Split, in_memory
from distiq.data.text import Text, Words
from distiq.data.views import Views, check_views, philox, uniform
from distiq.errors import UserError
from distiq.recipe.data import TextViewSettings, ViewSettings

STILL = {"flip": False, "shift": 0, "crop": 1.0, "erase": 0.0}
EVERYTHING = ViewSettings(flip=True, shift=2, crop=0.5, erase=0.5)


def make_images(count=24, channels=3, height=8, width=10, dtype=torch.uint8):
    images = torch.randint(1, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(0))
    return images.to(torch.uint8) if dtype == torch.uint8 else images.float() / 255


def alone(**settings) -> Views:
    """Views that do one thing only."""
    return Views(ViewSettings(**{**STILL, **settings}), seed=3)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers_of_random123(counter, key, answer):
    words = tuple(torch.tensor([int(word, 16)] * 2) for word in counter.split())
    found = philox(words, tuple(int(word, 16) for word in key.split()))
    assert [word.tolist() for word in found] == [[int(word, 16)] * 2 for word in answer.split()]


def test_uniform_numbers_are_uniform():
    numbers = uniform(5, 0, torch.arange(20_000), 6)
    assert numbers.shape == (20_000, 6)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    # Standard errors: 0.289 / sqrt(20000) = 0.002 of a mean, 1 / sqrt(20000) = 0.007 of a correlation.
    torch.testing.assert_close(numbers.mean(0), torch.full((6,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.corrcoef(numbers.T), torch.eye(6), atol=0.035, rtol=0)


def test_more_draws_leave_the_first_as_they_are():
    assert torch.equal(uniform(5, 2, torch.arange(9), 3), uniform(5, 2, torch.arange(9), 11)[:, :3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_view_is_the_same_in_any_order_and_any_batch(dtype):
    images, views, everyone = make_images(dtype=dtype), Views(EVERYTHING, 3), torch.arange(24)
    whole = views.view(images, 4, everyone)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(views.view(images[order], 4, order), whole[order])
    pieces = [views.view(images[part], 4, part) for part in everyone.split([1, 7, 16])]
    assert torch.equal(torch.cat(pieces), whole)


def test_a_view_is_the_same_in_another_process():
    script = """
import hashlib, torch
from distiq.data.labels import BOXES, MASK
from distiq.data.samples import Split, in_memory
from distiq.data.views import Views
from distiq.recipe.data import ViewSettings
images = torch.randint(1, 256, (24, 3, 8, 10), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
torch.manual_seed(99)
view = Views(ViewSettings(flip=True, shift=2, crop=0.5, erase=0.5), 3).view(images, 4, torch.arange(24))
print(hashlib.sha256(view.numpy().tobytes()).hexdigest())
"""
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    here = Views(EVERYTHING, 3).view(make_images(), 4, torch.arange(24))
    assert there == hashlib.sha256(here.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(("seed", "number"), [(3, 5), (4, 4), (3 + 2**32, 4)])
def test_another_number_or_seed_gives_another_view(seed, number):
    images, everyone = make_images(), torch.arange(24)
    first = Views(EVERYTHING, 3).view(images, 4, everyone)
    assert not torch.equal(Views(EVERYTHING, seed).view(images, number, everyone), first)


def test_the_images_that_come_in_stay_as_they_are():
    images = make_images()
    before = images.clone()
    Views(EVERYTHING, 3).view(images, 0, torch.arange(24))
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"shift": 2}, {"crop": 0.3}, {"erase": 1.0}])
def test_type_and_shape_stay(dtype, settings):
    images = make_images(dtype=dtype)
    view = alone(**settings).view(images, 0, torch.arange(24))
    assert (view.dtype, view.shape) == (images.dtype, images.shape)
    assert torch.equal(view, images) == (settings == {})


def test_flips_mirror_along_the_axes_that_they_say():
    images, indices = make_images(count=200), torch.arange(1000, 1200)
    upright = alone(flip_vertical=True).view(images, 7, indices)
    upended = (upright != images).flatten(1).any(1)
    assert torch.equal(upright[upended], images[upended].flip(2))
    assert 70 < int(upended.sum()) < 130  # 100 +- 4 standard deviations of 7
    both = alone(flip=True, flip_vertical=True).view(images, 7, indices)
    assert torch.equal(both, alone(flip=True).view(upright, 7, indices))


def test_flip_mirrors_exactly_the_chosen_images():
    images, indices = make_images(count=200), torch.arange(1000, 1200)
    view = alone(flip=True).view(images, 7, indices)
    chosen = uniform(3, 7, indices, 3)[:, 2] < 0.5
    assert torch.equal(view[chosen], torch.flip(images[chosen], [3]))
    assert torch.equal(view[~chosen], images[~chosen])
    assert 70 < int(chosen.sum()) < 130  # 100 +- 4 standard deviations of 7


@pytest.mark.parametrize("shift", [1, 3, 20])
def test_shift_moves_each_image_on_its_own(shift):
    images, indices = make_images(height=7), torch.arange(24)
    view = alone(shift=shift).view(images, 2, indices)
    moves = (uniform(3, 2, indices, 2).double() * (2 * shift + 1)).floor().long() - shift
    for image, moved, (down, right) in zip(images, view, moves.tolist(), strict=True):
        expected = torch.zeros_like(image)
        for row in range(7):
            for column in range(10):
                if 0 <= row + down < 7 and 0 <= column + right < 10:
                    expected[:, row, column] = image[:, row + down, column + right]
        assert torch.equal(moved, expected)


def test_every_shift_occurs():
    images = torch.zeros(500, 1, 7, 7)
    images[:, :, 3, 3] = 1
    view = alone(shift=1).view(images, 0, torch.arange(500))
    places = {tuple(place) for place in view.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (2, 3, 4)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_of_a_constant_image_is_constant(dtype):
    images = torch.full((50, 2, 9, 9), 77).to(dtype)
    torch.testing.assert_close(alone(crop=0.1).view(images, 0, torch.arange(50)), images)


def test_a_crop_shows_a_window_of_the_allowed_size():
    # In an image whose pixel is its own column, the differences between columns are the zoom.
    ramp = torch.arange(64.0).expand(300, 1, 64, 64)
    view = alone(crop=0.25).view(ramp, 0, torch.arange(300))
    wide = (view[:, 0, 0, 40] - view[:, 0, 0, 20]) / 20
    tall = alone(crop=0.25).view(ramp.transpose(2, 3), 0, torch.arange(300))
    tall = (tall[:, 0, 40, 0] - tall[:, 0, 20, 0]) / 20
    assert float(wide.max()) <= 1 + 1e-5
    assert float((wide / tall).max()) <= 4 / 3 + 1e-4
    assert float((wide / tall).min()) >= 3 / 4 - 1e-4
    # The area is at least a quarter unless a side was cut at 1: sqrt(0.25 * 3 / 4) bounds every side.
    assert float(wide.min()) >= (0.25 * 0.75) ** 0.5 - 1e-4
    assert float(view.min()) >= 0
    assert float(view.max()) <= 63


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erase_blackens_one_rectangle(dtype):
    images = make_images(count=100, height=8, width=12, dtype=dtype)
    view = alone(erase=1.0).view(images, 0, torch.arange(100))
    for image, erased in zip(images, view, strict=True):
        rows, columns = (erased == 0).all(0).nonzero(as_tuple=True)
        top, bottom, left, right = int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())
        expected = image.clone()
        expected[:, top : bottom + 1, left : right + 1] = 0
        assert torch.equal(erased, expected)
        assert 2 <= bottom - top + 1 <= 4
        assert 3 <= right - left + 1 <= 6


def test_erase_takes_its_share_of_the_images():
    images = make_images(count=400)
    changed = (alone(erase=0.25).view(images, 0, torch.arange(400)) != images).flatten(1).any(1)
    assert 65 < int(changed.sum()) < 135  # 100 +- 4 standard deviations of 8.7


def test_distinct_views_come_in_turn():
    assert [alone(distinct=3).number(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [alone().number(epoch) for epoch in range(4)] == [0, 1, 2, 3]


IMAGES = Images((1, 10, 8))
MIXED = Views(ViewSettings(shift=1, mixup=0.4, cutmix=0.4), 3)


def make_split(count: int = 40) -> Split:
    images = torch.randint(0, 256, (count, 1, 10, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return in_memory(images, torch.arange(count) % 7)


def test_mixed_views_do_not_depend_on_the_batch():
    split = make_split()
    whole = MIXED.shown(split, IMAGES, 2, torch.arange(40))
    some = torch.tensor([31, 4, 17])
    alone = MIXED.shown(split, IMAGES, 2, some)
    for one, other in zip(whole, alone, strict=True):
        assert torch.equal(one[some], other)


def test_a_sample_is_mixed_with_another_by_the_share_that_is_told():
    still = Views(ViewSettings(flip=False, shift=0, mixup=1.0), 3)
    split = make_split()
    shown = still.shown(split, IMAGES, 0, torch.arange(40))
    own, mixed = split.inputs.float(), shown.inputs.float()
    share = shown.shares.view(-1, 1, 1, 1)
    assert ((share >= 0) & (share <= 1)).all()
    # Solve for the other image, which must be one of the split with the label that is told.
    for index in torch.nonzero(shown.shares < 0.5).flatten().tolist():
        other = (mixed[index] - share[index] * own[index]) / (1 - share[index])
        distance = (split.inputs.float() - other).abs().flatten(1).amax(1)
        nearest = int(distance.argmin())
        assert distance[nearest] <= 1.01, "rounding of a pixel, at most doubled"
        assert nearest != index
        assert split.labels[nearest] == shown.partners[index]


def test_cutmix_replaces_as_many_pixels_as_its_share_says():
    still = Views(ViewSettings(flip=False, shift=0, cutmix=1.0), 3)
    images = torch.zeros(40, 1, 10, 8)
    split = in_memory(torch.arange(40).view(-1, 1, 1, 1) + images, torch.arange(40))
    shown = still.shown(split, IMAGES, 1, torch.arange(40))
    kept = (shown.inputs == split.inputs).flatten(1).float().mean(1)
    torch.testing.assert_close(kept, shown.shares)
    patched = (shown.shares < 1) & (shown.shares > 0)
    contrast = shown.inputs.flatten(1).amax(1) - shown.inputs.flatten(1).amin(1)
    assert torch.equal(contrast, (shown.partners - shown.labels).abs() * patched)


def test_shares_of_mixing_and_none():
    split = make_split(2000)
    shares = MIXED.shown(split, IMAGES, 0, torch.arange(2000)).shares
    assert float((shares < 1).float().mean()) == pytest.approx(0.8, abs=0.04)
    plain = Views(ViewSettings(), 3).shown(split, IMAGES, 0, torch.arange(2000))
    assert (plain.partners, plain.shares) == (None, None)


TEXT = Text((44,), 9)
WORDS = Words(4, torch.tensor([0, 2, 3, 4]), torch.tensor([7, 7, 7, 8]))


def texts() -> Split:
    tokens = torch.tensor([[2, *([5, 6] * 20), 3, 0, 0]]).repeat(50, 1)
    return in_memory(tokens, torch.zeros(50, dtype=torch.int64))


def reader(**settings) -> Views:
    return Views(ViewSettings(text=TextViewSettings(**settings)), seed=3)


def test_tokens_are_masked_and_replaced_by_their_shares():
    split = texts()
    shown = reader(mask=0.2, replace=0.4).shown(split, TEXT, 1, torch.arange(50), WORDS).inputs
    shares = {token: float((shown[:, 1:41] == token).float().mean()) for token in (4, 5, 6, 7, 8)}
    for token, wanted in {4: 0.2, 5: 0.2, 6: 0.2, 7: 0.3, 8: 0.1}.items():
        assert abs(shares[token] - wanted) < 0.035  # 2000 tokens: three deviations
    assert torch.equal(shown[:, [0, 41, 42, 43]], split.inputs[:, [0, 41, 42, 43]]), "special tokens stay"


def test_a_text_s_view_is_the_same_in_any_batch():
    views, split = reader(mask=0.3, replace=0.3), texts()
    whole = views.shown(split, TEXT, 2, torch.arange(50), WORDS).inputs
    some = torch.tensor([41, 3, 17])
    assert torch.equal(views.shown(split, TEXT, 2, some, WORDS).inputs, whole[some])
    assert not torch.equal(views.shown(split, TEXT, 3, some, WORDS).inputs, whole[some])
    assert torch.equal(reader().shown(split, TEXT, 2, some, WORDS).inputs, split.inputs[some])


def test_a_tokenizer_without_a_mask_cannot_mask():
    with pytest.raises(UserError, match=r"views.text.mask: the tokenizer has no mask token"):
        reader(mask=0.1).shown(texts(), TEXT, 0, torch.arange(2), WORDS._replace(mask=None))


def test_views_of_boxes_are_refused_for_images_without():
    for settings, message in (
        (ViewSettings(mosaic=0.5), r"views\.scale and views\.mosaic are for images with masks or boxes"),
        (ViewSettings(min_visibility=0.7), r"views\.min_visibility is for images with boxes; leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            check_views(settings, Images((3, 8, 8)), None)
    with pytest.raises(UserError, match=r"views\.min_visibility is for images with boxes"):
        check_views(ViewSettings(min_visibility=0.7), Images((3, 8, 8)), None, MASK)
    check_views(ViewSettings(min_visibility=0.7), Images((3, 8, 8)), None, BOXES)


def test_more_than_every_token_is_refused():
    with pytest.raises(ValueError, match=r"mask \+ replace = 1.2 is more than every token"):
        TextViewSettings(mask=0.6, replace=0.6)
