"""Small data that every room's tests may use; what torch reads anew at each export is read once."""

import functools
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distiq.data.splits import Data, from_tensors

# Runs in this process and in processes of their own are compared bit for bit: sums must be split alike.
torch.set_num_threads(1)


LONG = ("test_compress.py", "whole", "contracts", "runtimes", "docs")
"""Files and folders whose tests take longest; with what takes longest at the end one process would work alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((rank for rank, name in enumerate(LONG) if name in item.path.parts), len(LONG)))


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
def _read_operators_once() -> Iterator[None]:
    """At each export torch parses 500 functions of torchlib and asks the dispatcher for all operators, always the same:
    half of a small export."""
    if "onnxscript" not in sys.modules:  # the tests at hand export nothing
        yield
        return
    from torch.export import decomp_utils, exported_program
    from torch.onnx._internal.exporter import _decomp, _registration

    registry, collect = _registration.ONNXRegistry, exported_program._collect_all_valid_cia_ops
    table = _decomp.create_onnx_friendly_decomposition_table
    read = functools.cache(registry.from_torchlib)
    collected, tables = functools.cache(lambda count: collect()), functools.cache(lambda taken, count: table(taken))

    def count() -> int:
        return len(torch._C._dispatch_get_all_op_names())  # an executor that is imported later brings its own

    def from_torchlib(opset_version: int) -> _registration.ONNXRegistry:
        kept, own = read(opset_version), registry()
        own._opset_version = kept._opset_version
        own.functions = {target: list(functions) for target, functions in kept.functions.items()}
        return own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(from_torchlib))
        patch.setattr(
            _decomp,
            "create_onnx_friendly_decomposition_table",
            lambda taken: dict(tables(frozenset(taken), count())),
        )
        for module in (decomp_utils, exported_program):
            patch.setattr(module, "_collect_all_valid_cia_ops", lambda: collected(count()))
        yield


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    """128 training, 32 validation, 16 calibration and 48 test images of four classes."""
    return from_tensors(bright_quadrants(176, 0), bright_quadrants(48, 1), validation=32, calibration=16)
