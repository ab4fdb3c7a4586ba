"""Operations and parameters by formula; timing without assertions on time."""

import pytest
import torch
from torch import Tensor, nn

from distiq.evaluation.cost import multiply_adds, parameter_count
from distiq.evaluation.operations import operations
from distiq.timing.latency import WARM_UPS, latencies


@pytest.mark.parametrize(("stride", "groups", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 4, 3), (1, 1, 1)])
def test_macs_of_a_convolution(stride: int, groups: int, kernel: int):
    inputs, outputs, size = 4, 8, 10
    model = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    expected = (size // stride) ** 2 * outputs * (inputs // groups) * kernel**2
    assert multiply_adds(model, torch.zeros(5, inputs, size, size)) == expected


def test_macs_of_a_network_are_the_sum_and_of_one_sample():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    for batch in (1, 7):
        assert multiply_adds(model, torch.zeros(batch, 1, 6, 6)) == 16 * 2 * 9 + 32 * 5
    assert model.training
    assert torch.equal(model[1].running_mean, torch.zeros(2)), "the model is not changed"


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_macs_of_recurrent_layers(kind: type[nn.Module], gates: int):
    """In each step and direction every gate multiplies the input and the state."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(8, 16, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    assert multiply_adds(Reads(), torch.zeros(2, 5, 8)) == 2 * 5 * gates * 16 * (8 + 16)
    assert sum(one.macs for one in operations(Reads(), torch.zeros(2, 5, 8)) if one.kind == "linear") == (
        2 * 5 * gates * 16 * (8 + 16)
    )
    assert torch.backends.mkldnn.enabled


def test_parameters():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2, bias=False))
    assert parameter_count(model) == 3 * 8 * 9 + 8 + 2 * 8 + 16


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]])
def test_latencies_of_all_names(names: list[str]):
    batch = torch.zeros(4, 3)
    found = latencies({name: torch.nn.Identity() for name in names}, batch, threads=2, rounds=2, seconds=0.002)
    assert list(found) == names
    for record in found.values():
        assert (record.batch, record.threads) == (4, 2)
        assert record.runs >= 2, "at least one counted call a round"
        assert 0 < record.p50_ms <= record.p95_ms
        assert len(record.turns_ms) == 2
        assert min(record.turns_ms) <= record.p50_ms <= max(record.turns_ms)
        assert record.throughput_per_s == pytest.approx(4000 / record.p50_ms)


def test_turns_are_interleaved_and_turn_round():
    turns: list[str] = []

    def model(name: str):
        def predict(batch: Tensor) -> Tensor:
            turns.append(name)
            return batch

        return predict

    latencies({name: model(name) for name in "ab"}, torch.zeros(1), 1, rounds=3, seconds=0.0)
    # Without time for more, one call warms up and one counts.
    assert turns == [name for name in "abbaab" for _ in range(2)]


def test_calls_that_warm_up_are_not_counted():
    calls: list[Tensor] = []
    found = latencies({"one": lambda batch: calls.append(batch) or batch}, torch.zeros(1), 1, rounds=2, seconds=0.2)
    assert len(calls) == found["one"].runs + 2 * WARM_UPS
