"""C files on boards: the program beside a file replays its vectors here, and emulated boards give the same bytes."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.boards import BOARDS, lacks_boards, same_bytes
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.audio import DSCNN
from distiq.models.frontend import front_end
from distiq.models.mlp import MLP
from distiq.models.resnet import ResNet
from distiq.models.signature import Signature
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.run.rehearse import check_footprint
from distiq.runtimes.c99 import C99
from distiq.runtimes.c99_board import write_board
from distiq.runtimes.c99_write import about_of
from distiq.runtimes.export import export, load
from distiq.runtimes.runtime import Footprint
from tests.runtimes.conftest import Branches, images_of

NEEDS_COMPILER = pytest.mark.skipif(not runner.compiler() or not shutil.which("make"), reason="no compiler, no make")
NEEDS_BOARD = pytest.mark.skipif(bool(lacks_boards()), reason=lacks_boards())


def autoencoder() -> nn.Module:
    """640-128-8-128-640, as for the sounds of machines (MLPerf Tiny)."""
    return nn.Sequential(
        nn.Linear(640, 128), nn.ReLU(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 640)
    )


def keyword_network() -> nn.Module:
    """DS-CNN with its front-end: a fifth of a second of sound in, scores out."""
    return DSCNN(10, front_end(8000, bands=32), 16, (5, 5), (2, 2), (16, 24), (1, 2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "resnet8": (lambda: ResNet(10, 3, (8, 16), 1), (3, 16, 16), 30),
    "wide": (lambda: ResNet(10, 3, (8, 16), 1), (3, 16, 16), 30),
    "adult": (lambda: MLP(2, 105, (64, 32)), (105,), 1000),
    "autoencoder": (autoencoder, (640,), 100),
    "keywords": (keyword_network, (1600,), 20),
}


def quantized_network(name: str) -> tuple[QuantizedModel, Tensor]:
    """A network with statistics of its own in every norm, and samples."""
    make, shape, count = NETWORKS[name]
    torch.manual_seed(0)
    network, samples = make().eval(), torch.randn(max(count, 64), *shape).clamp(-1, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    schemes = {"keywords": Scheme(float_modules=("frontend",)), "wide": Scheme(activation_bits=16)}
    scheme = schemes.get(name, Scheme(integer_io=True))
    return quantize(network, samples[:64], scheme), samples[:count]


@NEEDS_COMPILER
@pytest.mark.parametrize("integer_io", [False, True])
def test_the_program_beside_a_file_replays_its_vectors(integer_io: bool, tmp_path: Path):
    quantized = quantize(Branches().eval(), images_of(64, 1), Scheme(integer_io=integer_io))
    path, inputs = export(quantized, tmp_path / "model.c", images_of(2, 3), integer_io=integer_io), images_of(5, 2)
    files = write_board(path, inputs, load(path)(inputs))
    assert {*files, path, path.with_suffix(".h")} == set(tmp_path.iterdir())
    said = subprocess.run(["make", "check", "CFLAGS=-O1 -Werror"], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "5 of 5 test vectors have the same bytes" in said.stdout
    text = (tmp_path / "vectors.h").read_text()
    (tmp_path / "vectors.h").write_text(text.replace("expected_0[20] = {\n  ", "expected_0[20] = {\n  1 + "))
    assert subprocess.run(["make", "check"], cwd=tmp_path, capture_output=True).returncode != 0


@pytest.mark.slow
@NEEDS_BOARD
@pytest.mark.parametrize("network", NETWORKS)
def test_emulated_boards_give_the_same_bytes(network: str, tmp_path: Path):
    quantized, samples = quantized_network(network)
    integer_io = quantized.scheme.integer_io
    path = export(quantized, tmp_path / "model.c", samples[:2], integer_io=integer_io)
    for board in BOARDS:
        assert same_bytes(path, samples, board), board


@pytest.mark.slow
@NEEDS_BOARD
@pytest.mark.skipif("DISTIQ_CMSIS_NN" not in os.environ, reason="DISTIQ_CMSIS_NN names no clone of CMSIS-NN")
@pytest.mark.parametrize("network", NETWORKS)
def test_layers_of_cmsis_nn_give_the_same_bytes(network: str, tmp_path: Path):
    quantized, samples = quantized_network(network)
    path = export(quantized, tmp_path / "model.c", samples[:2], integer_io=quantized.scheme.integer_io)
    assert same_bytes(path, samples, "mps2-an386", cmsis=Path(os.environ["DISTIQ_CMSIS_NN"]))


@pytest.mark.slow
@NEEDS_BOARD
def test_a_program_that_asks_for_memory_is_not_linked(tmp_path: Path):
    """The link by which boards run each network above: it has no `malloc` under its name."""
    path = export(nn.Linear(4, 2).eval(), tmp_path / "model.c", torch.zeros(2, 4))
    text = path.read_text()
    body = text.index("{", text.index("void model_run(")) + 1
    asks = " void *volatile taken = malloc(8); if (!taken) return;"
    path.write_text(f"#include <stdlib.h>\n{text[:body]}{asks}{text[body:]}")
    with pytest.raises(subprocess.CalledProcessError):
        same_bytes(path, torch.zeros(1, 4), "mps2-an386")


@pytest.mark.slow
@NEEDS_BOARD
@pytest.mark.parametrize("network", ["resnet8", "adult", "autoencoder"])
def test_flash_is_the_weights_and_little_code(network: str, tmp_path: Path):
    quantized, samples = quantized_network(network)
    path = export(quantized, tmp_path / "model.c", samples[:2], integer_io=True)
    assert C99.footprint is not None
    taken, about = C99.footprint(path), about_of(path.read_text())
    weights = sum(parameter.numel() for parameter in quantized.prepared.parameters())
    assert weights < taken.flash_bytes <= weights + 12_000
    stated = Signature.from_json(about)
    assert taken.ram_bytes == about["arena_bytes"] + sum(abs(np.prod(one.shape)) for side in stated for one in side)


def test_a_front_end_is_one_operation_that_gives_pytorch_s_features(tmp_path: Path):
    torch.manual_seed(0)
    sounds = torch.randn(8, 1600) * torch.logspace(-4, -0.5, 8).unsqueeze(1)
    for number, window_ms in enumerate((32.0, 25.0)):  # 256 samples, and 200, which is no power of two
        network = front_end(8000, bands=20, window_ms=window_ms).eval()
        path = export(network, tmp_path / f"front{number}.c", sounds)
        assert [one.rpartition("(")[2] for one in C99.float_operations(path)] == ["log_mel)"]
        torch.testing.assert_close(load(path)(sounds), network(sounds), rtol=0, atol=2e-4)
        assert path.stat().st_size < 40_000, "tables of one turn, not a Fourier basis"


@NEEDS_COMPILER
def test_samples_of_a_microphone_give_the_bytes_of_floats_in_half_the_memory(tmp_path: Path):
    quantized, _ = quantized_network("keywords")
    pcm = np.random.default_rng(0).integers(-32768, 32768, (3, 1600)).astype(np.int16)
    sounds = torch.from_numpy(pcm.astype(np.float32) / 32768)
    path, outputs = export(quantized, tmp_path / "model.c", sounds), np.empty((3, 10), np.float32)
    run = runner.library(path, "").model_run_pcm16
    for row, result in zip(pcm, outputs, strict=True):
        run(row.ctypes.data_as(ctypes.c_void_p), result.ctypes.data_as(ctypes.c_void_p))
    assert np.array_equal(outputs, load(path)(sounds).numpy())
    assert C99.footprint is not None
    assert C99.footprint(path).ram_bytes == about_of(path.read_text())["arena_bytes"] + 2 * 1600 + 4 * 10


def test_a_board_that_is_too_small_is_refused_with_what_the_file_takes(tmp_path: Path):
    quantized = quantize(Branches().eval(), images_of(64, 1))
    path = export(quantized, tmp_path / "model.c", images_of(2, 3))
    ram = about_of(path.read_text())["arena_bytes"] + 4 * (144 + 4)
    check_footprint(path, Footprint(None, ram))
    with pytest.raises(UserError, match=rf"budget.ram_kb = 1: the .* takes {ram / 1000:.1f} kB of RAM; raise"):
        check_footprint(path, Footprint(None, 1000))
