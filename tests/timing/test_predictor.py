"""Prices that are learned from files: exact where times follow the model, honest where they do not."""

import math
import random

import pytest

from distiq.evaluation.operations import Operation
from distiq.timing.predictor import error_of, features, fit, unseen


def drawn(seed: int) -> list[Operation]:
    draw = random.Random(seed)
    return [
        Operation("convolution", 49, 8 * draw.randint(1, 9), 72 * draw.randint(1, 9)) for _ in range(draw.randint(1, 5))
    ]


def cost(operations: list[Operation]) -> float:
    return 5 + sum(2 + one.macs / 1e5 for one in operations)


def test_features_are_sums_by_kind():
    found = features([Operation("pointwise", 10, 20, 5), Operation("pool", 30), Operation("pool", 12)])
    assert (found["the file"], found["pool"], found["pool values"]) == (1, 2, 42)
    assert (found["pointwise macs"], found["pointwise padded macs"]) == (1000, 10 * 32 * 8)
    assert (found["pointwise read"], found["pointwise weights"], found["pointwise values"]) == (50, 100, 200)


def test_what_is_a_sum_of_prices_is_predicted():
    learned = [drawn(seed) for seed in range(40)]
    predictor = fit([features(one) for one in learned], [cost(one) for one in learned])
    assert min(predictor.prices.values()) >= 0
    for seed in range(40, 50):
        assert predictor(features(drawn(seed))) == pytest.approx(cost(drawn(seed)), rel=0.02)


def test_attention_multiplies_values_and_reads_no_weights():
    learned = [[*drawn(seed), Operation("product", size, size, 16)] for seed in range(20) for size in (4, 8)]
    assert "product weights" not in features(learned[0])
    costs = [1 + sum(one.macs for one in operations) / 1e5 for operations in learned]
    predictor = fit([features(one) for one in learned], costs)
    assert predictor(features(learned[5])) == pytest.approx(costs[5], rel=0.05)


def test_what_was_never_priced_is_not_predicted():
    predictor = fit([features(drawn(seed)) for seed in range(20)], [cost(drawn(seed)) for seed in range(20)])
    assert math.isnan(predictor(features([Operation("depthwise", 49, 1, 9, 8)])))


def test_a_file_says_nothing_about_itself():
    learned = [features(drawn(seed)) for seed in range(32)]
    costs = [cost(drawn(seed)) for seed in range(32)]
    costs[3] *= 10  # an outlier: the others do not predict it
    assert unseen(learned, costs)[3] == pytest.approx(costs[3] / 10, rel=0.2)


def test_errors_by_hand():
    found = error_of([1.1, 2.0, math.nan, 2.7], [1.0, 2.0, 9.0, 3.0])
    assert found is not None
    assert found.networks == 3
    assert found.median == pytest.approx(0.1)
    assert found.rank_correlation == 1
    assert error_of([1.0, math.nan], [1.0, 2.0]) is None
    alike = error_of([2.0, 2.0, 2.0], [1.0, 2.0, 4.0])
    assert alike is not None and (alike.rank_correlation, alike.median) == (0, 0.5)
