"""Pair sums in 16 bits: what is certified never saturates, what is not can, and what then comes out."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor, nn

from distiq import environment
from distiq.errors import UserError
from distiq.models.signature import INPUT
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load, pair_sums
from distiq.runtimes.onnx_read import operation_counts, quantization_parameters
from distiq.runtimes.runtime import QuantizationParameters, Weight
from distiq.runtimes.saturation import accumulate, emulate, may_saturate, saturation

SETS = set(environment.describe().instruction_sets)
exact_here = pytest.mark.skipif(
    "avx2" in SETS and not SETS & {"avx512_vnni", "avx_vnni", "amx_int8"},
    reason="this CPU saturates itself: it has AVX2 without VNNI",
)


def saturates(weights: list[int]) -> bool:
    """By trying: any two weights of a row, with activations at either end."""
    sums = [
        a * v + b * w for v, w in itertools.combinations(weights, 2) for a, b in itertools.product((0, 255), repeat=2)
    ]
    return any(total > 32767 or total < -32768 for total in sums)


@pytest.mark.parametrize(
    "weights", [[64, 64, -3], [64, 65, -3], [127, 1, 1], [127, 2, 1], [-64, -64, 5], [-127, -2, 9], [127, -127, 0]]
)
def test_a_row_is_judged_as_by_trying(weights: list[int]):
    assert may_saturate(np.array([weights], np.int8)).tolist() == [saturates(weights)]


def test_random_rows_are_judged_as_by_trying():
    rows = np.random.default_rng(0).integers(-80, 81, (200, 2, 3)).astype(np.int8)
    expected = [saturates(row.ravel().tolist()) for row in rows]
    assert 0 < sum(expected) < 200, "both kinds are there"
    assert may_saturate(rows).tolist() == expected


def test_the_certificate_counts_channels():
    rows = np.array([[100, 100], [1, 2], [3, -4]], np.int8)
    layers = (Weight(rows, np.ones(3, np.float32)), Weight(rows[1:], np.ones(2, np.float32)))
    table = Weight(rows, np.ones(3, np.float32), is_multiplied=False)
    found = QuantizationParameters((*layers, table), (), frozenset())
    assert saturation(found) == (5, 1)
    assert "1 of 5 output channels" in saturation(found).sentence()
    assert saturation(found._replace(weights=(layers[1], table))).sentence().startswith("certified")


@pytest.mark.parametrize(
    ("weights", "inputs", "expected"),
    [
        ([127, 127], [255, 255], 32767),  # 64770
        ([-127, -127], [255, 255], -32768),  # -64770
        ([127, -127], [255, 255], 0),
        ([64, 64], [255, 255], 32640),
        ([127, 0, 127, 0], [255, 255, 255, 255], 64770),  # two pairs of 32385, added in 32 bits
        ([1, 127, 127], [255, 255, 255], 32640 + 32385),  # the last has no neighbour
    ],
)
def test_one_accumulator_by_hand(weights: list[int], inputs: list[int], expected: int):
    columns, row = (torch.tensor(values).double().view(1, -1, 1, 1) for values in (inputs, weights))
    assert accumulate(columns, row).item() == expected
    assert accumulate(columns, row, saturating=False).item() == sum(map(int.__mul__, weights, inputs))


def slow(x: Tensor, w: Tensor, stride: int, dilation: int, groups: int) -> Tensor:
    """Every accumulator with plain integers: kernel positions, in them the group's channels, two by two."""
    outputs, channels, height, width = w.shape
    rows, columns = ((x.shape[2 + axis] - dilation * (w.shape[2 + axis] - 1) - 1) // stride + 1 for axis in (0, 1))
    result = torch.zeros(len(x), outputs, rows, columns, dtype=torch.float64)
    for image, output, row, column in itertools.product(*map(range, result.shape)):
        first = output * groups // outputs * channels
        products = [
            int(x[image, first + c, row * stride + i * dilation, column * stride + j * dilation] * w[output, c, i, j])
            for i, j, c in itertools.product(range(height), range(width), range(channels))
        ]
        sums = [sum(products[k : k + 2]) for k in range(0, len(products), 2)]
        result[image, output, row, column] = sum(min(max(total, -32768), 32767) for total in sums)
    return result


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "dilation", "groups"),
    [(1, 2, 3, 1, 1, 1), (3, 2, 3, 2, 1, 1), (4, 4, 2, 1, 2, 2), (6, 3, 1, 1, 1, 3), (2, 4, 3, 1, 1, 2)],
)
def test_a_convolution_is_that_of_plain_integers(channels, outputs, kernel, stride, dilation, groups, monkeypatch):
    monkeypatch.setattr("distiq.runtimes.saturation.MOST_VALUES", 100)  # so that images go in several parts
    torch.manual_seed(0)
    x = torch.randint(150, 256, (3, channels, 6, 5)).double()
    w = torch.randint(-50, 128, (outputs, channels // groups, kernel, kernel)).double()
    w[0] = 127
    steps = {"stride": (stride, stride), "dilation": (dilation, dilation), "groups": groups}
    found = accumulate(x, w, **steps)
    assert torch.equal(found, slow(x, w, stride, dilation, groups))
    assert not torch.equal(found, accumulate(x, w, **steps, saturating=False))


def test_depthwise_layers_do_not_saturate():
    x, w = torch.full((1, 2, 3, 3), 255.0).double(), torch.full((2, 1, 3, 3), 127.0).double()
    assert accumulate(x, w, groups=2).unique().tolist() == [9 * 255 * 127]


@exact_here
def test_without_saturation_a_file_is_what_the_runtime_runs(exported, images: Tensor):
    expected = load(exported.int8_file)(images[:100])
    exact, held = (emulate(exported.int8_file, saturating)(images[:100]) for saturating in (False, True))
    torch.testing.assert_close(exact, expected, rtol=0, atol=0.01 * float(expected.std()))
    assert exact.shape == held.shape
    assert not torch.equal(exact, held), "these weights of 8 bits do saturate"


def test_a_certified_file_answers_the_same(exported, images: Tensor, tmp_path: Path):
    path = export(quantize(exported.model, images[:64], Scheme(reduce_range=True)), tmp_path / "model.onnx", images[:2])
    assert pair_sums(path).startswith("certified")
    assert torch.equal(emulate(path)(images[:100]), emulate(path, saturating=False)(images[:100]))
    assert max(int(np.abs(weight.integers).max()) for weight in quantization_parameters(path).weights) == 63
    assert operation_counts(path)["Cast"] == 0, "stored as int8, not packed"


@exact_here
def test_one_dimension_and_matrices(tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.ReLU(), nn.Linear(5, 3)).eval()
    inputs = torch.randn(40, 2, 10)
    path = export(quantize(model, inputs), tmp_path / "model.onnx", inputs)
    assert {"Conv", "MatMul"} <= operation_counts(path).keys()
    expected = load(path)(inputs)
    torch.testing.assert_close(emulate(path, saturating=False)(inputs), expected, rtol=0, atol=0.02)


class Once(CalibrationDataReader):
    """One batch of calibration samples."""

    def __init__(self, inputs: Tensor) -> None:
        self.batches = iter([{INPUT: inputs.numpy()}])

    def get_next(self) -> dict | None:
        return next(self.batches, None)


@exact_here
def test_a_file_of_another_tool(images: Tensor, tmp_path: Path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU6(), nn.Flatten()]
    path = export(nn.Sequential(*layers, nn.Linear(72, 3)).eval(), tmp_path / "float.onnx", images[:2])
    made = tmp_path / "made.onnx"
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(path), str(made), Once(images[:64]), per_channel=True, **kinds)
    exact, held, real = emulate(made, False)(images[:200]), emulate(made)(images[:200]), load(made)(images[:200])
    assert (exact - real).abs().max() < 0.1 * (held - real).abs().max()
    assert not pair_sums(made).startswith("certified")


WITHOUT_VNNI = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind, whose CPU has AVX2 alone, is not installed")
def test_the_emulation_is_what_the_runtime_computes_on_a_cpu_with_avx2_alone(exported, images: Tensor, tmp_path: Path):
    np.save(tmp_path / "inputs.npy", images[:50].numpy())
    call = [sys.executable, "-c", WITHOUT_VNNI, exported.int8_file, tmp_path / "inputs.npy", tmp_path / "outputs.npy"]
    subprocess.run(["valgrind", "--tool=none", "-q", *call], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = torch.from_numpy(np.load(tmp_path / "outputs.npy"))
    held, exact = (emulate(exported.int8_file, saturating)(images[:50]) for saturating in (True, False))
    torch.testing.assert_close(found, held, rtol=0, atol=1e-5 * float(held.std()))
    assert (found - exact).abs().max() > 0.01 * exact.std(), "these weights of 8 bits do saturate"


def written(path: Path, *, inputs: type = np.uint8, zero_point: int = 0, more: list | None = None) -> Path:
    """A file of one quantized convolution, 1 -> 2 channels, 1 x 2 positions of weights 127."""
    arrays = {
        "scale": np.float32(1), "zero": inputs(0), "weight": np.full((2, 1, 1, 2), 127, np.int8),
        "weight_scale": np.ones(2, np.float32), "weight_zero": np.full(2, zero_point, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], **dict(more or [])),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["n", "c", 1, "w"]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], tensors)
    opset = [helper.make_opsetid("", 19)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    return path


def test_a_file_of_127s_by_hand(tmp_path: Path):
    path = written(tmp_path / "one.onnx")
    inputs = torch.tensor([[[[255.0, 255.0, 1.0]]]])
    assert emulate(path)(inputs)[0, :, 0].tolist() == 2 * [[32767, 127 * 256]]
    assert emulate(path, saturating=False)(inputs)[0, :, 0].tolist() == 2 * [[64770, 127 * 256]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": np.int8}, "only u8 inputs with symmetric s8 weights can be emulated; a Conv is not"),
        ({"zero_point": 3}, "only u8 inputs with symmetric s8 weights"),
        ({"more": [("auto_pad", "SAME_UPPER")]}, "a Conv is padded by name; write its pads as numbers"),
    ],
)
def test_what_cannot_be_emulated_is_refused(changes: dict, text: str, tmp_path: Path):
    predict = emulate(written(tmp_path / "one.onnx", **changes))
    with pytest.raises(UserError, match=text):
        predict(torch.ones(1, 1, 1, 4))


def test_another_form_than_qdq_is_refused(tmp_path: Path):
    path = written(tmp_path / "one.onnx")
    proto = onnx.load(str(path))
    del proto.graph.node[1:]
    names = ["q", "scale", "zero", "weight", "weight_scale", "weight_zero", "scale", "zero"]
    proto.graph.node.append(helper.make_node("QLinearConv", names, ["z"]))
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["z", "scale", "zero"], ["y"]))
    onnx.save(proto, str(path))
    with pytest.raises(UserError, match="holds QLinearConv; write it with quant_format = QDQ"):
        emulate(path)
    with pytest.raises(UserError, match="no such file"):
        emulate(tmp_path / "absent.onnx")
