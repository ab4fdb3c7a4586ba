"""read_calls(): which part of which array an input is given, call by call."""

from pathlib import Path

import numpy as np
import pytest

from distiq.data.calls import Input, read_calls
from distiq.data.inputs import Preparation
from distiq.errors import UserError

FLOAT, INT = np.dtype("float32"), np.dtype("int64")


def shapes(folder: Path, inputs: list[Input], arrays: dict[str, np.ndarray], samples: int = 4) -> list[dict]:
    np.savez(folder / "data.npz", **arrays)
    calls, others = read_calls(folder / "data.npz", inputs, Preparation(), samples, samples)
    assert calls.samples == others.samples == samples
    return [{name: one.shape for name, one in feed.items()} for feed in calls]


def test_free_batches_are_called_together(tmp_path: Path):
    inputs = [Input("a", (-1, 3), FLOAT), Input("ids", (-1, -1), INT)]
    arrays = {"a": np.zeros((8, 3), "f4"), "ids": np.zeros((8, 5), "i4"), "unread": np.zeros(2)}
    assert shapes(tmp_path, inputs, arrays) == [{"a": (4, 3), "ids": (4, 5)}]


def test_states_and_rates_are_given_call_by_call(tmp_path: Path):
    inputs = [Input("sound", (-1, -1), FLOAT), Input("state", (2, -1, 7), FLOAT), Input("rate", (), INT)]
    one = {"sound": (1, 512), "state": (2, 1, 7), "rate": ()}
    apart = {"sound": np.zeros((8, 512), "f4"), "state": np.zeros((8, 2, 1, 7), "f4"), "rate": np.array(16000)}
    assert shapes(tmp_path, inputs, apart) == [one] * 4
    inside = apart | {"state": np.zeros((2, 8, 7), "f4"), "rate": np.full(8, 16000)}
    assert shapes(tmp_path, inputs, inside) == [one] * 4
    in_front = apart | {"state": np.zeros((8, 2, 7), "f4")}  # in place of the batch's axis
    assert shapes(tmp_path, inputs, in_front) == [one] * 4
    same = apart | {"state": np.zeros((2, 1, 7), "f4")}
    assert shapes(tmp_path, inputs, same) == [one] * 4


@pytest.mark.parametrize(("stated", "calls"), [(1, 4), (2, 2)])
def test_a_fixed_batch_is_kept(stated: int, calls: int, tmp_path: Path):
    assert (
        shapes(tmp_path, [Input("a", (stated, 3), FLOAT)], {"a": np.zeros((9, 3), "f4")})
        == [{"a": (stated, 3)}] * calls
    )


def test_rows_are_spread_and_never_the_same(tmp_path: Path):
    np.save(tmp_path / "data.npy", np.arange(12, dtype="f4").reshape(12, 1))
    calls, others = read_calls(tmp_path / "data.npy", [Input("a", (1, 1), FLOAT)], Preparation(), 4, 99)
    assert [float(feed["a"][0, 0]) for feed in calls] == [0, 3, 6, 9]
    assert set(calls.rows) | set(others.rows) == set(range(12))
    assert [float(feed["a"][0, 0]) for feed in calls.few(2)] == [0, 6]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": np.zeros((4, 3), "f4")}, "holds b; the network takes a, ids"),
        ({"a": np.zeros((4, 2), "f4"), "ids": np.zeros((4, 5), "i8")}, r"shape \(4, 2\) for 4 samples; .* \(any, 3\)"),
        ({"a": np.zeros((4, 3), "f4"), "ids": np.zeros((4, 5), "f4")}, "holds float32, the network takes int64"),
        ({"a": np.full((4, 3), np.nan, "f4"), "ids": np.zeros((4, 5), "i8")}, "NaN or infinite"),
        ({"a": np.zeros((1, 3), "f4"), "ids": np.zeros((1, 5), "i8")}, "at least 2 are needed"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        shapes(tmp_path, [Input("a", (-1, 3), FLOAT), Input("ids", (-1, -1), INT)], arrays)


def test_inputs_of_one_batch_have_as_many_samples(tmp_path: Path):
    inputs = [Input("a", (-1, 3), FLOAT, {0: "batch"}), Input("b", (-1, 2), FLOAT, {0: "batch"})]
    with pytest.raises(UserError, match="8 of a, 7 of b; give as many samples of each"):
        shapes(tmp_path, inputs, {"a": np.zeros((8, 3), "f4"), "b": np.zeros((7, 2), "f4")})
    alike = {"a": np.zeros((8, 3), "f4"), "b": np.zeros((1, 2), "f4")}  # the same for every call
    assert shapes(tmp_path, inputs, alike) == [{"a": (1, 3), "b": (1, 2)}] * 4
    other = [inputs[0], Input("b", (-1, 2), FLOAT, {0: "rows"})]
    assert shapes(tmp_path, other, {"a": np.zeros((8, 3), "f4"), "b": np.zeros((7, 2), "f4")})[0]["b"] == (7, 2)
