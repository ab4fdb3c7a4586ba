"""Networks as C: what tests/contracts/test_runtimes.py does not ask of every runtime."""

import math
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.resnet import ResNet
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.c99 import C99, float_operations, signature, work
from distiq.runtimes.c99_layers import fixed
from distiq.runtimes.c99_program import Program, Value, ordered_layout, planned
from distiq.runtimes.export import differences, export, load
from tests.runtimes.conftest import Branches, Gates, images_of

pytestmark = pytest.mark.skipif(not runner.compiler(), reason="no C compiler is installed")


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedModel, Path]:
    """A network with integers at both sides, and its file."""
    torch.manual_seed(0)
    quantized = quantize(ResNet(4, 1, (4, 8), 1).eval(), images_of(128, 1), Scheme(integer_io=True))
    path = tmp_path_factory.mktemp("c") / "net.c"
    return quantized, export(quantized, path, images_of(2, 3), integer_io=True)


def steps_apart(quantized: QuantizedModel, path: Path, options: dict[str, str]) -> Tensor:
    """By how many steps each output of 500 samples differs from the simulation's."""
    quantization = signature(path).outputs[0].quantization
    assert quantization is not None
    with torch.no_grad():
        apart = (load(path, 1, options)(images_of(500, 2)) - quantized(images_of(500, 2))) / quantization.scale
    return apart.round().abs()


def test_its_integers_are_the_simulation_s(integers: tuple[QuantizedModel, Path]):
    apart = steps_apart(*integers, {})
    assert apart.max() <= 1
    assert (apart == 0).float().mean() >= 0.98
    assert float_operations(integers[1]) == ()
    assert differences(*integers) == ""


def test_rescaling_by_integers_alone_is_a_step_apart_at_most_by_layer(integers: tuple[QuantizedModel, Path]):
    apart = steps_apart(*integers, {"define": "DISTIQ_Q31"})
    assert apart.max() <= 2
    assert (apart == 0).float().mean() >= 0.9


def test_a_multiplier_and_a_shift_are_the_ratio():
    ratios = np.array([1.0, 0.5, 1 / 3, 3e-9, 0.9999999999, 700.0])
    multipliers, shifts = fixed(ratios)
    assert multipliers.dtype == np.int32
    assert np.allclose(multipliers * 2.0 ** -shifts.astype(float), ratios, rtol=2**-30)


def test_work_is_counted_by_hand(tmp_path: Path):
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 144, 3)).eval()
    path = export(quantize(network, images_of(16, 1)), tmp_path / "m.c", images_of(2, 3))
    counted = work(path, [(1, 12, 12)])
    assert counted is not None
    assert (counted.macs, counted.is_int8) == (144 * 4 * 9 + 4 * 144 * 3, True)


class Pooled(nn.Module):
    """What gives 1 wherever the input is 1: identities, and averages of windows that reach beyond the map."""

    def __init__(self, **how: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
        self.pool = nn.AvgPool2d(3, 2, **how)
        for layer in (self.first, self.last):
            nn.init.ones_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.pool(self.first(images)))


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("how", [{"padding": 1, "count_include_pad": False}, {"ceil_mode": True}], ids=str)
def test_an_average_divides_by_the_places_inside(how: dict, bits: int, tmp_path: Path):
    ones = torch.ones(4, 1, 12, 12)
    path = export(quantize(Pooled(**how).eval(), ones, Scheme(activation_bits=bits)), tmp_path / "m.c", ones[:2])
    for options in ({}, {"define": "DISTIQ_Q31"}):
        pooled = load(path, 1, options)(ones)
        torch.testing.assert_close(pooled, torch.ones(4, 1, 6, 6), rtol=0, atol=1e-4)


class Shifted(nn.Module):
    """Adds 0 to one channel and 1 to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        for layer in (self.first, self.last):
            layer.weight.data = torch.eye(2).view(2, 2, 1, 1)
        self.register_buffer("shift", torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(images) + self.shift))


@torch.no_grad()
def test_a_constant_may_differ_from_channel_to_channel(tmp_path: Path):
    inputs = torch.rand(16, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    path = export(quantize(Shifted().eval(), inputs), tmp_path / "m.c", inputs[:2])
    expected = inputs + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(load(path)(inputs), expected, rtol=0, atol=0.02)  # five steps of 1 / 255


@pytest.mark.parametrize("macros", [(), ("-DDISTIQ_Q31",), ("-O2", "-march=native")], ids=str)
@pytest.mark.parametrize("only_depthwise", [False, True], ids=["pooled", "depthwise"])
@pytest.mark.parametrize("wide", [(), ("0",)], ids=["int8", "int16"])
def test_compilers_warn_of_nothing(
    wide: tuple[str, ...], only_depthwise: bool, macros: tuple[str, ...], tmp_path: Path
):
    """Of a linear layer of fewer inputs than a register holds, and of a depthwise layer that is int8's only one."""
    pooled = nn.Conv1d(4, 12, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5)
    layers = (nn.Conv1d(4, 4, 3, groups=4),) if only_depthwise else pooled
    inputs, path = torch.randn(8, 4, 40), tmp_path / "m.c"
    export(quantize(nn.Sequential(*layers).eval(), inputs, Scheme(wide_modules=wide)), path, inputs[:2])
    flags = "-Wall", "-Wextra", "-pedantic", "-std=c99", "-Werror", *macros
    compiled = subprocess.run([runner.compiler(), *flags, "-c", path, "-o", tmp_path / "m.o"], capture_output=True)
    assert compiled.returncode == 0, compiled.stderr.decode()


class Limited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.register_buffer("most", torch.tensor([0.5, 1.0]).view(1, 2, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.clamp(self.first(images), max=self.most))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_limit_that_is_a_tensor_is_refused(bits: int, tmp_path: Path):
    inputs = torch.randn(16, 2, 6, 6)
    quantized = quantize(Limited().eval(), inputs, Scheme(activation_bits=bits))
    with pytest.raises(UserError, match="clamp has a tensor as its limit; there is a kernel for numbers alone"):
        export(quantized, tmp_path / "m.c", inputs[:2])


# The arena ------------------------------------------------------------------------------------------------------------


def chain(program: Program, *sizes: int) -> None:
    """Tensors of so many floats, each made of the one before."""
    values = [program.new(ordered_layout((1, size), (0, 1))) for size in sizes]
    program.inputs.append(values[0])
    for one, other in pairwise(values):
        program.step("any", "any", {}, [one], other, "any")
    program.outputs.append(values[-1])


def test_tensors_that_do_not_live_at_once_share_memory():
    program = Program()
    chain(program, 4, 100, 40, 60, 80, 4)
    arena = planned(program)
    assert arena.lower_bound == 4 * (100 + 40), "whole blocks of 16 bytes; 40, 60 and 80 floats follow"
    assert arena.size == arena.lower_bound
    assert len(arena.starts) == 4, "the caller holds what goes in and comes out"


@pytest.mark.parametrize("network", [Branches, Gates, lambda: ResNet(4, 1, (4, 8), 1)])
def test_the_arena_is_near_the_least_that_lives_at_once(network, tmp_path: Path):
    torch.manual_seed(0)
    path = export(quantize(network().eval(), images_of(16, 1)), tmp_path / "m.c", images_of(2, 3))
    size, least = (
        int(re.search(rf'"{name}": (\d+)', path.read_text())[1]) for name in ("arena_bytes", "least_arena_bytes")
    )
    assert least <= size <= 1.1 * least
    assert f"M_ARENA_BYTES {size}" in path.with_suffix(".h").read_text()


def test_no_memory_is_asked_for(integers: tuple[QuantizedModel, Path]):
    text = integers[1].read_text()
    assert not re.search(r"\b(malloc|calloc|realloc|free|alloca)\b", text)
    text += integers[1].with_suffix(".h").read_text()
    for_x86 = "#ifdef __AVX2__\n#include <immintrin.h>\n"
    assert set(re.findall(r"#include <(.*?)>", text.replace(for_x86, ""))) == {"string.h", "stdint.h"}


# Operations in float32 ------------------------------------------------------------------------------------------------


class Parts(nn.Module):
    """Cuts, joints, paddings, transposes and functions of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, (2, 1), (1, 2), dilation=(1, 2)), nn.BatchNorm2d(8)
        self.grouped, self.last = nn.Conv2d(8, 8, (1, 3), groups=4), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.first(x)), 0.1)
        left, right = F.hardswish(x).chunk(2, 1)
        x = torch.cat([torch.tanh(right), left * torch.sigmoid(right)], 1)
        x = F.pad(self.grouped(x), (2, 1, 0, 1), value=0.5)
        x = F.avg_pool2d(x, 3, 2, 1) + F.max_pool2d(x, 3, 2, 1)
        x = x.permute(0, 2, 3, 1).flatten(2).softmax(2)[:, :, 4:24]
        weights = (x @ x.transpose(1, 2) - 0.3).exp()
        return self.last(weights @ x / 2).log_softmax(-1).amax(1) - F.silu(x.mean((1, 2), keepdim=True))[:, 0]


def test_float_networks_of_many_operations_are_torch(tmp_path: Path):
    torch.manual_seed(0)
    network, x = Parts().eval(), torch.randn(20, 3, 12, 9)
    with torch.no_grad():
        assert sqnr_db(network(x), load(export(network, tmp_path / "parts.c", x))(x)) > 100


def test_exponentials_and_logarithms_are_those_of_float64(tmp_path: Path):
    x = torch.linspace(-80, 80, 2000).view(2, 1000)
    for function in (torch.exp, torch.log):
        given = x if function is torch.exp else x.exp()
        path = export(Of(function).eval(), tmp_path / f"{function.__name__}.c", given)
        torch.testing.assert_close(load(path)(given), function(given.double()).float(), rtol=4e-7, atol=1e-7)


class Of(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@torch.no_grad()
def test_gates_are_tables(tmp_path: Path):
    torch.manual_seed(0)
    quantized = quantize(Gates().eval(), images_of(128, 1))
    path = export(quantized, tmp_path / "gates.c", images_of(2, 3))
    assert sqnr_db(quantized(images_of(300, 2)), load(path)(images_of(300, 2))) > 50
    assert float_operations(path) == ()


# Refusals -------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


@pytest.mark.parametrize(
    ("network", "example", "said"),
    [
        (Recurrent(), torch.randn(2, 5, 4), r"aten\.lstm \(lstm\), for which there is no kernel in C"),
        (nn.Embedding(5, 3), torch.ones(2, 4, dtype=torch.int64), "takes int64 .* float32 and int8 alone"),
        (Of(lambda x: F.pad(x, (1, 1), mode="reflect")), torch.randn(2, 3, 5), "pads by reflect"),
        (Of(lambda x: F.adaptive_avg_pool2d(x, 3)), torch.randn(2, 3, 8, 8), r"\(8, 8\) by \(3, 3\)"),
        (nn.Conv2d(1, 1, 2, padding="same"), torch.randn(2, 1, 8, 8), "padded on one side more"),
    ],
)
def test_what_c_has_no_kernel_for_is_named(network: nn.Module, example: Tensor, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        export(network.eval(), tmp_path / "model.c", example)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_compiler_is_refused(integers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    said = "no C compiler is found here: install gcc or clang"
    with pytest.raises(UserError, match=said):
        load(integers[1])
    assert C99.lacks_tool is not None
    assert said in C99.lacks_tool()


def test_a_file_without_its_function_is_refused(integers: tuple[QuantizedModel, Path], tmp_path: Path):
    damaged = tmp_path / "model.c"
    damaged.write_bytes(integers[1].read_bytes().replace(b"`", b""))
    with pytest.raises(UserError, match="cannot load this file: names no function"):
        load(damaged)


def test_a_sample_of_another_shape_is_refused(integers: tuple[QuantizedModel, Path]):
    with pytest.raises(ValueError, match=r"shape \[2, 1, 12, 13\], the file takes \[-1, 1, 12, 12\]"):
        load(integers[1])(torch.zeros(2, 1, 12, 13))


def test_an_order_in_memory_is_a_dense_layout():
    layout = ordered_layout((1, 3, 4, 5), (0, 2, 3, 1))
    assert layout.stride() == (60, 1, 15, 3)
    assert math.prod(layout.shape) == Value(Program().new(layout).buffer, layout).buffer.count
