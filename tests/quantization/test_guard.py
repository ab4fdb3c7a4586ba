"""A graph that gives other outputs than the network is refused, with the first node that differs."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.quantization import graph as graph_file
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.guard import agreement_db, check_unchanged
from distiq.quantization.scheme import Scheme


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_first_node_that_differs_is_named(rows: Tensor, monkeypatch: pytest.MonkeyPatch):
    graph = export_graph(Two().eval(), rows)
    whole = graph_file.prepare_pt2e

    def wrong(model, quantizer):
        prepared = whole(copy.deepcopy(model), quantizer)
        prepared.get_parameter("body.2.weight").data.mul_(1.01)  # 20 log10(100)
        return prepared

    monkeypatch.setattr(graph_file, "prepare_pt2e", wrong)
    with pytest.raises(UserError, match=r'"conv2d_1" \(aten.conv2d.default\) in "body.2", 40.0 dB'):
        prepare(graph, Scheme())


def test_a_copy_with_noise_of_one_in_a_thousand_is_sixty_db(rows: Tensor):
    assert agreement_db(rows, rows * 1.001) == pytest.approx(60, rel=1e-4)  # 20 log10(1000)


@pytest.mark.parametrize(
    ("value", "least"),
    [([1.0, -torch.inf], torch.inf), ([1.0, torch.inf], -torch.inf), ([1.0, 0.0], -torch.inf)],
)
def test_infinite_values_have_to_stand_alike(value: list[float], least: float):
    assert agreement_db(torch.tensor([1.0, -torch.inf]), torch.tensor(value)) == least


def test_chance_in_a_network_falls_alike(rows: Tensor):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + torch.rand(1)

    export_graph(Noisy().eval(), rows)


@pytest.mark.parametrize(("noise", "is_refused"), [(10**-3.75, True), (10**-4.25, False)])  # 75 and 85 dB
def test_eighty_db_is_the_least(noise: float, is_refused: bool, rows: Tensor):
    graph = export_graph(Two().eval(), rows)
    with pytest.raises(UserError, match=r"75\.0 dB agreement") if is_refused else contextlib.nullcontext():
        check_unchanged(graph, graph, (rows,), [graph(rows) / (1 + noise)])
