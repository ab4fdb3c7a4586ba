"""Files of dynamic, weight-only and 16-bit schemes: the graph's integers, the simulation's answers, sizes by hand."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, pair_sums, require, runtime_of

SCHEMES = {
    "dynamic": Scheme(mode="dynamic"),
    "dynamic_4": Scheme(4, mode="dynamic"),
    "weight_only": Scheme(mode="weight_only"),
    "weight_only_4": Scheme(4, mode="weight_only"),
    "groups": Scheme(4, mode="weight_only", group_size=16),
    "sixteen": Scheme(activation_bits=16),
}
TEXTS, LENGTH = 64, 9


class Words(nn.Module):
    """A table, a convolution, products in three dimensions (two of one source) and in two, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.convolution = nn.Embedding(30, 32), nn.Conv1d(32, 32, 3, padding=1)
        self.left, self.right = nn.Linear(32, 48), nn.Linear(32, 48, bias=False)
        self.norm, self.classifier = nn.LayerNorm(48), nn.Linear(48, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.relu(self.convolution(self.embedding(tokens).transpose(1, 2))).transpose(1, 2)
        return self.classifier(self.norm(torch.tanh(self.left(x)) * self.right(x)).mean(1))


def texts(count: int, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 30, (count, length), generator=torch.Generator().manual_seed(length))


def words() -> Words:
    torch.manual_seed(0)
    return Words().eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[QuantizedModel, Path]]:
    folder = tmp_path_factory.mktemp("schemes")
    made = {name: quantize(words(), texts(TEXTS), scheme) for name, scheme in SCHEMES.items()}
    return {name: (model, export(model, folder / f"{name}.onnx", texts(2))) for name, model in made.items()}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_file_answers_as_its_simulation_at_any_length(name: str, files):
    quantized, path = files[name]
    step = 1e-4 if name == "sixteen" else 1e-5  # a value between two of 65536 steps may fall to either
    for tokens in (texts(TEXTS), texts(7, 4), texts(1, 2)):
        with torch.no_grad():
            torch.testing.assert_close(load(path)(tokens), quantized(tokens), rtol=step, atol=step)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_file_holds_the_graphs_integers_and_scales(name: str, files):
    quantized, path = files[name]
    assert differences(quantized, path) == ""
    assert len(runtime_of(path).quantization_parameters(path).weights) == 5  # table, convolution, three linear layers
    with torch.no_grad():
        next(iter(quantized.parameters())).mul_(-1)
        assert "integer weights are not the graph's" in differences(quantized, path)
        next(iter(quantized.parameters())).mul_(-1)


TABLE, CONVOLUTION, LINEAR = 30 * 32, 32 * 32 * 3, 2 * 48 * 32 + 3 * 48
FLOATS = 4 * (32 + 48 + 2 * 48 + 3)  # biases and the normalization
CHANNELS = 4 * (30 + 32 + 48 + 48 + 3)  # scales


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("dynamic", TABLE + CONVOLUTION + LINEAR + CHANNELS),
        ("dynamic_4", TABLE + (CONVOLUTION + LINEAR) // 2 + CHANNELS),
        ("weight_only", TABLE + CONVOLUTION + LINEAR + CHANNELS),
        ("weight_only_4", TABLE + (CONVOLUTION + LINEAR) // 2 + CHANNELS),
        # Two groups in a row of 32 and three in one of 48, with a scale each.
        ("groups", TABLE + (CONVOLUTION + LINEAR) // 2 + 4 * (30 + 32 + 2 * 48 + 2 * 48 + 3 * 3)),
    ],
)
def test_the_size_of_what_is_stored_is_that_by_hand(name: str, weights: int, files):
    path = files[name][1]
    tensors = [tensor for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type != TensorProto.INT64]
    stored = sum(len(tensor.raw_data) for tensor in tensors if tensor.dims)
    assert stored == weights + FLOATS
    assert path.stat().st_size < stored + 3000, "names and nodes"


def run_here(path: Path, folder: Path) -> Counter[str]:
    """Types of the nodes that ONNX Runtime runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("name", ["dynamic", "dynamic_4"])
def test_linear_layers_of_a_dynamic_file_multiply_integers(name: str, files, tmp_path: Path):
    counts = run_here(files[name][1], tmp_path)
    assert counts["DynamicQuantizeMatMul"] + counts["MatMulIntegerToFloat"] == 3
    assert not {"MatMul", "Gemm", "FusedGemm", "FusedMatMul"} & set(counts)
    assert pair_sums(files[name][1])


@pytest.mark.parametrize(("name", "grouped"), [("weight_only", 0), ("weight_only_4", 0), ("groups", 3)])
def test_a_weight_only_file_runs_in_float32_as_a_float_file_would(name: str, grouped: int, files, tmp_path: Path):
    counts = run_here(files[name][1], tmp_path)
    assert counts["MatMulNBits"] == grouped
    assert not any("Quantize" in kind or "Integer" in kind for kind in counts), "nothing is unpacked at each run"
    nodes = [node for node in onnx.load(str(files[name][1])).graph.node if node.op_type == "MatMulNBits"]
    levels = {entry.i for node in nodes for entry in node.attribute if entry.name == "accuracy_level"}
    assert levels == ({1} if grouped else set()), "4 would quantize activations to int8"
    assert pair_sums(files[name][1]) == "", "no integers are multiplied that could saturate"


def test_wide_activations_have_no_integer_kernel(files, tmp_path: Path):
    assert runtime_of(files["sixteen"][1]).float_operations(files["sixteen"][1])
    graph = onnx.load(str(files["sixteen"][1])).graph
    kinds = {tensor.data_type for tensor in graph.initializer if not tensor.dims}
    assert TensorProto.INT16 in kinds


@pytest.mark.parametrize("name", ["weight_only", "weight_only_4"])
def test_openvino_takes_weight_only_graphs(name: str, files, tmp_path: Path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    quantized = files[name][0]
    path = export(quantized, tmp_path / "model.xml", texts(2))
    with torch.no_grad():
        torch.testing.assert_close(load(path)(texts(TEXTS)), quantized(texts(TEXTS)), rtol=1e-4, atol=1e-4)
    assert differences(quantized, path) == ""


@pytest.mark.parametrize(
    ("name", "ending", "message"),
    [
        ("dynamic", ".xml", 'activations that are quantized at each run; nearest: mode = "weight_only" or "static"'),
        ("dynamic", ".tflite", "its kernels find a range for each row of a layer's input, the graph has one for all"),
        ("weight_only", ".tflite", 'integer weights beside float32 activations; nearest: mode = "static"'),
        ("groups", ".pte", 'nearest: mode = "static", or runtime "onnxruntime"'),
        ("groups", ".xml", "groups of weights; nearest: group_size = 0"),
        ("sixteen", ".xml", "activations of 16 bits; nearest: activation_bits = 8"),
        (
            "dynamic",
            ".pt2",
            'files of inductor with activations that are quantized at each run; nearest: mode = "static"',
        ),
        ("weight_only", ".pt2", 'nearest: mode = "static", or runtime "onnxruntime"'),
        ("sixteen", ".pt2", "nearest: activation_bits = 8"),
    ],
)
def test_other_runtimes_refuse_what_they_cannot_hold(name: str, ending: str, message: str, files, tmp_path: Path):
    try:
        require(runtime_of(tmp_path / f"model{ending}"))
    except UserError as error:
        pytest.skip(str(error))
    with pytest.raises(UserError) as refused:
        export(files[name][0], tmp_path / f"model{ending}", texts(2))
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []
