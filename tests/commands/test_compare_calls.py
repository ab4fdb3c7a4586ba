"""compared(): SQNR and agreement by output, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from distiq.commands.compare_calls import compared
from distiq.errors import UserError


def session(*calls: dict[str, np.ndarray]) -> SimpleNamespace:
    """A session that gives one dict after the other."""
    results = iter(calls)
    outputs = [SimpleNamespace(name=name) for name in calls[0]]
    return SimpleNamespace(get_outputs=lambda: outputs, run=lambda _names, _feed: list(next(results).values()))


def test_each_output_is_compared_by_its_kind():
    exact = {"logits": np.array([[1.0, 0.0], [0.0, 3.0]]), "label": np.array([0, 1]), "map": np.array([np.inf, 2.0])}
    other = {"logits": np.array([[0.0, 0.0], [1.0, 0.0]]), "label": np.array([0, 0]), "map": np.array([0.0, 1.8])}
    found = compared(session(exact), session(other), [{}])
    assert found.sqnr_db == pytest.approx({"logits": 10 * np.log10(10 / 11), "map": 20.0})
    assert found.agreement == {"logits": 0.5, "label": 0.5}  # the first row ties at class 0, the second flips
    assert found.worst_db == found.sqnr_db["logits"]


def test_results_of_another_shape_are_not_equal():
    found = compared(session({"kept": np.array([1, 2, 3])}), session({"kept": np.array([1])}), [{}])
    assert (found.sqnr_db, found.agreement, found.worst_db) == ({}, {"kept": 0.0}, np.inf)


def test_inputs_that_do_not_run_are_told():
    def fails(*_: object) -> None:
        raise RuntimeError("indices out of bounds\nmore")

    broken = SimpleNamespace(get_outputs=lambda: [SimpleNamespace(name="y")], run=fails)
    with pytest.raises(UserError, match=r"does not run on these samples: indices out of bounds$"):
        compared(broken, broken, [{}])
