"""Images: how their pixels become inputs, and where they come from: Fashion-MNIST, a folder per class."""

import contextlib
import gzip
import hashlib
import http.client
import importlib.resources
import lzma
import math
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from distiq.data.folders import class_names, find_files, left_out, part_places
from distiq.data.pack import Store, decoded, packed
from distiq.data.samples import (
    Encoded,
    InMemory,
    Loaded,
    Samples,
    Split,
    channel_statistics,
    in_memory,
    name_of,
    refuse_floats,
    standardized,
)
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.records.record import Modality

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
MOST_IDX_BYTES = 200_000_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
WITH_FRAMES = (".gif", ".webp", ".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Images:
    """How images become inputs: divided by 255 where they are uint8, minus mean, by std, per channel.

    Args:
        shape: (C, H, W); files are read in grey where C is 1, else in colour, and resized.
        dtype: of the raw images, uint8 or float32.
        mean, std: per channel, in units of the images divided by 255 where they are uint8; empty until `fitted`.
        as_uint8: inputs are the uint8 images themselves, for files that normalize them.
        letterbox: files keep the ratio of their sides when they are resized, and stand in the upper left corner.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    as_uint8: bool = False
    letterbox: bool = False

    modality: ClassVar[Modality] = "image"
    raw_name: ClassVar[str] = runner.RAW["image"]
    form: ClassVar[str] = "(N, C, H, W) as uint8 or float32"
    has_lengths: ClassVar[bool] = False
    pair: ClassVar[bool] = False

    @property
    def input_dtype(self) -> torch.dtype:
        return torch.uint8 if self.as_uint8 else torch.float32

    def fits(self, inputs: Samples) -> bool:
        """Whether samples have the form of images."""
        return len(inputs.shape) == 3 and inputs.dtype in (torch.uint8, torch.float32)

    @staticmethod
    def has_channels_last(shape: tuple[int, ...]) -> bool:
        """Whether a sample's shape is that of an image whose channels stand behind its height and width."""
        first, second, last = shape
        return min(first, second) > 4 and (last in (3, 4) or (last == 1 and first == second))

    def fitted(self, samples: Samples) -> Self:
        """With mean and std of these training images, unless they are set."""
        mean, std = (self.mean, self.std) if self.mean else channel_statistics(samples)
        return replace(self, mean=mean, std=std)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Raw images -> what the network sees. Shapes: (B, C, H, W) -> (B, C, H, W) float32, or uint8 (`as_uint8`)."""
        return inputs if self.as_uint8 else standardized(inputs, self.mean, self.std)

    def encode(self, sample: str, where: str, second: str = "") -> Encoded:
        """The input (1, C, H, W) of an image file.

        Raises:
            UserError: the file is missing or does not decode, or the images that were learned from are float32.
        """
        refuse_floats(self.dtype, "images", where)
        return Encoded(self.normalize(read_image(Path(sample), self.shape, self.letterbox).unsqueeze(0)))

    def check_weights(self, folder: Path, where: str) -> None:
        """Weights say nothing of how images are read."""

    def facts(self) -> dict[str, Any]:
        """What the record of the data says of it."""
        return {"mean": self.mean, "std": self.std}

    def to_json(self) -> dict[str, Any]:
        channels = self.shape[0]
        return {
            "modality": self.modality,
            "shape": list(self.shape),
            "raw": name_of(self.dtype),
            "type": name_of(self.input_dtype),
            "layout": "CHW",
            "color": "grey" if channels == 1 else "rgb",
            "divide_by": 255 if self.dtype == torch.uint8 and not self.as_uint8 else 1,
            "mean": [0.0] * channels if self.as_uint8 else list(self.mean),
            "std": [1.0] * channels if self.as_uint8 else list(self.std),
            "resize": "letterbox" if self.letterbox else "bilinear",
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        mean, std = tuple(value["mean"]), tuple(value["std"])
        shape, raw, boxed = tuple(value["shape"]), getattr(torch, value["raw"]), value["resize"] == "letterbox"
        return cls(shape, raw, mean, std, value["type"] == "uint8", boxed)


def packaged_fashion_mnist() -> tuple[Split, Split]:
    """The part of Fashion-MNIST that comes with distiq: 29,500 training and all 10,000 test images."""
    root = importlib.resources.files("distiq.data") / "fashion_mnist"

    def read(name: str) -> Tensor:
        return parse_idx(lzma.decompress((root / f"{name}.xz").read_bytes()), name)

    return _pair(read, "train"), _pair(read, "t10k")


def fashion_mnist(folder: Path, download: bool) -> tuple[Split, Split]:
    """All 60,000 training and 10,000 test images from the four official IDX files, packed or not.

    Raises:
        UserError: a file is missing, damaged, or cannot be downloaded.
    """

    def read(name: str) -> Tensor:
        plain, packed = folder / name, folder / f"{name}.gz"
        if download and not plain.is_file() and not packed.is_file():
            _download(packed)
        if plain.is_file():
            return parse_idx(plain.read_bytes(), str(plain))
        if not packed.is_file():
            raise UserError(f"{packed}: missing; data.folder must hold the four IDX files of Fashion-MNIST")
        return parse_idx(_unpacked(packed), str(packed))

    return _pair(read, "train"), _pair(read, "t10k")


def _unpacked(path: Path) -> bytes:
    """The content of a packed IDX file, and not more than a file of these has."""
    try:
        with gzip.open(path) as stream:
            content = stream.read(MOST_IDX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({error}); fetch it again") from error
    if len(content) > MOST_IDX_BYTES:
        raise UserError(f"{path}: unpacked it has more than {MOST_IDX_BYTES:,} bytes; fetch it again")
    return content


def parse_idx(content: bytes, name: str) -> Tensor:
    """An IDX file of bytes: (N, 1, H, W) uint8 images or (N,) int64 labels.

    Raises:
        UserError: it is no such file or is cut short.
    """
    dimensions = content[3] if len(content) > 3 and content[:3] == b"\x00\x00\x08" else 0
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if dimensions not in (1, 3) or len(content) != header + math.prod(shape):
        raise UserError(f"{name}: not an IDX file of bytes, or cut short; fetch it again")
    array = torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())
    return array.unsqueeze(1) if dimensions == 3 else array.long()


def _pair(read, part: str) -> Split:  # type: ignore[no-untyped-def]
    return in_memory(read(f"{part}-images-idx3-ubyte"), read(f"{part}-labels-idx1-ubyte"))


def _download(target: Path) -> None:
    url = FASHION_MNIST_URL + target.name
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise UserError(
            f"{url}: cannot be downloaded ({error}); without a network leave data.folder empty to use the packaged"
            f" part, or put the file into {target.parent} yourself"
        ) from error
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if checksum != FASHION_MNIST_MD5[target.name]:
        raise UserError(f"{url}: wrong checksum {checksum}, expected {FASHION_MNIST_MD5[target.name]}; try again later")
    write_atomically(target, content)


def read_image(path: Path, shape: tuple[int, ...], letterbox: bool = False) -> Tensor:
    """One image file, turned as its EXIF says, resized: uint8 of `shape` (C, H, W); C of 1 reads grey, 3 colour.

    Of 16-bit grey the upper 8 bits are kept. A letterboxed image keeps the ratio of its sides; it stands in the upper
    left corner.

    Raises:
        UserError: the file is missing or does not decode.
    """
    try:
        return torch.from_numpy(runner.read_image(path, shape, letterbox).copy())
    except runner.Refused as error:
        raise UserError(str(error)) from error


def image_folder(folder: Path, shape: tuple[int, int, int], validation: str = "", store: Store | None = None) -> Loaded:
    """The images of a folder that holds train/<class>/ and test/<class>/, sub-folders and all.

    Args:
        validation: the name of a third part, where there is one.
        store: where images are packed that memory has no room for; by default all lie in memory.

    Raises:
        UserError: a part is missing, a class is empty, classes differ between the parts, an image does not decode.
    """
    places, said = part_places(folder, validation)
    classes = class_names(places["train"])
    by_part = {part: find_files(place, classes, IMAGE_SUFFIXES, "images") for part, place in places.items()}
    notes = [*said, *(note for part in places for note in left_out(places[part], by_part[part], "images"))]
    files = [file for part in by_part.values() for file in part.files]
    if several := sum(_frames(file) > 1 for file in files if file.suffix.lower() in WITH_FRAMES):
        notes.append(f"{several:,} of {len(files):,} images have several frames: the first is read")
    samples = read_images([part.files for part in by_part.values()], shape, store)
    splits = {
        part: Split(own, torch.tensor(one.labels)) for (part, one), own in zip(by_part.items(), samples, strict=True)
    }
    train, test = (tuple(str(file.relative_to(folder)) for file in by_part[part].files) for part in ("train", "test"))
    return Loaded(
        classes,
        splits["train"],
        splits["test"],
        Images(shape),
        tuple(notes),
        splits.get(validation),
        names=(train, test),
    )


def read_images(
    parts: Sequence[Sequence[Path]], shape: tuple[int, ...], store: Store | None, letterbox: bool = False
) -> list[Samples]:
    """The images of several parts: in memory, or each part in a pack where memory has no room for all.

    Raises:
        UserError: a file is missing or does not decode.
    """
    read = partial(read_image, shape=shape, letterbox=letterbox)
    is_large = store is not None and sum(map(len, parts)) * math.prod(shape) > store.memory_bytes
    if store is not None and is_large:
        how = "letterboxed" if letterbox else "resized"
        return [packed(files, read, shape, store.folder, store.watch, how) for files in parts]
    return [InMemory(torch.stack(list(decoded(files, read)))) for files in parts]


def _frames(file: Path) -> int:
    from PIL import Image

    with contextlib.suppress(OSError), Image.open(file) as image:
        return getattr(image, "n_frames", 1)
    return 1  # what does not decode is refused when it is read
