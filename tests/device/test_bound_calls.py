"""A session's bound inputs and outputs change nothing but the time of a call."""

import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from distiq.device.run import MOST_BOUND, BoundCalls

FLOAT = onnx.TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]


def calls_of(nodes, inputs, outputs):
    sides = [
        [
            helper.make_tensor_value_info(name, *of) if isinstance(of, tuple) else helper.make_value_info(name, of)
            for name, of in side.items()
        ]
        for side in (inputs, outputs)
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", *sides), opset_imports=OPSETS, ir_version=10)
    return BoundCalls(onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]))


@pytest.fixture
def sums():
    """Adds two inputs of (batch, 3), and gives their difference, too."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    of = (FLOAT, ["batch", 3])
    return calls_of(nodes, {"a": of, "b": of}, {"sum": of, "difference": of})


def test_every_call_gives_its_own_values(sums):
    kept = []
    for number in range(12):
        rows = 1 if number < 6 else 2 + number % 2  # bound, then shapes that change at each call
        a, b = (np.full((rows, 3), number + 10.0 * side, np.float32) for side in (1, 2))
        kept.append((number, rows, sums([a, b])))
    for number, rows, (total, difference) in kept:  # later calls leave what earlier ones gave
        assert (total == np.full((rows, 3), 2 * number + 30)).all() and (difference == -10).all()


def test_what_is_bound_is_small_and_of_the_same_shape(sums):
    large = np.zeros((MOST_BOUND // 48 + 1, 3), np.float32)  # four arrays of 12 bytes a row
    for _ in range(3):
        sums([large, large])
    assert sums.bound is None
    for _ in range(2):
        sums([large[:1], large[:1]])
    assert sums.bound is not None


def test_arrays_that_lie_otherwise_in_memory(sums):
    a = np.arange(6, dtype=np.float32).reshape(3, 2).T
    for _ in range(4):
        total, _difference = sums([a, a])
        assert (total == 2 * a).all()


@pytest.mark.parametrize("size", ["found", 2])  # stated as unknown; stated wrongly as always two
def test_outputs_whose_size_depends_on_values(size):
    calls = calls_of(
        [helper.make_node("NonZero", ["x"], ["places"])],
        {"x": (FLOAT, [4])},
        {"places": (onnx.TensorProto.INT64, [1, size])},
    )
    for values in ([1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 1]):
        (places,) = calls([np.array(values, np.float32)])
        assert places.tolist() == [np.flatnonzero(values).tolist()]


def test_threads_do_not_share_what_is_bound(sums):
    wrong = []

    def work(number: int) -> None:
        a = np.full((1, 3), float(number), np.float32)
        wrong.extend(number for _ in range(300) if not (sums([a, a])[0] == 2 * number).all())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_wrong_shape_is_refused_by_the_runtime(sums):
    good, bad = np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    for _ in range(3):
        sums([good, good])
    with pytest.raises(Exception, match=r"[Ii]nvalid dimensions"):
        sums([bad, bad])
    assert (sums([good, good])[0] == 0).all()


def test_texts_and_maps_are_not_bound():
    """As files of scikit-learn have them."""
    numbers = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["b"], values_int64s=[7])
    calls = calls_of([numbers], {"x": (onnx.TensorProto.STRING, ["n"])}, {"y": (onnx.TensorProto.INT64, ["n"])})
    for _ in range(4):
        assert calls([np.array(["b", "b"])])[0].tolist() == [7, 7]
    of_classes = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[4, 6])
    of_map = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    calls = calls_of([of_classes], {"x": (FLOAT, ["n", 2])}, {"y": helper.make_sequence_type_proto(of_map)})
    for _ in range(4):
        assert calls([np.array([[1, 2]], np.float32)])[0] == [{4: 1.0, 6: 2.0}]
