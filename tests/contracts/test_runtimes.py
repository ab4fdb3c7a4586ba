"""One suite for every runtime: the file of the one quantized graph answers as the graph does."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.mobilenet import MobileNetV2
from distiq.models.resnet import ResNet
from distiq.models.signature import call, concatenated, split
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import (
    RUNTIMES,
    differences,
    export,
    files_of,
    load,
    operations,
    require,
    runtime_named,
    runtime_of,
)
from distiq.runtimes.runtime import Runtime

CLASSES = 4
NAMES = [runtime.name for runtime in RUNTIMES]
LAST_LAYER_IN_FLOAT = {"litert", "executorch", "tflm"}
"""Where it is small, as in these networks; see `lowering.with_float_outputs`."""


class Branches(nn.Module):
    """Two branches, concatenated; a max pool and an average pool; no padding of the channels' number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.classifier = nn.Linear(12 * 9, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(images))), 2)
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.classifier(torch.flatten(F.avg_pool2d(x, 2), 1))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "branches": Branches,
    "resnet": lambda: ResNet(CLASSES, 1, (8, 16), 1),
    "mobilenet": lambda: MobileNetV2(CLASSES, 1, 0.25, stages=((1, 16, 1, 1), (4, 24, 2, 2)), activation="relu6"),
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
}


def installed(runtime: Runtime) -> bool:
    try:
        require(runtime, to_write=True)
    except UserError:
        return False
    return True


COMPILED = {"inductor"}
"""Their files take tens of seconds to make; tests/runtimes/test_inductor.py is the quick suite's share."""


def case(name: str, compiles: bool = False) -> object:
    """A runtime as a parameter: skipped where it is not installed, slow where the tests compile for it."""
    runtime = runtime_named(name)
    absent = pytest.mark.skipif(not installed(runtime), reason=f"{runtime.title} is not installed")
    return pytest.param(name, marks=[absent, *([pytest.mark.slow] if compiles and name in COMPILED else [])])


def images_of(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


class Files(NamedTuple):
    """A float network, the same quantized, and their files in one runtime."""

    runtime: str
    family: str
    model: nn.Module
    quantized: QuantizedModel
    float_file: Path
    int8_file: Path


SLOW = {"resnet"}  # the others hold the same operations
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FAMILIES]


@pytest.fixture(scope="module", params=PARAMS)
def networks(request: pytest.FixtureRequest) -> tuple[str, nn.Module, QuantizedModel]:
    torch.manual_seed(0)
    model = FAMILIES[request.param]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return request.param, model.eval(), quantize(model, images_of(256, 1))


@pytest.fixture(scope="module", params=[case(name, compiles=True) for name in NAMES])
def files(request: pytest.FixtureRequest, networks, tmp_path_factory: pytest.TempPathFactory) -> Files:
    family, model, quantized = networks
    folder, suffix = tmp_path_factory.mktemp(f"{family}-{request.param}"), runtime_named(request.param).suffix
    float_file = export(model, folder / f"float{suffix}", images_of(2, 3))
    return Files(
        request.param,
        family,
        model,
        quantized,
        float_file,
        export(quantized, folder / f"int8{suffix}", images_of(2, 3)),
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return images_of(500, 2)


def test_the_float_file_is_torch(files: Files, images: Tensor):
    with torch.no_grad():
        torch.testing.assert_close(load(files.float_file)(images), files.model(images), rtol=1e-4, atol=1e-5)


def test_the_int8_file_answers_as_the_simulated_graph(files: Files, images: Tensor):
    with torch.no_grad():
        simulated = files.quantized(images)
    deployed = load(files.int8_file)(images)
    # Kernels rescale and round in their own ways: now and then a value lands one integer beside; TFLM's, which round
    # twice, more often (tests/runtimes/test_tflm.py holds them to LiteRT's reference kernels, to the bit).
    span = simulated.max() - simulated.min()
    far = 0.06 if files.runtime == "tflm" else 0.03
    assert (deployed - simulated).abs().max() < far * span
    assert (deployed - simulated).abs().mean() < 0.005 * span
    top = simulated.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > far * span / 1.5
    assert clear.sum() > 200
    assert torch.equal(simulated.argmax(1)[clear], deployed.argmax(1)[clear])


@pytest.mark.parametrize("form", ["float_file", "int8_file"])
def test_batch_and_threads_change_no_answer(form: str, files: Files, images: Tensor):
    path = getattr(files, form)
    predict = load(path)
    expected = predict(images[:70])
    one_by_one = torch.cat([predict(image) for image in images[:70].split(1)])
    by_32 = torch.cat([predict(part) for part in images[:70].split(32)])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if form == "float_file" else {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(one_by_one, expected, **tolerance)
    torch.testing.assert_close(by_32, expected, **tolerance)
    torch.testing.assert_close(load(path, threads=2)(images[:70]), expected, **tolerance)


def test_two_models_with_other_threads_do_not_disturb_one_another(files: Files, images: Tensor):
    one, two = load(files.int8_file, threads=1), load(files.int8_file, threads=2)
    first = one(images[:5])
    torch.testing.assert_close(two(images[:5]), first, rtol=0, atol=1e-6)
    torch.testing.assert_close(one(images[:5]), first, rtol=0, atol=0)


def test_the_file_holds_the_integers_and_scales_of_the_graph(files: Files):
    found = differences(files.quantized, files.int8_file)
    assert found == ""


def test_no_layer_but_a_named_one_computes_in_float(files: Files):
    left = runtime_named(files.runtime).float_operations(files.int8_file)
    before = runtime_named(files.runtime).float_operations(files.float_file)
    assert len(before) > 1, "the float file shows that the check sees something"
    if files.runtime in LAST_LAYER_IN_FLOAT:
        assert sum("fully" in name for name in left) == 1
        left = tuple(name for name in left if "fully" not in name)
    # XNNPACK averages over windows in float32 alone; LiteRT's own kernel would keep the input's scale.
    pools = files.family == "branches" and files.runtime in ("executorch", "litert", "tflm")
    assert len(left) == int(pools), left


CONVERTING = {"dequantizelinear", "dequantize", "fakequantize", "convert", "reorder", "reshape", "transpose"}
"""Between integers and floats, or shapes and layouts."""


def test_the_count_of_operations_hides_no_float_island(files: Files):
    counted, left = operations(files.int8_file), runtime_named(files.runtime).float_operations(files.int8_file)
    named = {part.lower() for name in left for part in (name.partition(" (")[0], name.rpartition("(")[2].rstrip(")"))}
    assert {kind.lower() for kind, counts in counted.items() if "float32" in counts} <= named | CONVERTING
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in files.model.modules())
    assert sum(counts.get("int8", 0) for counts in counted.values()) >= layers - len(left)
    assert not any("int8" in counts for counts in operations(files.float_file).values())


def test_nothing_is_left_beside_the_files(files: Files):
    expected = {part for path in (files.float_file, files.int8_file) for part in files_of(path)}
    assert set(files.int8_file.parent.iterdir()) == expected


@pytest.mark.parametrize("name", [case(name) for name in NAMES])
def test_a_missing_or_damaged_file_is_refused(name: str, tmp_path: Path):
    runtime = runtime_named(name)
    path = tmp_path / f"model{runtime.suffix}"
    with pytest.raises(UserError, match="no such file"):
        load(path)
    for part in files_of(path):
        part.write_bytes(b"this is no model, whatever its name says")
    with pytest.raises(UserError, match=rf"model\{runtime.suffix}: {runtime.title} cannot load this file"):
        load(path)


class TwoEnds(nn.Module):
    """Two inputs by name, two outputs of very different range in a dict, as detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(4, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.boxes, self.scores = nn.Linear(16, 4), nn.Linear(16, CLASSES)

    def forward(self, image: Tensor, depth: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.norm(self.body(torch.cat([image, depth], 1)))).mean((2, 3), keepdim=True).flatten(1)
        return {"boxes": self.boxes(x), "scores": self.scores(x)}


def pairs_of(count: int, seed: int) -> dict[str, Tensor]:
    """Not square, and in another order than the network's."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"depth": (1, 12, 20), "image": (3, 12, 20)}
    return {name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def two_ends() -> tuple[nn.Module, QuantizedModel]:
    torch.manual_seed(0)
    model = TwoEnds()
    model.boxes.weight.data *= 300
    return model.eval(), quantize(model, pairs_of(64, 1))


@pytest.fixture(scope="module", params=[case(name, compiles=True) for name in NAMES])
def two_ended_files(request, two_ends, tmp_path_factory) -> tuple[Path, Path]:
    folder, suffix = tmp_path_factory.mktemp(f"two-{request.param}"), runtime_named(request.param).suffix
    forms = zip(("float", "int8"), two_ends, strict=True)
    return tuple(export(form, folder / f"{name}{suffix}", pairs_of(2, 3)) for name, form in forms)


@torch.no_grad()
def test_several_inputs_and_outputs_go_by_name(two_ends, two_ended_files):
    inputs = pairs_of(70, 2)
    for form, file in zip(two_ends, two_ended_files, strict=True):
        stated = runtime_of(file).signature(file)
        assert [(one.name, one.shape) for one in stated.inputs] == [
            ("image", (-1, 3, 12, 20)),
            ("depth", (-1, 1, 12, 20)),
        ]
        assert [(one.name, one.shape) for one in stated.outputs] == [("boxes", (-1, 4)), ("scores", (-1, CLASSES))]
        expected, outputs = call(form, inputs), load(file)(inputs)
        device = runner.load(file, 1)({name: tensor.numpy() for name, tensor in inputs.items()})
        assert list(outputs) == list(expected) == ["boxes", "scores"]
        for name in expected:
            assert sqnr_db(expected[name], outputs[name]) > (100 if form is two_ends[0] else 45)
            assert np.array_equal(device[name], outputs[name].numpy())
        one_by_one = concatenated([load(file)(part) for part in split(inputs, 1)])
        torch.testing.assert_close(one_by_one["scores"], outputs["scores"], rtol=1e-4, atol=1e-4)
    assert differences(two_ends[1], two_ended_files[1]) == ""


def test_an_input_that_is_missing_is_named(two_ended_files):
    inputs = pairs_of(2, 2)
    with pytest.raises(UserError, match="takes image, depth; image is given"):
        load(two_ended_files[0])({"image": inputs["image"]})
    with pytest.raises(UserError, match=r"takes 2 inputs, by name \(image, depth\); one tensor is given"):
        load(two_ended_files[0])(inputs["image"])
    with pytest.raises(runner.Refused, match="takes image, depth; image is given"):
        runner.load(two_ended_files[0], 1)({"image": inputs["image"].numpy()})


@torch.no_grad()
def test_outputs_of_another_range_have_quantization_parameters_of_their_own(two_ends):
    """Of integers at both sides: the smaller output would be lost in the larger one's steps."""
    model, _ = two_ends
    quantized = quantize(model, pairs_of(64, 1), Scheme(integer_io=True))
    expected, outputs = (call(form, pairs_of(70, 2)) for form in (model, quantized))
    assert all(sqnr_db(expected[name], outputs[name]) > 30 for name in expected)


def convolutions(dimensions: int) -> nn.Module:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dimensions - 1]
    layers = convolution(2, 4, 3, padding=1), nn.ReLU(), convolution(4, 4, 3, 2, 1), nn.ReLU()
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(4, 3)).eval()


WITHOUT_VOLUMES = {
    "executorch": r"cannot run this file .* outside XNNPACK: aten::convolution.*other run",
    "tflm": r"TFLM cannot run this network \(Didn't find op for builtin opcode 'CONV_3D'\)",
    "c99": r"uses aten\.conv3d .*no kernel in C; replace it, or take another runtime",
}


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 20), (2, 6, 8, 12)], ids=["1-D", "3-D"])
@pytest.mark.parametrize("name", [case(name, compiles=True) for name in NAMES])
def test_convolutions_in_one_and_three_dimensions_run_or_are_refused(name: str, shape: tuple, tmp_path: Path):
    torch.manual_seed(0)
    inputs, path = torch.randn(16, *shape), tmp_path / f"model{runtime_named(name).suffix}"
    quantized = quantize(convolutions(len(shape) - 1), inputs, Scheme())
    if len(shape) == 4 and name in WITHOUT_VOLUMES:
        with pytest.raises(UserError, match=WITHOUT_VOLUMES[name]):
            export(quantized, path, inputs)
        assert list(tmp_path.iterdir()) == []
        return
    least_db = 45 if name == "tflm" else 60
    assert sqnr_db(quantized(inputs), load(export(quantized, path, inputs))(inputs)) > least_db
    assert differences(quantized, path) == ""


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize("name", [case(name) for name in NAMES])
def test_a_network_that_cannot_be_converted_is_refused_and_leaves_nothing(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="cannot"):
        export(Branching(), tmp_path / f"model{runtime_named(name).suffix}", torch.randn(2, 3))
    assert list(tmp_path.iterdir()) == []
