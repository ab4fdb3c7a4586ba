"""Constants of an ONNX file in float16: half the size, computed in float32."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distiq.runtimes.onnx_half import round_to_halves, store_halves


def product(weight: np.ndarray) -> ModelProto:
    """x @ weight, 64 by 64."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 64])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", *ends)
    graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights_of(model: ModelProto) -> np.ndarray:
    """What the file multiplies the identity by."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(64, dtype=np.float32)})[0]


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def test_weights_are_half_as_large_and_computed_in_float32(weight: np.ndarray):
    model, half = product(weight), product(weight)
    round_to_halves(half)
    np.testing.assert_array_equal(weights_of(half), weight.astype(np.float16).astype(np.float32))
    assert len(half.SerializeToString()) < 0.55 * len(model.SerializeToString())


@pytest.mark.parametrize("value", [1e5, -1e5])
def test_weights_beyond_the_range_stay(weight: np.ndarray, value: float):
    weight[3, 4] = value
    half = product(weight)
    round_to_halves(half)
    np.testing.assert_array_equal(weights_of(half), weight)


def test_vectors_stay(weight: np.ndarray):
    """A bias of 4,096 values."""
    model = product(weight)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.reshape(-1, 1), "w"))
    round_to_halves(model)
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT


def test_only_what_float16_holds_exactly_is_stored_without_rounding(weight: np.ndarray):
    rounded = weight.astype(np.float16).astype(np.float32)
    kept, stored = product(weight), product(rounded)
    for model in (kept, stored):
        store_halves(model)
    assert [model.graph.initializer[0].data_type for model in (kept, stored)] == [
        TensorProto.FLOAT, TensorProto.FLOAT16,
    ]  # fmt: skip
    np.testing.assert_array_equal(weights_of(stored), rounded)
