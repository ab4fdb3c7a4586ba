"""Any callable as a teacher: probabilities or logits, refused where it answers nonsense."""

import copy

import numpy as np
import pytest
import torch

from distiq.errors import UserError
from distiq.models.predictor import Predictor, build_predictor

ROWS = torch.tensor([[0.25], [0.5]])


def probabilities(rows):
    return np.concatenate([1 - rows, rows], 1)


def test_probabilities_become_their_logarithms():
    logits = Predictor(probabilities, ROWS)(ROWS)
    torch.testing.assert_close(logits, torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log())


def test_a_certain_answer_stays_finite():
    assert torch.isfinite(Predictor(probabilities, ROWS)(torch.ones(1, 1))).all()


def test_logits_pass_unchanged():
    model = Predictor(lambda rows: np.concatenate([rows, -rows], 1), ROWS)
    torch.testing.assert_close(model(ROWS), torch.cat([ROWS, -ROWS], 1))
    assert copy.deepcopy(model) is model
    assert not list(model.parameters())


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda rows: rows[:, 0], r"an array of shape \(2,\) for 2 inputs"),
        (lambda rows: rows[:1], r"an array of shape \(1, 1\) for 2 inputs"),
        (lambda rows: rows * np.nan, "NaN or infinite"),
        (lambda rows: 1 / 0, r"the callable fails \(ZeroDivisionError"),
    ],
)
def test_nonsense_is_refused(predict, message):
    with pytest.raises(UserError, match=message):
        Predictor(predict, ROWS)


def test_the_function_is_given_the_data_and_the_options(tmp_path):
    path = tmp_path / "teacher.py"
    path.write_text(
        "def make(data, factor):\n    return lambda rows: data * factor * rows\ndef number(data):\n    return 3\n"
    )
    model = build_predictor(f"{path}:make", 2, {"factor": 3}, ROWS)
    torch.testing.assert_close(model(ROWS), 6 * ROWS)
    with pytest.raises(UserError, match="returned int; return a callable"):
        build_predictor(f"{path}:number", 2, {}, ROWS)
    with pytest.raises(UserError, match="cannot be called with"):
        build_predictor(f"{path}:make", 2, {"factr": 3}, ROWS)
