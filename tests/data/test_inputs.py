"""Samples without labels: which are taken, how images are prepared, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distiq.data.inputs import Preparation, image_inputs, read_inputs
from distiq.errors import UserError

PLAIN = Preparation()


@pytest.mark.parametrize(("count", "most", "calibrated"), [(10, 512, 5), (10, 2, 2), (3, 512, 1), (2, 512, 1)])
def test_at_most_half_calibrates_and_nothing_is_in_both(count: int, most: int, calibrated: int, tmp_path: Path):
    np.savez(tmp_path / "x.npz", inputs=np.arange(count, dtype=np.float64)[:, None])
    first, rest = read_inputs(tmp_path / "x.npz", (1,), torch.float32, PLAIN, most, 4)
    assert (len(first), len(rest)) == (calibrated, min(4, count - calibrated))
    assert not {float(value) for value in first} & {float(value) for value in rest}
    assert first.dtype == torch.float32


def test_images_are_resized_and_normalized_by_channel(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for place in ("a.png", "deep/b.png"):
        Image.new("RGB", (9, 7), (255, 102, 0)).save(tmp_path / place)
    how = Preparation.written("4,6", "0.5,0.4,0.3", "0.5,0.2,0.1")
    first, rest = read_inputs(tmp_path, (3, -1, -1), torch.float32, how, 8, 8)
    assert first.shape == rest.shape == (1, 3, 4, 6)
    expected = torch.tensor([(1 - 0.5) / 0.5, (0.4 - 0.4) / 0.2, (0 - 0.3) / 0.1])
    torch.testing.assert_close(first[0, :, 2, 3], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "how", "message"),
    [
        ((3, -1, -1), PLAIN, "leaves the size of images open; give it, such as --size 224,224"),
        ((8,), PLAIN, r"samples of shape \(8,\), images are"),
        ((3, 8, 8), Preparation((4, 4)), r"--size \(4, 4\): the network takes images of 8 x 8; leave it out"),
        ((3, 8, 8), Preparation(mean=(0.0, 1.0)), "--mean: 2 numbers, but images have 3 channels; give 1 or 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], how: Preparation, message: str, tmp_path: Path):
    for name in "ab":
        Image.new("RGB", (9, 7)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=message):
        read_inputs(tmp_path, shape, torch.float32, how, 8, 8)


def test_an_array_without_samples_is_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((0, 1), np.float32))
    with pytest.raises(UserError, match=r"x\.npy: 0 samples found; at least 2"):
        read_inputs(tmp_path / "x.npy", (1,), torch.float32, PLAIN, 8, 8)


def test_one_array_alone_is_read(tmp_path: Path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 1)), labels=np.zeros(2))
    with pytest.raises(UserError, match=r"holds 2 arrays \(images, labels\); store one alone"):
        read_inputs(tmp_path / "x.npz", (1,), torch.float32, PLAIN, 8, 8)


def test_channels_that_stand_last_are_said(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 5, 3), np.float32))
    with pytest.raises(UserError, match=r"its channels stand last, store array.transpose\(0, 3, 1, 2\)"):
        read_inputs(tmp_path / "x.npy", (3, 6, 5), torch.float32, PLAIN, 2, 2)


def test_channels_that_stand_first_are_said(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 6, 6), np.float32))
    with pytest.raises(UserError, match=r"its channels stand first, store array.transpose\(0, 2, 3, 1\)"):
        read_inputs(tmp_path / "x.npy", (6, 6, 3), torch.float32, PLAIN, 2, 2)


def test_images_of_a_network_whose_channels_stand_last(tmp_path: Path):
    for number in range(2):
        Image.new("RGB", (4, 6), (255, 51, 0)).save(tmp_path / f"{number}.png")
    how = Preparation(mean=(0.5, 0.2, 0.0), std=(0.5, 1.0, 1.0))
    for part in read_inputs(tmp_path, (6, 4, 3), torch.float32, how, 1, 1):
        assert part.shape == (1, 6, 4, 3)
        torch.testing.assert_close(part, torch.tensor([1.0, 0.0, 0.0]).expand(part.shape))


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.uint8, 51), (torch.float16, 0.2), (torch.float32, 0.2)])
def test_images_are_given_in_the_type_that_the_network_takes(tmp_path: Path, dtype: torch.dtype, wanted: float):
    for number in range(2):
        Image.new("RGB", (4, 6), (51, 51, 51)).save(tmp_path / f"{number}.png")
    first, _ = read_inputs(tmp_path, (3, 6, 4), dtype, PLAIN, 1, 1)
    assert first.dtype == dtype and first.float().unique().tolist() == pytest.approx([wanted], rel=1e-3)
    assert image_inputs(tmp_path, (3, 6, 4), dtype, PLAIN, 2).dtype == np.dtype(str(dtype).removeprefix("torch."))


@pytest.mark.parametrize(
    ("dtype", "how", "said"),
    [
        (torch.uint8, Preparation(mean=(0.5,)), "takes uint8 pixels and prepares them itself; leave out --mean and"),
        (torch.int64, PLAIN, "is a folder of images, and the network takes int64; give ready inputs as .npy"),
    ],
)
def test_images_that_the_network_does_not_take_are_refused(tmp_path: Path, dtype, how: Preparation, said: str):
    for number in range(2):
        Image.new("RGB", (4, 6)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=said):
        read_inputs(tmp_path, (3, 6, 4), dtype, how, 1, 1)
