"""The memory that a file of each runtime adds to a fresh process: its weights at least, of int8 less than of floats."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.errors import UserError
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import RUNTIMES, export, require
from distiq.runtimes.runtime import Runtime
from distiq.timing.memory import peak_memory_bytes

WIDE = 2048
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SLOW = {"inductor", "executorch"}
"""C99 is left out: a network for microcontrollers has no 4 million weights, which a compiler takes a minute for."""


@LINUX
@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(one, id=one.name, marks=[pytest.mark.slow] * (one.name in SLOW))
        for one in RUNTIMES
        if one.name != "c99"
    ],
)
def test_a_large_file_takes_at_least_its_weights(runtime: Runtime, tmp_path: Path):
    try:
        require(runtime, to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, 4)).eval(), torch.randn(8, WIDE)
    taken = {}
    for kind, form in (("float", model), ("int8", quantize(model, inputs, Scheme()))):
        path = export(form, tmp_path / f"{kind}{runtime.suffix}", inputs[:2])
        taken[kind] = peak_memory_bytes(path, inputs[:1])
    assert 4 * WIDE * WIDE < taken["float"] < 8 * 4 * WIDE * WIDE
    assert WIDE * WIDE < taken["int8"] < taken["float"]


@LINUX
def test_token_numbers_are_given_as_such(tmp_path: Path):
    tokens = torch.ones(2, 5, dtype=torch.int64)
    model = nn.Sequential(nn.Embedding(4000, 64), nn.Flatten(), nn.Linear(64 * 5, 2)).eval()
    assert peak_memory_bytes(export(model, tmp_path / "model.onnx", tokens), tokens[:1]) > 4 * 4000 * 64


def test_what_the_system_does_not_tell_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert peak_memory_bytes(tmp_path / "model.onnx", torch.zeros(1, 4)) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_bytes(tmp_path / "model.onnx", torch.zeros(1, 4)) is None
