"""quantize_file() on graphs that become no torch graph: what is carried through, and that no file is worse."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distiq.commands.quantize_file import quantize_file
from distiq.data.inputs import Preparation
from distiq.errors import UserError
from distiq.quantization.scheme import Scheme
from distiq.records.run import OwnFileRecord
from distiq.runtimes.onnx_session import open_session

SIZE = 16


def held(seed: int, *shape: int, name: str) -> TensorProto:
    value = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[-1])
    return numpy_helper.from_array(value.astype(np.float32), name)


def foreign(source: str, result: str) -> NodeProto:
    return helper.make_node("QuickGelu", [source], [result], domain="com.microsoft")


def save(
    path: Path, nodes: list[NodeProto], constants: list[TensorProto], inputs: dict[str, list], outputs: dict
) -> Path:
    for number, node in enumerate(nodes):
        node.name = f"{node.op_type}_{number}"
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.BOOL if name == "flag" else TensorProto.FLOAT, shape)
         for name, shape in side.items()] for side in (inputs, outputs)
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "graph", *ends, constants)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return path


def quantized(source: Path, data: Path, **settings: float) -> OwnFileRecord:
    out = source.with_name("out.onnx")
    return quantize_file(source, data, out, Scheme(), Preparation(), rounds=1, seconds=0.002, **settings)


def branch(kind: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(f"{kind}_result", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(kind, ["b"], [output.name])], kind, [], [output])


def test_control_flow_states_and_foreign_operations_are_carried_through(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("If", ["flag"], ["c"], then_branch=branch("Neg"), else_branch=branch("Abs")),
        foreign("c", "d"),
        helper.make_node("Unsqueeze", ["d", "zero"], ["e"]),
        helper.make_node("LSTM", ["e", "u", "v", "", "", "h", "k"], ["f", "hn", "kn"], hidden_size=SIZE),
        helper.make_node("Squeeze", ["hn", "zero"], ["g"]),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    constants = [held(number, 1, 4 * SIZE, SIZE, name=name) for number, name in enumerate("uv")]
    constants += [held(2, SIZE, SIZE, name="w"), numpy_helper.from_array(np.array([0]), "zero")]
    state = [1, "batch", SIZE]
    source = save(tmp_path / "net.onnx", nodes, constants, {"x": ["batch", SIZE], "flag": [], "h": state, "k": state},
                  {"y": None, "hn": None, "kn": None})  # fmt: skip
    x = np.random.default_rng(3).standard_normal((40, SIZE)).astype(np.float32)
    h, k = np.random.default_rng(4).standard_normal((2, 1, 40, SIZE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, flag=np.array(True), h=h, k=k)
    record = quantized(source, tmp_path / "data.npz")
    assert record.delivered == "int8"
    assert record.sqnr_by_output.keys() == {"y", "hn", "kn"} and record.sqnr_db > 25
    assert "quantized as the ONNX graph that it is" in record.notes[0]
    assert "carried through unchanged, in float32: QuickGelu (com.microsoft), LSTM, If" in record.notes
    assert record.operations["QLinearMatMul"] == record.operations["MatMulIntegerToFloat"] == {"int8": 1}
    for flag in (True, False):  # calibration saw one branch; the other is there, too
        feed = {"x": x[:1], "flag": np.array(flag), "h": h[:, :1], "k": k[:, :1]}
        exact, close = (open_session(path, 1).run(["y"], feed)[0] for path in (source, tmp_path / "out.onnx"))
        np.testing.assert_allclose(close, exact, atol=0.1)


def outlying(folder: Path, nodes: list[NodeProto], **outputs: None) -> tuple[Path, Path]:
    """A graph whose input's first column is ten thousand times as large as the others, which alone count."""
    weight = numpy_helper.to_array(held(0, SIZE, SIZE, name="w")).copy()
    weight[0] = 0
    constants = [numpy_helper.from_array(weight, "w"), held(1, SIZE, SIZE, name="v"), held(2, SIZE, 64, name="u")]
    source = save(folder / "net.onnx", nodes, constants, {"x": ["batch", SIZE]}, outputs)
    x = np.random.default_rng(3).standard_normal((64, SIZE)).astype(np.float32)
    x[:, 0] *= 1e4
    np.save(folder / "data.npy", x)
    return source, folder / "data.npy"


def test_the_noisiest_layer_goes_back_to_float32(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), foreign("a", "b"),
             helper.make_node("MatMul", ["b", "v"], ["c"]), foreign("c", "d"),
             helper.make_node("MatMul", ["d", "v"], ["y"])]  # fmt: skip
    record = quantized(*outlying(tmp_path, nodes, y=None))
    assert record.delivered == "int8" and record.sqnr_db > 20
    assert any(note.startswith("all 3 layers in int8") for note in record.notes)
    assert "1 of 3 layers stay in float32, the noisiest: MatMul_0" in record.notes
    assert record.operations["MatMulIntegerToFloat"] == {"int8": 2}


def test_float16_weights_are_delivered_where_a_mixture_is_larger(tmp_path: Path):
    """The layer that has to stay in float32 holds nearly all weights."""
    width = 2048
    nodes = [helper.make_node("MatMul", ["x", "wide"], ["a"]), foreign("a", "b"),
             helper.make_node("ReduceMean", ["b"], ["c"], axes=[1]), helper.make_node("Add", ["c", "x"], ["d"]),
             foreign("d", "e"), helper.make_node("MatMul", ["e", "v"], ["y"])]  # fmt: skip
    wide = numpy_helper.to_array(held(0, SIZE, width, name="wide")).copy()
    wide[0] = 0
    constants = [numpy_helper.from_array(wide, "wide"), held(1, SIZE, SIZE, name="v")]
    source = save(tmp_path / "net.onnx", nodes, constants, {"x": ["batch", SIZE]}, {"a": None, "y": None})
    x = np.random.default_rng(3).standard_normal((64, SIZE)).astype(np.float32)
    x[:, 0] *= 1e4
    np.save(tmp_path / "data.npy", x)
    record = quantized(source, tmp_path / "data.npy")
    assert record.delivered == "float16 weights" and record.sqnr_db > 50
    assert source.with_name("out.onnx").stat().st_size < 0.6 * source.stat().st_size
    assert any("1 of 2 layers in float32 and be larger" in note for note in record.notes), record.notes


def test_float16_weights_are_delivered_where_no_mixture_helps(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), foreign("a", "b"),
             helper.make_node("Mul", ["b", "b"], ["y"])]  # fmt: skip
    record = quantized(*outlying(tmp_path, nodes, y=None))
    assert (record.delivered, record.scheme, record.pair_sums) == ("float16 weights", "float16 weights", "")
    assert record.sqnr_db > 50
    assert record.notes[-1].endswith("the file holds float16 weights, computed in float32")


def test_float16_weights_are_had_by_name(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), foreign("a", "y")]
    source, data = outlying(tmp_path, nodes, y=None)
    out = tmp_path / "half.onnx"
    record = quantize_file(source, data, out, Scheme(mode="float16"), Preparation(), rounds=1, seconds=0.002)
    assert (record.delivered, record.pair_sums) == ("float16 weights", "") and record.sqnr_db > 50
    types = {one.name: one.data_type for one in onnx.load(out).graph.initializer}
    assert types["w/float16"] == TensorProto.FLOAT16


def test_a_runtime_without_the_operation_says_so(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        foreign("a", "y"),
    ]
    source, data = outlying(tmp_path, nodes, y=None)
    with pytest.raises(UserError, match=r"is of com\.microsoft, not of ONNX itself"):
        quantize_file(source, data, tmp_path / "out.onnx", Scheme(weight_bits=4), Preparation())


def test_outputs_that_are_no_tensors_are_refused_before_any_work(tmp_path: Path):
    """As classifiers of scikit-learn have them: a map from labels to probabilities."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ZipMap", ["a"], ["y"], domain="ai.onnx.ml", classlabels_int64s=list(range(8))),
    ]
    source, data = outlying(tmp_path, nodes, y=None)
    model = onnx.load(source)
    of_map = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[0].CopyFrom(helper.make_value_info("y", helper.make_sequence_type_proto(of_map)))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, source)
    with pytest.raises(UserError, match=r'"y" is seq\(map\(int64,tensor\(float\)\)\); distiq reads tensors .*zipmap'):
        quantize_file(source, data, tmp_path / "out.onnx", Scheme(), Preparation())
    assert not (tmp_path / "out.onnx").exists()
