"""Files that take and give int8: the graph's own parameters at inputs and outputs, the outputs of the float file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distiq.commands.bench import bench
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.models.text import EmbeddingBag
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, pair_sums
from distiq.runtimes.litert import signature
from distiq.runtimes.litert_file import float_operations
from distiq.runtimes.uint8_input import Uint8Input
from tests.runtimes.conftest import Branches, images_of

pytest.importorskip("litert_torch", reason="LiteRT is not installed")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "branches": Branches,
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 4)),
    "pooled": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


class Made(NamedTuple):
    """A quantized network, and its files of floats and of integers."""

    quantized: QuantizedModel
    floats: Path
    integers: Path


@pytest.fixture(scope="module", params=NETWORKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    quantized = quantize(NETWORKS[request.param]().eval(), images_of(256, 1), Scheme(integer_io=True))
    folder = tmp_path_factory.mktemp(request.param)
    floats = export(quantized, folder / "floats.tflite", images_of(2, 3))
    return Made(quantized, floats, export(quantized, folder / "integers.tflite", images_of(2, 3), integer_io=True))


def ends(quantized: QuantizedModel) -> list[tuple[float, int]]:
    """Scale and zero point of the input and of the output of the graph."""
    nodes = [node for node in quantized.reference().graph.nodes if "quantize_per_tensor" in str(node.target)]
    return [(float(np.float32(node.args[1])), int(node.args[2])) for node in (nodes[0], nodes[-1])]


def opened(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return interpreter


def test_input_and_output_are_int8_with_the_graphs_own_parameters(made: Made):
    interpreter, parameters = opened(made.integers), ends(made.quantized)
    found = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
    assert [end["dtype"] for end in found] == [np.int8, np.int8]
    assert [end["quantization"] for end in found] == parameters
    stated = [one for side in signature(made.integers) for one in side]
    assert [(one.dtype, one.quantization) for one in stated] == [(torch.int8, pair) for pair in parameters]
    assert [one.quantization for side in signature(made.floats) for one in side] == [None, None]


def test_a_program_that_knows_the_parameters_alone_gets_the_outputs_of_the_float_file(made: Made):
    interpreter, ((scale, zero_point), (step, zero)) = opened(made.integers), ends(made.quantized)
    images = images_of(200, 2)
    integers = ((images * (1 / scale)).round() + zero_point).clamp(-128, 127).to(torch.int8)
    expected = load(made.floats)(images)
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    for sample, answer in zip(integers, expected, strict=True):
        interpreter.set_tensor(first, sample.unsqueeze(0).numpy())
        interpreter.invoke()
        logits = (torch.from_numpy(interpreter.get_tensor(last)).float() - zero) * step
        assert torch.equal(logits[0], answer)


def test_floats_are_quantized_where_the_file_is_run(made: Made):
    images = images_of(200, 4)
    expected = load(made.floats)(images)
    assert torch.equal(load(made.integers)(images), expected)
    assert torch.equal(torch.cat([load(made.integers, threads=2)(part) for part in images.split(32)]), expected)
    assert np.array_equal(runner.load(made.integers, 1)(images.numpy()), expected.numpy())


def test_it_answers_as_the_simulated_graph_and_nothing_is_float(made: Made):
    images = images_of(500, 5)
    with torch.no_grad():
        simulated = made.quantized(images)
    found, span = load(made.integers)(images), float(simulated.max() - simulated.min())
    # Kernels rescale and round in their own ways: now and then a value lands one integer beside.
    assert float((found - simulated).abs().max()) < 0.03 * span
    assert float((found - simulated).abs().mean()) < 0.005 * span
    assert float_operations(made.integers) == ()
    assert differences(made.quantized, made.integers) == ""
    assert len(simulated.unique()) <= 256, "the logits have 8 bits"


def test_other_runtimes_files_of_the_same_graph_give_floats_of_the_same_scale(made: Made, tmp_path: Path):
    path = export(made.quantized, tmp_path / "model.onnx", images_of(2, 3))
    with torch.no_grad():
        simulated = made.quantized(images_of(200, 6))
    step = ends(made.quantized)[1][0]
    assert float((load(path)(images_of(200, 6)) - simulated).abs().max()) <= 1.01 * step
    assert differences(made.quantized, path) == ""
    assert pair_sums(path)


def test_it_is_timed_on_integers(made: Made):
    assert load(made.integers)(torch.zeros(3, 1, 12, 12, dtype=torch.int8)).dtype == torch.float32
    (entry,) = signature(made.integers).inputs
    assert (entry.shape, entry.dtype) == ((-1, 1, 12, 12), torch.int8)
    (file,) = bench([made.integers], rounds=1, seconds=0.002).files
    assert [one.batch for one in file.latency] == [1, 32]


def test_with_pixels_the_output_alone_is_int8(tmp_path: Path):
    torch.manual_seed(0)
    grey = Uint8Input((0.286,), (0.353,))
    images = torch.randint(0, 256, (256, 1, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inputs = (images.float() / 255 - grey.mean[0]) / grey.std[0]
    quantized = quantize(Branches().eval(), inputs, Scheme(integer_io=True))
    floats = export(quantized, tmp_path / "floats.tflite", inputs[:2])
    path = export(quantized, tmp_path / "pixels.tflite", inputs[:2], grey, integer_io=True)
    details = opened(path).get_input_details()[0], opened(path).get_output_details()[0]
    assert [end["dtype"] for end in details] == [np.uint8, np.int8]
    assert [one.dtype for side in signature(path) for one in side] == [torch.uint8, torch.int8]
    assert torch.equal(load(path)(images), load(floats)(inputs))
    assert float_operations(path) == (), "a grey pixel is its integer"


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Gelu(nn.Module):
    """Integers at both ends, and between them an operation that has no integer kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.gelu(self.first(x)))


def test_networks_that_compute_in_float_anywhere_are_refused_with_the_operations():
    integers = Scheme(integer_io=True)
    with pytest.raises(UserError, match=r"integer_io: layer_norm \(layer_norm.default\).* compute in float32"):
        quantize(Normalized().eval(), torch.randn(8, 12), integers)
    with pytest.raises(UserError, match=r"integer_io: .*embedding \(embedding.default\)"):
        quantize(EmbeddingBag(3, 20, 0, 8, 8).eval(), torch.randint(1, 20, (8, 5)), integers)
    with pytest.raises(UserError, match=r"integer_io: gelu \(gelu.default\) compute in float32"):
        quantize(Gelu().eval(), torch.randn(8, 3, 9, 9), integers)
    kept = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    with pytest.raises(UserError, match=r"integer_io: linear_1 \(linear.default\) compute in float32"):
        quantize(kept, torch.randn(8, 4), Scheme(integer_io=True, float_modules=("2",)))


class Upscaling(nn.Module):
    """The graph has integers for all of it; LiteRT's kernel of a transposed convolution has floats."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.last = nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.up(torch.relu(self.first(x)))))


def test_a_file_with_floats_between_its_integer_ends_is_refused(tmp_path: Path):
    quantized = quantize(Upscaling().eval(), images_of(8, 1), Scheme(integer_io=True))
    with pytest.raises(UserError, match=r"integer_io: LiteRT computes \d+ \(transpose_conv\) in float32; replace"):
        export(quantized, tmp_path / "model.tflite", images_of(2, 3), integer_io=True)


@pytest.mark.parametrize("activation", [nn.Hardswish, nn.Hardsigmoid, nn.ReLU6])
def test_clamped_functions_are_computed_in_integers(activation: type[nn.Module], tmp_path: Path):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), activation(), nn.Conv2d(4, 2, 3)).eval()
    quantized = quantize(network, images_of(64, 1), Scheme(integer_io=True))
    path = export(quantized, tmp_path / "model.tflite", images_of(2, 3), integer_io=True)
    assert float_operations(path) == ()


def test_what_has_no_integers_or_no_form_is_refused(tmp_path: Path):
    network, inputs = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), torch.randn(8, 4)
    for model in (network, quantize(network, inputs, Scheme())):
        with pytest.raises(
            UserError, match=r"input and output are not quantized; quantize it with Scheme\(integer_io=True\)"
        ):
            export(model, tmp_path / "model.tflite", inputs, integer_io=True)
    with pytest.raises(UserError, match=r"files of ONNX Runtime take and give float32; those of integers: \.tflite"):
        export(quantize(network, inputs, Scheme(integer_io=True)), tmp_path / "model.onnx", inputs, integer_io=True)
    with pytest.raises(UserError, match="integer_io = true needs 8-bit inputs and logits"):
        Scheme(integer_io=True, mode="dynamic")
    assert list(tmp_path.iterdir()) == []
