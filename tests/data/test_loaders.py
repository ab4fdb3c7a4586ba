"""collect() and from_loader(): batches of any form become samples and labels; nothing is truncated."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from distiq.data.loaders import collect, from_loader
from distiq.data.splits import from_tensors
from distiq.errors import UserError

IMAGES = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)
NUMBERS = torch.tensor([1, 0])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, NUMBERS),
        [IMAGES, NUMBERS.int()],
        (IMAGES, NUMBERS, torch.tensor([8, 9])),
        (IMAGES, [1, 0], ["a.png", "b.png"]),
        (IMAGES.numpy(), NUMBERS.numpy().astype(np.uint8)),
        (list(IMAGES), NUMBERS.float().unsqueeze(1)),
        {"pixel_values": IMAGES, "labels": NUMBERS},
        {"image": IMAGES, "label": NUMBERS.bool(), "path": ["a", "b"]},
        {"x": IMAGES, "y": NUMBERS},
    ],
)
@pytest.mark.filterwarnings("ignore:collect. of each batch")
def test_batches_of_any_form_are_joined(batch):
    inputs, labels = collect([batch, batch])
    assert torch.equal(inputs, torch.cat([IMAGES, IMAGES]))
    assert labels.dtype == torch.int64 and labels.tolist() == [1, 0, 1, 0]


def test_a_data_loader_of_dicts():
    rows = [{"img": image, "target": number} for image, number in zip(IMAGES, NUMBERS, strict=True)]
    inputs, labels = collect(DataLoader(rows, batch_size=1))  # type: ignore[arg-type]
    assert torch.equal(inputs, IMAGES) and torch.equal(labels, NUMBERS)


def test_parts_may_be_named():
    assert torch.equal(collect([(NUMBERS, 0, IMAGES)], inputs=2, labels=0)[0], IMAGES)
    batch = {"left": IMAGES, "right": IMAGES + 1, "kind": NUMBERS}
    assert torch.equal(collect([batch], inputs="right", labels="kind")[0], IMAGES + 1)


def test_parts_that_are_left_out_are_named():
    with pytest.warns(UserWarning, match=r"of each batch 2 is left out; inputs=0, labels=1 are read"):
        collect([(IMAGES, NUMBERS, torch.arange(2))])
    with pytest.warns(UserWarning, match=r"of each batch 'box' is left out; inputs='image', labels='label' are read"):
        collect([{"image": IMAGES, "box": NUMBERS, "label": NUMBERS + 0}])


def test_soft_labels_are_kept():
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.float64)
    _, labels = collect([(IMAGES[:1], shares[:1]), (IMAGES[1:], shares[1:])])
    assert labels.dtype == torch.float32 and torch.equal(labels, shares.float())
    _, whole = collect([(IMAGES, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))])
    assert whole.dtype == torch.int64 and whole.tolist() == [[0, 1], [1, 1]]


def unequal() -> list:
    return [(torch.ones(1, 3, 4, 5), NUMBERS[:1]), ([torch.ones(3, 6, 3)], NUMBERS[1:])]


def test_unequal_sizes_need_a_named_transform():
    with pytest.raises(UserError, match=r"2 shapes, such as \(3, 4, 5\) and \(3, 6, 3\); name what brings them to one"):
        collect(unequal())
    padded, _ = collect(unequal(), transform="pad")
    assert padded.shape == (2, 3, 6, 5) and padded.sum((1, 2, 3)).tolist() == [60, 54]
    assert padded[0, 0].tolist() == [[0] * 5, *[[1] * 5] * 4, [0] * 5] and padded[1, 0, 0].tolist() == [0, 1, 1, 1, 0]
    cropped, _ = collect(unequal(), transform="crop")
    assert cropped.shape == (2, 3, 4, 3) and cropped.min() == 1
    resized, _ = collect(unequal(), transform="resize", size=(8, 8))
    assert resized.shape == (2, 3, 8, 8)
    torch.testing.assert_close(resized, torch.ones(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:collect. of each batch")
@pytest.mark.parametrize("as_dict", [False, True])
def test_a_data_loader_of_unequal_samples(as_dict: bool):
    images = [torch.full((3, height, 4), height, dtype=torch.uint8) for height in (2, 3, 4)]
    rows = [{"image": one, "label": 1} if as_dict else (one, 1, "a.png") for one in images]
    loader = DataLoader(rows, batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot stack samples of unequal sizes; name .* with a size"):
        collect(loader)
    inputs, labels = collect(loader, transform="crop")
    assert inputs.shape == (3, 3, 2, 4) and inputs[:, 0, 0, 0].tolist() == [2, 3, 4] and labels.tolist() == [1, 1, 1]


def test_a_transform_holds_for_all_and_keeps_the_type():
    images = torch.full((2, 3, 4, 5), 200, dtype=torch.uint8)
    found, _ = collect([(images, NUMBERS)], transform="resize", size=(2, 2))
    assert found.dtype == torch.uint8 and found.unique().tolist() == [200]
    tokens = [(torch.tensor([[5, 6, 7]]), NUMBERS[:1]), (torch.tensor([[8]]), NUMBERS[1:])]
    assert collect(tokens, transform="pad")[0].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert collect(tokens, transform="pad", size=(2,))[0].tolist() == [[5, 6], [8, 0]]


@pytest.mark.parametrize(
    ("batches", "how", "message"),
    [
        ([], {}, "gives no batch"),
        ([IMAGES], {}, "batch 0 is one Tensor without labels"),
        ([(IMAGES,)], {}, "batch 0 has 1 parts, but none at 1"),
        ([(IMAGES, ["cat", "dog"])], {}, "the labels of batch 0 are no numbers alike"),
        ([(["a", "b"], NUMBERS)], {}, "the inputs of batch 0 are list"),
        ([{"left": IMAGES, "label": NUMBERS}], {}, 'among left, label; name its key, such as inputs="left"'),
        ([{"x": IMAGES, "y": NUMBERS}], {"labels": "z"}, "has no 'z' among x, y"),
        ([(IMAGES, NUMBERS[:1])], {}, "2 inputs, but 1 labels"),
        (unequal(), {"transform": "resize"}, r"give size=\(height, width\)"),
        (unequal(), {"transform": "crop", "size": (5, 5)}, "a sample of 4 cannot be cropped to 5"),
        ([(IMAGES, NUMBERS), (IMAGES[:, :1], NUMBERS)], {"transform": "pad"}, "cannot be brought to one form"),
    ],
)
def test_what_cannot_be_joined_is_refused(batches, how, message):
    with pytest.raises(UserError, match=message):
        collect(batches, **how)


def test_images_of_a_loader_may_lie_in_a_file(tmp_path: Path):
    images = torch.randint(256, (60, 3, 5, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    rows = [{"image": image, "label": number % 3} for number, image in enumerate(images)]
    packed, whole = from_loader(DataLoader(rows, batch_size=7), tmp_path / "p"), (images, torch.arange(60) % 3)
    assert (tmp_path / "p" / "samples.bin").read_bytes() == images.numpy().tobytes()
    how = {"validation": 9, "calibration": 9}
    one, other = from_tensors(packed, packed, **how), from_tensors(whole, whole, **how)
    assert one.digest() == other.digest() and one.preprocessing == other.preprocessing
    resized = from_loader(DataLoader(rows, batch_size=7), tmp_path / "p", transform="resize", size=(2, 2))
    assert resized.inputs.shape == (60, 3, 2, 2)


@pytest.mark.parametrize(
    ("batches", "how", "message"),
    [
        ([], {}, "no samples to pack"),
        ([(IMAGES, NUMBERS), (IMAGES[..., :2], NUMBERS)], {}, r"float32 \(3, 4, 2\) comes behind float32 \(3, 4, 5\)"),
        ([(NUMBERS.unsqueeze(1), NUMBERS)], {}, r"packs hold images \(C, H, W\) of one form"),
        (unequal(), {"transform": "pad"}, "needs a size"),
        ([(IMAGES, NUMBERS[:1])], {}, "2 inputs, but 1 labels"),
    ],
)
def test_what_cannot_be_packed_is_refused(batches, how, message, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        from_loader(batches, tmp_path / "p", **how)
