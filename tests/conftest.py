"""Small data that every room's tests may use; what torch.onnx reads anew at each export is read once."""

import functools
import importlib
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distiq.data.splits import Data, from_tensors

# Runs in this process and in processes of their own are compared bit for bit: sums must be split alike.
torch.set_num_threads(1)


def bright_quadrants(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy 8x8 images, (N, 1, 8, 8) uint8; the label is the quadrant that is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[:, top : top + 4, left : left + 4] += 120
    return images.to(torch.uint8), labels


@pytest.fixture(scope="session", autouse=True)
def _read_torchlib_once() -> Iterator[None]:
    """At each export torch.onnx parses the source of 500 functions, always the same: two fifths of a small export."""
    if "onnxscript" not in sys.modules:  # the tests at hand export nothing
        yield
        return
    module = importlib.import_module("onnxscript._framework_apis.torch_2_11")  # the one that torch 2.13 reads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_torchlib_ops", functools.cache(module.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    """128 training, 32 validation, 16 calibration and 48 test images of four classes."""
    return from_tensors(bright_quadrants(176, 0), bright_quadrants(48, 1), validation=32, calibration=16)
