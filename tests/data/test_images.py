import gzip
import hashlib
import http.client
import io
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distiq.data import images
from distiq.data.images import fashion_mnist, image_folder, packaged_fashion_mnist, parse_idx, read_image
from distiq.errors import UserError

ORIGINAL = Path(__file__).parents[3] / "shared" / "data" / "fashion_mnist"
NAMES = [name.removesuffix(".gz") for name in images.FASHION_MNIST_MD5]


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file (http://yann.lecun.com/exdb/mnist/): 0, 0, 8 for bytes, axes, sizes, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def idx_folder(folder: Path, packed: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        count = 6 if name.startswith("train") else 4
        array = np.arange(count * 28 * 28).reshape(count, 28, 28) if "images" in name else np.arange(count)
        content = idx(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture(scope="module")
def packaged():
    return packaged_fashion_mnist()


def test_packaged_fashion_mnist_is_whole(packaged):
    train, test = packaged
    assert train.inputs.shape == (29_500, 1, 28, 28)
    assert test.inputs.shape == (10_000, 1, 28, 28)
    assert train.inputs.dtype == torch.uint8
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert torch.bincount(train.labels, minlength=10).min() > 2000


@pytest.mark.skipif(not ORIGINAL.is_dir(), reason="the original files are not on this machine")
def test_the_packaged_test_set_is_the_original(packaged):
    content = gzip.decompress((ORIGINAL / "t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    labels = gzip.decompress((ORIGINAL / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    for index in (0, 9999):
        assert np.array_equal(packaged[1].inputs[index, 0].numpy(), pixels[index])
        assert int(packaged[1].labels[index]) == labels[index]


def test_parse_idx():
    found = parse_idx(idx(np.arange(12).reshape(2, 2, 3)), "file")
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[[0, 1, 2], [3, 4, 5]]], [[[6, 7, 8], [9, 10, 11]]]]
    labels = parse_idx(idx(np.array([3, 1, 255])), "file")
    assert (labels.dtype, labels.tolist()) == (torch.int64, [3, 1, 255])


WHOLE = idx(np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize(
    "content",
    [
        *(WHOLE[:size] for size in (0, 3, 4, 10, 16, len(WHOLE) - 1)),
        WHOLE + b"\0",
        b"\0\0\x0d" + WHOLE[3:],  # floats
        idx(np.zeros((2, 2))),
        b"<html>",
    ],
)
def test_what_is_no_whole_idx_file_is_refused(content):
    with pytest.raises(UserError, match=r"^file: not an IDX file of bytes, or cut short; fetch it again"):
        parse_idx(content, "file")


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files(tmp_path, packed):
    train, test = fashion_mnist(idx_folder(tmp_path, packed), download=False)
    assert train.labels.tolist() == list(range(6))
    assert test.labels.tolist() == list(range(4))
    assert int(train.inputs[0, 0, 1, 2]) == 30  # row 1, column 2 of the first image of 28 columns


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_idx_file_is_named(tmp_path, name):
    (idx_folder(tmp_path) / f"{name}.gz").unlink()
    with pytest.raises(UserError, match=f"{name}.gz: missing; data.folder must hold the four IDX files"):
        fashion_mnist(tmp_path, download=False)


@pytest.mark.parametrize("damage", ["cut", "header", "body"])
def test_a_damaged_packed_file_is_named(tmp_path, damage):
    file = idx_folder(tmp_path) / f"{NAMES[0]}.gz"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[:-20]
    else:
        start = 0 if damage == "header" else 12
        content[start : start + 8] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{NAMES[0]}.gz: damaged .*fetch it again"):
        fashion_mnist(tmp_path, download=False)


def answering(monkeypatch, content: bytes | Exception) -> list[str]:
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr(images.urllib.request, "urlopen", urlopen)
    return asked


def test_a_missing_file_is_downloaded_and_checked(tmp_path, monkeypatch):
    name = f"{NAMES[0]}.gz"
    content = (idx_folder(tmp_path) / name).read_bytes()
    (tmp_path / name).unlink()
    monkeypatch.setitem(images.FASHION_MNIST_MD5, name, hashlib.md5(content).hexdigest())
    asked = answering(monkeypatch, content)
    for _ in range(2):
        train, _ = fashion_mnist(tmp_path, download=True)
    assert len(train) == 6
    assert asked == [images.FASHION_MNIST_URL + name]


def test_a_wrong_checksum_is_refused_and_nothing_kept(tmp_path, monkeypatch):
    answering(monkeypatch, b"something else")
    with pytest.raises(UserError, match=r"wrong checksum [0-9a-f]{32}, expected 8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        fashion_mnist(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no network"), TimeoutError("timed out"), http.client.IncompleteRead(b"half", 9)]
)
def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch, error):
    answering(monkeypatch, error)
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*leave data.folder empty to use the packaged"):
        fashion_mnist(tmp_path, download=True)


def write_image(path: Path, value, size=(4, 4), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def test_read_image_grey_and_colour(tmp_path):
    file = write_image(tmp_path / "a.png", (255, 0, 0), size=(5, 3))
    colour = read_image(file, (3, 3, 5))
    assert colour.dtype == torch.uint8
    assert colour[:, 1, 2].tolist() == [255, 0, 0]
    grey = read_image(file, (1, 3, 5))
    assert grey.unique().tolist() == [round(0.299 * 255)]  # ITU-R 601 luma


def test_read_image_resizes(tmp_path):
    file = write_image(tmp_path / "a.png", (9, 8, 7), size=(50, 20))
    found = read_image(file, (3, 6, 4))
    assert torch.equal(found, torch.tensor([9, 8, 7], dtype=torch.uint8).view(3, 1, 1).expand(3, 6, 4))


def test_16_bit_grey_keeps_its_upper_8_bits(tmp_path):
    Image.fromarray(np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", (1, 2, 3)).tolist() == [[[0, 0, 1], [128, 255, 255]]]


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", (1, 1, 2)).tolist() == [[[255, 0]]]


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut"])
def test_an_image_that_does_not_decode_is_named(tmp_path, content):
    file = write_image(tmp_path / "bad.png", (1, 2, 3), size=(64, 64))
    file.write_bytes(file.read_bytes()[:60] if content is None else content)
    with pytest.raises(UserError, match=r"bad.png: this image does not decode .*repair or remove it"):
        read_image(file, (3, 8, 8))


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.png: no such file"):
        read_image(tmp_path / "none.png", (3, 8, 8))


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                write_image(tmp_path / part / name / f"{number}.png", (100 * label + number, 0, 0))
    return tmp_path


def test_a_folder_per_class(folder):
    write_image(folder / "test" / "dog" / "9.JPG", (200, 200, 200))
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    classes, train, test = image_folder(folder, (3, 4, 4))[:3]
    assert classes == ("cat", "dog")
    assert train.inputs.shape == (6, 3, 4, 4)
    assert train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 0, 1, 1, 1]


def remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def test_an_empty_class_is_named(folder):
    remove(folder / "train" / "dog")
    with pytest.raises(UserError, match=r"train/dog: no images in this class .*; fill or remove the folder"):
        image_folder(folder, (3, 4, 4))


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_class_is_not_enough(folder, part):
    remove(folder / part / "dog")
    (folder / part / "dog").rmdir()
    with pytest.raises(UserError, match=rf"{part}: 1 class folder\(s\) found; at least two are needed"):
        image_folder(folder, (3, 4, 4))


def test_the_parts_must_have_the_same_classes(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(UserError, match=r"train/ has the classes \['cat', 'dog'\], test/ has \['cat', 'wolf'\]"):
        image_folder(folder, (3, 4, 4))


def test_a_missing_part_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train: no such folder; data.folder must hold train/<class>/"):
        image_folder(tmp_path, (3, 4, 4))


def test_a_damaged_image_in_a_folder_is_named(folder):
    (folder / "train" / "dog" / "1.png").write_bytes(b"half")
    with pytest.raises(UserError, match=r"train/dog/1.png: this image does not decode"):
        image_folder(folder, (3, 4, 4))
