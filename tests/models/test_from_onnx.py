"""read_onnx(): files of ONNX as networks; their answers are those of the network that they were made from."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.from_onnx import files_of_onnx, read_onnx
from distiq.quantization.graph import export_graph
from distiq.recipe.training import ModelSettings

SMALL = np.arange(8, dtype=np.float32).reshape(2, 4) / 8


def file_of(
    path: Path, nodes: list, shape: list[Any], constants: dict[str, np.ndarray] | None = None, opset: int = 18
) -> Path:
    """An ONNX file from "x" of a shape to "y"."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    known = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "own", [entry], [result], known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path))
    return path


def node(op: str, *inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [to], name=f"the_{op.lower()}", **attributes)


def answer_of(path: Path, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return read_onnx(path)(inputs)


class Normed(nn.Module):
    """Batch norm behind a convolution of one bias, behind a linear layer, and alone."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.conv, self.norm = nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, 2, 1, groups=2), nn.BatchNorm2d(4)
        self.linear, self.last = nn.Linear(16, 5), nn.BatchNorm1d(5)
        for layer in (self.alone, self.norm, self.last):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.linear(torch.relu(self.norm(self.conv(self.alone(images)))).flatten(1)))


class Attention(nn.Module):
    """A vision transformer's: patches, a class token, positions, heads, normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(2, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.heads, self.last = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 5)
        nn.init.normal_(self.norm.weight)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(images.shape[0], -1, -1), patches], 1)
        queries, keys, values = self.heads(self.norm(x)).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
        return self.last(x + mixed.transpose(1, 2).reshape(-1, 5, 8))[:, 0]


@pytest.mark.parametrize(
    ("make", "layers"),
    [(Normed, ["alone", "conv", "linear"]), (Attention, ["patch", "norm", "heads", "last"])],  # the others are folded
)
@pytest.mark.parametrize("fixed", [False, True])
def test_a_file_that_torch_wrote(tmp_path: Path, make: Callable[[], nn.Module], layers: list[str], fixed: bool):
    torch.manual_seed(0)
    model, path = make().eval(), tmp_path / "plain.onnx"
    free = None if fixed else ({0: torch.export.Dim("batch")},)
    example = (torch.randn(1 if fixed else 2, 2, 4, 4),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, example, path, dynamo=True, dynamic_shapes=free, optimize=False, verbose=False)
    assert {"BatchNormalization", "MatMul"} & {entry.op_type for entry in onnx.load(str(path)).graph.node}
    network = read_onnx(path)
    assert [name for name, _ in network.named_children()] == layers
    images = torch.randn(3, 2, 4, 4)
    for batch in (images, images[:1]):
        torch.testing.assert_close(network(batch), model(batch), rtol=1e-5, atol=1e-5)
    assert all(parameter.requires_grad for parameter in network.parameters())
    graph = export_graph(network, images)
    torch.testing.assert_close(graph(torch.cat([images, images])), network(torch.cat([images, images])))


@pytest.mark.parametrize(("auto_pad", "before", "after"), [("SAME_UPPER", 0, 1), ("SAME_LOWER", 1, 0), ("VALID", 0, 0)])
def test_automatic_padding(tmp_path: Path, auto_pad: str, before: int, after: int):
    weight = np.random.default_rng(0).normal(size=(2, 1, 3)).astype(np.float32)
    convolution = node("Conv", "x", "w", strides=[2], auto_pad=auto_pad)
    x = torch.randn(3, 1, 6)
    padded = nn.functional.pad(x, (before, after))  # (ceil(6 / 2) - 1) * 2 + 3 - 6 = 1 in all
    expected = nn.functional.conv1d(padded, torch.from_numpy(weight), stride=2)
    torch.testing.assert_close(
        answer_of(file_of(tmp_path / "a.onnx", [convolution], ["n", 1, 6], {"w": weight}), x), expected
    )


def test_a_product_and_its_bias_are_one_linear_layer(tmp_path: Path):
    nodes = [node("MatMul", "x", "w", to="h"), node("Add", "b", "h")]
    bias = np.array([1, 2, 3, 4], np.float32)
    path = file_of(tmp_path / "linear.onnx", nodes, ["n", 2], {"w": SMALL, "b": bias})
    network = read_onnx(path)
    (layer,) = network.children()
    assert isinstance(layer, nn.Linear) and dict(network.named_parameters()).keys() == {
        "the_matmul.weight",
        "the_matmul.bias",
    }
    x = torch.randn(3, 2)
    torch.testing.assert_close(network(x), x @ torch.from_numpy(SMALL) + torch.from_numpy(bias))


def test_arithmetic_on_shapes_leaves_the_batch_free(tmp_path: Path):
    nodes = [
        node("Shape", "x", to="s"),
        node("Gather", "s", "zero", to="n"),
        node("Unsqueeze", "n", "axis", to="n1"),
        node("Concat", "n1", "rest", to="target", axis=0),
        node("Reshape", "x", "target"),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    network = read_onnx(file_of(tmp_path / "view.onnx", nodes, ["n", 2, 3], constants))
    program = torch.export.export(network, (torch.randn(2, 2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert program.module()(torch.randn(5, 2, 3)).shape == (5, 6)


@pytest.mark.parametrize(("fmod", "size"), [(0, 1), (1, -2)])  # of -2 by 3
def test_remainders_of_sizes_are_numbers(fmod: int, size: int, tmp_path: Path):
    nodes = [
        node("Mod", "less", "three", to="m", fmod=fmod),
        node("Mul", "m", "m", to="s"),
        node("Concat", "rows", "s", "rest", to="target", axis=0),
        node("Reshape", "x", "target"),
    ]
    constants = {name: np.array([value]) for name, value in (("less", -2), ("three", 3), ("rows", -1), ("rest", 4))}
    path = file_of(tmp_path / "view.onnx", nodes, ["n", size * size * 4], constants)
    assert answer_of(path, torch.randn(5, size * size * 4)).shape == (5, size * size, 4)


def test_nodes_may_stand_in_any_order(tmp_path: Path):
    nodes = [node("Relu", "h"), node("MatMul", "x", "w", to="h")]
    x = torch.randn(3, 2)
    path = file_of(tmp_path / "net.onnx", nodes, ["n", 2], {"w": SMALL})
    torch.testing.assert_close(answer_of(path, x), torch.relu(x @ torch.from_numpy(SMALL)))


SOLO = {
    "Relu": ({}, torch.relu),
    "LeakyRelu": ({"alpha": 0.2}, lambda x: nn.functional.leaky_relu(x, 0.2)),
    "Sigmoid": ({}, torch.sigmoid),
    "HardSigmoid": ({"alpha": 0.25}, lambda x: (0.25 * x + 0.5).clamp(0, 1)),
    "HardSwish": ({}, nn.functional.hardswish),
    "Tanh": ({}, torch.tanh),
    "Erf": ({}, torch.erf),
    "Softmax": ({"axis": 1}, lambda x: x.softmax(1)),
    "GlobalAveragePool": ({}, lambda x: x.mean((2, 3), keepdim=True)),
    "AveragePool": ({"kernel_shape": [2, 2], "strides": [1, 2]}, lambda x: nn.functional.avg_pool2d(x, 2, (1, 2))),
    "MaxPool": ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, lambda x: nn.functional.max_pool2d(x, 3, 1, 1)),
    "Transpose": ({"perm": [0, 2, 3, 1]}, lambda x: x.permute(0, 2, 3, 1)),
    "Flatten": ({}, lambda x: x.flatten(1)),
    "ReduceMean": ({"keepdims": 0}, lambda x: x.mean((1, 2))),
    "ReduceSum": ({"keepdims": 0}, lambda x: x.sum((1, 2))),
    "ReduceMax": ({}, lambda x: x.amax((1, 2), keepdim=True)),
    "ReduceMin": ({"keepdims": 0}, lambda x: x.amin((1, 2))),
    "Max": ({}, lambda x: x.clamp(min=1.0)),
    "Min": ({}, lambda x: x.clamp(max=1.0)),
    "Abs": ({}, torch.abs),
    "Reciprocal": ({}, lambda x: 1 / x),
    "Squeeze": ({}, lambda x: x.squeeze((1, 2))),
    "Clip": ({}, lambda x: x.clamp(0, 6)),
    "Mod": ({"fmod": 1}, lambda x: torch.fmod(x, 1.5)),
    "Pow": ({}, lambda x: x * x),
    "Pad": ({}, lambda x: nn.functional.pad(x, (0, 1, 2, 0))),
    "Slice": ({}, lambda x: x[:, :, 1:3]),
}
BESIDE = {
    "ReduceMean": [np.array([1, 2])],
    "ReduceSum": [np.array([1, 2])],
    "ReduceMax": [np.array([1, 2])],
    "ReduceMin": [np.array([1, 2])],
    "Max": [np.float32(1), np.float32(-9)],
    "Min": [np.float32(1), np.float32(9)],
    "Squeeze": [np.array([1, 2])],
    "Clip": [np.float32(0), np.float32(6)],
    "Mod": [np.float32(1.5)],
    "Pow": [np.float32(2)],
    "Pad": [np.array([0, 0, 2, 0, 0, 0, 0, 1])],
    "Slice": [np.array([1]), np.array([3]), np.array([2])],
}


@pytest.mark.parametrize("op", SOLO)
def test_an_operation_alone(op: str, tmp_path: Path):
    attributes, expected = SOLO[op]
    constants = {f"c{number}": np.asarray(value) for number, value in enumerate(BESIDE.get(op, []))}
    shape = [1, 1, 4] if op == "Squeeze" else [2, 4, 4]
    path = file_of(tmp_path / "one.onnx", [node(op, "x", *constants, **attributes)], ["n", *shape], constants)
    x = 4 * torch.randn(3, *shape)
    torch.testing.assert_close(answer_of(path, x), expected(x))


COMPARED = {"Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le}


@pytest.mark.parametrize("op", COMPARED)
def test_a_comparison_and_what_is_made_of_it(op: str, tmp_path: Path):
    nodes = [
        node(op, "x", "limit", to="beyond"), node("Less", "x", "low", to="small"),
        node("Or", "beyond", "small", to="either"),
        node("Not", "either", to="neither"), node("And", "neither", "neither", to="inside"),
        helper.make_node("Cast", ["inside"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["numbers"], ["again"], to=TensorProto.BOOL), node("Where", "again", "x", "limit"),
    ]  # fmt: skip
    path = file_of(tmp_path / "own.onnx", nodes, ["n", 3], {"limit": np.float32(1), "low": np.float32(-1)})
    x = torch.tensor([[1.0, 0.5, 2.0], [-2.0, -1.0, 0.0]])
    expected = torch.where(COMPARED[op](x, 1.0) | (x < -1), torch.ones(()), x)
    torch.testing.assert_close(answer_of(path, x), expected)


@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        ([node("Det", "x")], ["n", 2, 2], r'own\.onnx: Det "the_det" is no operation that distiq reads; it re'),
        ([node("QuantizeLinear", "x", "s")], ["n", 2], r"is quantized already \(QuantizeLinear\); give the float32"),
        ([node("Relu", "x")], ["n", 3, "h"], r"leaves the shape of a sample open: \[3, 0\]; give an example"),
        ([node("Gemm", "x", "w", transA=1)], ["n", 2], r'Gemm "the_gemm": multiplies a transposed input'),
        ([node("Reshape", "x", "flat")], ["n", 2], "does not compute each sample of a batch by itself"),
        ([node("MaxPool", "x", kernel_shape=[2], pads=[0, 1])], ["n", 1, 4], r'"the_maxpool": pads by \(0,\) bef'),
        ([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], ["n", 2], "casts to FLOAT16"),
        ([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], ["n", 2], "is of com.microsoft, not of ON"),
        ([node("Pad", "x", "flat", mode="reflect")], ["n", 2], "pads by reflect"),
        ([node("Gemm", "x", "x")], ["n", 2], "computes its weights"),
        ([node("Relu", "h")], ["n", 2], 'Relu "the_relu" reads "h", which nothing makes'),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(nodes: list, shape: list, message: str, tmp_path: Path):
    constants = {"s": np.float32(1), "w": SMALL, "flat": np.array([-1])}
    with pytest.raises(UserError, match=message):
        read_onnx(file_of(tmp_path / "own.onnx", nodes, shape, constants))


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"damaged", "damaged|no operations")])
def test_a_missing_or_damaged_file_is_refused(content: bytes | None, message: str, tmp_path: Path):
    path = tmp_path / "bad.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_onnx(path)


def test_a_recipe_names_a_file_and_gets_logits(tmp_path: Path):
    nodes = [node("MatMul", "x", "w", to="h"), node("Softmax", "h")]
    path = file_of(tmp_path / "net.onnx", nodes, ["n", 2], {"w": SMALL})
    x = torch.randn(1, 2)
    network = build(ModelSettings(model=str(path)), 4, x, "student")
    torch.testing.assert_close(network(x), x @ torch.from_numpy(SMALL))
    with pytest.raises(UserError, match="takes no options"):
        build(ModelSettings(model=str(path), options={"width": 2}), 4, x, "student")
    with pytest.raises(UserError, match=r"net\.onnx: takes samples of shape \(2\), the data has \(3,\)"):
        build(ModelSettings(model=str(path)), 4, torch.randn(1, 3), "student")


def test_weights_beside_the_file_belong_to_it(tmp_path: Path):
    path = file_of(tmp_path / "net.onnx", [node("MatMul", "x", "w")], ["n", 2], {"w": SMALL})
    assert files_of_onnx(path) == [path]
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    assert files_of_onnx(path) == [path, tmp_path / "net.data"]
    x = torch.randn(3, 2)
    torch.testing.assert_close(answer_of(path, x), x @ torch.from_numpy(SMALL))
