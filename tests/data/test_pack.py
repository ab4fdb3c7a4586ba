import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distiq.data.images import image_folder, read_image
from distiq.data.pack import FACTS, SAMPLES, Packed, Store, packed
from distiq.data.samples import InMemory, Split, channel_statistics
from distiq.data.splits import split
from distiq.errors import UserError
from distiq.progress import Silent

SHAPE = (3, 6, 8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixteen training and four test images of two classes; of noise, so that no two are alike."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def files_of(photos: Path) -> list[Path]:
    return sorted((photos / "train").rglob("*.png"))


def pack(photos: Path, folder: Path) -> Packed:
    return packed(files_of(photos), lambda file: read_image(file, SHAPE), SHAPE, folder, Silent())


def test_a_pack_holds_what_the_files_hold(photos, tmp_path):
    expected = torch.stack([read_image(file, SHAPE) for file in files_of(photos)])
    samples, held = pack(photos, tmp_path / "packs"), InMemory(expected)
    order = torch.tensor([15, 0, 7, 7])
    assert (len(samples), samples.shape, samples.dtype) == (16, SHAPE, torch.uint8)
    assert torch.equal(samples.fetch(order), expected[order])
    assert torch.equal(samples.hashes(), held.hashes())
    assert channel_statistics(samples) == channel_statistics(held)
    part = samples.take(torch.tensor([9, 3])).take(torch.tensor([1]))
    assert torch.equal(part.fetch(torch.tensor([0])), expected[3:4]) and torch.equal(part.hashes(), held.hashes()[3:4])
    assert channel_statistics(part) == channel_statistics(InMemory(expected[3:4]))


def test_packed_data_is_the_same_data(photos, tmp_path):
    packs = Store(tmp_path / "packs", 0, Silent())
    kinds = [split("photos", image_folder(photos, SHAPE, store=store), 4, 2, seed=1) for store in (None, packs)]
    in_memory, on_disk = kinds
    assert isinstance(in_memory.train.samples, InMemory) and isinstance(on_disk.train.samples, Packed)
    assert in_memory.digest() == on_disk.digest() and in_memory.preprocessing == on_disk.preprocessing
    for one, other in zip((in_memory.train, in_memory.test), (on_disk.train, on_disk.test), strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    assert in_memory.record().packs == () and len(on_disk.record().packs) == 2  # of training and of test images


def test_it_is_made_once_and_anew_when_a_file_has_changed(photos, tmp_path):
    first = pack(photos, tmp_path / "packs")
    written = first.file.stat().st_mtime_ns
    assert pack(photos, tmp_path / "packs").file.stat().st_mtime_ns == written
    files = files_of(photos)
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(files[2])
    os.utime(files[2], ns=(1, 1))
    second = pack(photos, tmp_path / "packs")
    assert second.file != first.file and not second.fetch(torch.tensor([2])).any()


@pytest.mark.parametrize("left", ["no facts", "half of the samples", "facts of nothing"])
def test_what_a_kill_left_is_made_anew(photos, tmp_path, left):
    first = pack(photos, tmp_path / "packs")
    expected, facts = first.fetch(torch.arange(16)), first.file.with_name(FACTS)
    if left == "no facts":
        facts.unlink()
    elif left == "half of the samples":
        os.truncate(first.file, first.file.stat().st_size // 2)
    else:
        facts.write_bytes(b"")
    assert torch.equal(pack(photos, tmp_path / "packs").fetch(torch.arange(16)), expected)


def test_damage_is_seen_where_it_is_read(photos, tmp_path):
    samples = pack(photos, tmp_path / "packs")
    with (samples.file.parent / SAMPLES).open("r+b") as file:
        file.seek(3 * 6 * 8 * 5 + 11)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    samples.fetch(torch.tensor([4, 6]))
    with pytest.raises(
        UserError, match=r"samples\.bin: damaged since it was written; remove .*pack-.*, then run again"
    ):
        samples.fetch(torch.tensor([4, 5]))
    samples.file.unlink()
    with pytest.raises(UserError, match=r"samples\.bin: cannot be read"):
        samples.fetch(torch.tensor([0]))


def test_an_image_that_does_not_decode_is_named(photos, tmp_path):
    files_of(photos)[3].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cat/3\.png: this image does not decode"):
        pack(photos, tmp_path / "packs")


def test_a_split_of_a_pack_stays_in_its_file(photos, tmp_path):
    part = Split(pack(photos, tmp_path / "packs"), torch.arange(16)).take(slice(3, 6))
    assert isinstance(part.samples, Packed) and part.labels.tolist() == [3, 4, 5]
