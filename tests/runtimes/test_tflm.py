"""TFLM's files: its kernels' formulas to the bit, without transposes, with sources that a firmware compiles."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.reference_kernels import LITERT, TFLM, by_formulas, reference_kernels
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.resnet import ResNet
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import parse_recipe
from distiq.runtimes.check import check_runtimes
from distiq.runtimes.export import differences, export, footprint, load, operations
from distiq.runtimes.litert_file import unpacked
from distiq.runtimes.tflm import ALIGNMENT, method, write_sources

pytest.importorskip("tflite_micro", reason="TFLM is not installed")
pytest.importorskip("litert_torch", reason="LiteRT is not installed")


class Flattened(nn.Module):
    """A colour image whose feature map goes into a linear layer as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)
        self.classifier = nn.Linear(8 * 4 * 6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(torch.relu(self.stem(images))), 1))


class Mask(nn.Module):
    """Classes of every place: an output of four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.stem(images)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "flattened": Flattened,
    "mask": Mask,
    "resnet": lambda: ResNet(5, 3, (8, 12), 1),
}
SHAPE = (3, 8, 12)


def images_of(count: int, seed: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=NETWORKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedModel, Path]:
    torch.manual_seed(0)
    quantized = quantize(NETWORKS[request.param]().eval(), images_of(64, 1), Scheme(integer_io=True))
    path = tmp_path_factory.mktemp(request.param) / "small-net.tflm"
    return quantized, export(quantized, path, images_of(2, 3), integer_io=True)


def test_an_integer_file_gives_what_its_kernels_formulas_give(made: tuple[QuantizedModel, Path]):
    """LiteRT's reference kernels are those formulas, too, but for linear layers, which round once there."""
    quantized, path = made
    content, images = path.read_bytes(), images_of(300, 2)
    about = runner.about_of(content)
    taken, outputs = runner.as_laid(images.numpy(), about)[0], load(path)(images)
    assert np.array_equal(outputs.numpy(), runner.as_given([by_formulas(content, taken, TFLM)], about))
    assert np.array_equal(reference_kernels(content, taken), by_formulas(content, taken, LITERT))
    step = about["outputs"][0]["scale"]
    with torch.no_grad():
        steps = ((outputs - quantized(images)) / step).round().abs()
    assert steps.max() <= 2, "kernels multiply by integers and shift: a value lands a step beside now and then"
    assert differences(quantized, path) == "", "columns that were moved are read as in the graph"


def test_images_lie_channels_last_and_nothing_is_transposed(made: tuple[QuantizedModel, Path]):
    _, path = made
    assert set(operations(path)) <= {"conv_2d", "add", "max_pool_2d", "mean", "pad", "reshape", "fully_connected"}
    graph = unpacked(path.read_bytes()).subgraphs[0]
    assert list(graph.tensors[graph.inputs[0]].shape) == [1, *SHAPE[1:], SHAPE[0]]


def test_constants_are_aligned_and_the_arena_is_recorded(made: tuple[QuantizedModel, Path]):
    from ai_edge_litert import schema_py_generated as schema

    _, path = made
    content = path.read_bytes()
    root = schema.Model.GetRootAs(content, 0)
    tables = [root.Buffers(number)._tab for number in range(root.BuffersLength())]
    starts = [table.Vector(table.Offset(4)) for table in tables if table.Offset(4)]
    assert starts
    assert all(start % ALIGNMENT == 0 for start in starts)
    flash, ram = footprint(path)
    assert flash is None
    assert 8 * 12 * (3 + 5) < ram < 100_000, "an image and what the first layer makes of it"


def test_the_array_is_the_file_and_the_resolver_names_its_operators(made: tuple[QuantizedModel, Path], tmp_path: Path):
    _, path = made
    copied = Path(shutil.copy(path, tmp_path))
    data, header, resolver = write_sources(copied, images_of(1, 2), images_of(1, 2))
    assert (data.name, header.name) == ("small-net_data.cc", "small-net_data.h")
    named = resolver.read_text()
    assert f"MicroMutableOpResolver<{len(operations(path))}>" in named
    assert all(f"resolver.{method(kind.upper())}()" in named for kind in operations(path))
    if not (compiler := shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    (tmp_path / "main.cc").write_text(
        f'#include <cstdint>\n#include <cstdio>\n#include "{header.name}"\nint main() {{\n'
        "  fwrite(small_net_data, 1, sizeof small_net_data, stdout);\n"
        f"  return reinterpret_cast<std::uintptr_t>(small_net_data) % {ALIGNMENT};\n}}\n"
    )
    subprocess.run([compiler, "-std=c++17", "main.cc", data.name, "-o", "main"], cwd=tmp_path, check=True)
    ran = subprocess.run([tmp_path / "main"], capture_output=True)
    assert (ran.returncode, ran.stdout) == (0, path.read_bytes())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("PADV2", "AddPadV2"),
        ("RELU6", "AddRelu6"),
        ("RESIZE_NEAREST_NEIGHBOR", "AddResizeNearestNeighbor"),
        ("SPLIT_V", "AddSplitV"),
    ],
)
def test_methods_are_spelt_as_in_micro_mutable_op_resolver(kind: str, name: str):
    assert method(kind) == name


class Angle(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return torch.atan2(values, values + 2)


def test_an_operation_that_tflm_lacks_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"a\.tflm: TFLM cannot run this network .*ATAN2.*take another runtime"):
        export(Angle().eval(), tmp_path / "a.tflm", torch.rand(2, 4))
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_refused():
    with pytest.raises(UserError, match=r'no files of tflm with float16 weights; nearest: mode = "static"'):
        check_runtimes(parse_recipe({"quantize": {"mode": "float16"}, "measure": {"runtimes": ["tflm"]}}))


def test_flash_of_a_firmware_is_not_measured():
    recipe = {"measure": {"runtimes": ["tflm"]}, "budget": {"flash_kb": 64}}
    with pytest.raises(UserError, match=r"budget\.flash_kb: TFLM's interpreter .* leave flash_kb out"):
        check_runtimes(parse_recipe(recipe))
