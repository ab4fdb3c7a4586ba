"""What candidates will cost is learned from files of drawn networks; what surely breaks a limit is left out."""

from typing import Any

import pytest
import torch
from torch import nn

from distiq.models.plain import PlainNet
from distiq.models.spaces import Choice
from distiq.records.search import Candidate, CandidateCost
from distiq.run.forecast import NOTHING, Forecast, drawn, largest, learn, records
from distiq.timing.predictor import Predictor

pytest.importorskip("optuna", reason="optuna is not installed")
EXAMPLE = torch.zeros(1, 1, 8, 8)


def measured(width: int) -> tuple[PlainNet, CandidateCost]:
    model = PlainNet(2, 1, [[width, 2], [width, 1]])
    weights = sum(parameter.numel() for parameter in model.parameters())
    return model, CandidateCost(latency_ms=0.01 + weights / 1e6, size_kb=2 + weights / 1000, parameters=weights, macs=1)


@pytest.fixture(scope="module")
def forecast() -> Forecast:
    return learn([measured(width) for width in range(8, 80, 4)], EXAMPLE)


def test_different_networks_are_drawn_and_no_more_than_there_are():
    def space(trial: Any) -> Choice:
        return "plain", {"layers": [[trial.suggest_categorical("width", (8, 16, 24)), 2]]}

    found = drawn(space, 10, 0)
    assert sorted(options["layers"][0][0] for _, options in found) == [8, 16, 24]
    assert drawn(space, 10, 0) == found
    assert len(drawn(space, 2, 0)) == 2


def test_costs_are_predicted_and_what_surely_breaks_a_limit_is_named(forecast: Forecast):
    model, cost = measured(90)
    predicted = forecast.costs(model, EXAMPLE)
    assert predicted == pytest.approx({"latency_ms": cost.latency_ms, "size_kb": cost.size_kb}, rel=0.05)
    assert forecast.surely_over(predicted, {"size_kb": 10, "latency_ms": 1000}) == {"size_kb": predicted["size_kb"]}
    assert not forecast.surely_over(predicted, {"size_kb": predicted["size_kb"] * 0.9999})


def test_too_few_files_tell_nothing():
    nothing = learn([measured(width) for width in (8, 16, 24)], EXAMPLE)
    assert nothing.costs(measured(32)[0], EXAMPLE) == {}
    assert not nothing.surely_over({}, {"size_kb": 1})


def test_what_is_unlike_all_that_was_measured_is_not_predicted(forecast: Forecast):
    assert forecast.costs(torch.nn.Sequential(torch.nn.Hardswish()), EXAMPLE) == {}


def test_its_errors_on_candidates_are_kept(forecast: Forecast):
    costs = [measured(width)[1] for width in (10, 20, 30)]
    candidates = [
        Candidate(
            number=number, model="plain", options={}, outcome="stopped", cost=cost,
            predicted={"latency_ms": 1.1 * cost.latency_ms, "size_kb": cost.size_kb},
        )
        for number, cost in enumerate(costs)
    ]  # fmt: skip
    left_out = Candidate(number=9, model="plain", options={}, outcome="over the limits", predicted={"size_kb": 9.0})
    assert left_out.has_no_file
    latency, size = records(forecast, [*candidates, left_out])
    assert latency.checked is not None
    assert (latency.checked.networks, latency.checked.median) == (3, pytest.approx(0.1))
    assert size.checked is not None
    assert (size.learned, size.checked.median) == (18, 0)


def test_the_largest_of_many_that_hold_the_limits_is_taken(forecast: Forecast):
    def space(trial: Any) -> Choice:
        return "plain", {"width": trial.suggest_int("width", 1, 20)}

    def module_of(choice: Choice) -> nn.Module:
        return measured(4 * choice[1]["width"])[0]

    limits = {"size_kb": measured(42)[1].size_kb}  # widths of 40 hold it, of 44 do not
    assert largest(space, module_of, forecast, limits, EXAMPLE, 200, 0) == {"width": 10}
    assert largest(space, module_of, forecast, {"size_kb": 0.1}, EXAMPLE, 20, 0) == {}
    assert largest(space, module_of, NOTHING, limits, EXAMPLE, 20, 0) == {}


def test_recurrent_layers_are_large_too():
    """512 multiply-adds of a linear layer; 8 steps of (8 + 16) x 64 of a recurrent one."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(8, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x[:, 0])[0][:, -1]

    class Holds(Forecast):
        def costs(self, *_: Any) -> dict[str, float]:
            return {"size_kb": 1.0}

    def space(trial: Any) -> Choice:
        return trial.suggest_categorical("kind", ("linear", "lstm")), {}

    def module_of(choice: Choice) -> nn.Module:
        return Recurrent() if choice[0] == "lstm" else nn.Sequential(nn.Flatten(), nn.Linear(64, 8))

    known = Holds(16, {"size_kb": Predictor({})}, {})
    assert largest(space, module_of, known, {"size_kb": 2.0}, EXAMPLE, 20, 0) == {"kind": "lstm"}
