"""Bits chosen by the integer program, against every choice there is; bit operations by hand."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from distiq.models.recurrent import BiLSTM
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.mixed import bit_operations, choose_bits, products
from distiq.quantization.scheme import Scheme

BITS = (8, 4, 3)
Figures = dict[str, dict[int, float]]


def figures(layers: int, seed: int) -> tuple[Figures, Figures, Figures]:
    """Noise, bytes and bit operations of each layer at each number of bits."""
    torch.manual_seed(seed)
    names = [f"layer{number}" for number in range(layers)]
    noise = {
        name: dict(zip(BITS, (torch.rand(3) * torch.tensor([1e-5, 1e-3, 1e-2])).tolist(), strict=True))
        for name in names
    }
    sizes, macs = torch.randint(100, 5000, (2, layers)).tolist()
    return (
        noise,
        {name: {8: float(size), 4: size / 2, 3: size / 2} for name, size in zip(names, sizes, strict=True)},
        {name: {bits: float(8 * bits * count) for bits in BITS} for name, count in zip(names, macs, strict=True)},
    )


def total(costs: Figures, chosen: dict[str, int]) -> float:
    return sum(costs[layer][bits] for layer, bits in chosen.items())


def every(noise: Figures) -> list[dict[str, int]]:
    return [dict(zip(noise, bits, strict=True)) for bits in itertools.product(BITS, repeat=len(noise))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shares", [(0.95, None), (0.6, None), (None, 0.8), (None, 0.45), (0.8, 0.6)])
def test_no_other_choice_adds_less_noise(seed: int, shares: tuple[float | None, float | None]):
    noise, *costs = figures(6, seed)
    widest = dict.fromkeys(noise, 8)
    limits = [(of, share * total(of, widest)) for of, share in zip(costs, shares, strict=True) if share]
    chosen = choose_bits(noise, limits)
    assert all(total(of, chosen) <= limit for of, limit in limits)
    kept = [choice for choice in every(noise) if all(total(of, choice) <= limit for of, limit in limits)]
    assert total(noise, chosen) == pytest.approx(min(total(noise, choice) for choice in kept))


def test_without_a_limit_each_layer_takes_its_best():
    noise, sizes, _ = figures(5, 0)
    assert choose_bits(noise, []) == dict.fromkeys(noise, 8)
    assert choose_bits(noise, [(sizes, 1e9)]) == dict.fromkeys(noise, 8)


def test_a_limit_that_none_can_keep_takes_what_costs_least():
    noise, sizes, operations = figures(5, 0)
    sizes["layer0"] = {8: 50.0, 4: 89.0, 3: 89.0}  # packing costs more than it saves
    assert choose_bits(noise, [(sizes, 10.0)]) == {"layer0": 8} | {f"layer{n}": 4 for n in range(1, 5)}
    assert choose_bits(noise, [(operations, 10.0)]) == dict.fromkeys(noise, 3)


def of(model: nn.Module, example: Tensor, scheme: Scheme) -> int:
    return bit_operations(products(prepare(export_graph(model.eval(), example), scheme), example))


def test_bit_operations_by_hand(images: Tensor):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    conv, linear = 100 * 4 * 9, 1200
    expected = {
        Scheme(): (conv + linear) * 64,
        Scheme(layer_bits=(("3", 4),), activation_bits=16): conv * 128 + linear * 64,
        Scheme(reduce_range=True): (conv + linear) * 56,
        Scheme(weight_bits=4, activation_bits=4): (conv + linear) * 16,
        Scheme(float_modules=("0",), weight_bits=2): conv * 1024 + linear * 16,
        Scheme(mode="weight_only", weight_bits=4): (conv + linear) * 4 * 32,
        Scheme(mode="dynamic"): conv * 8 * 32 + linear * 64,  # convolutions compute in float32 there
        Scheme(mode="weight_only", weight_bits=4, group_size=16): (conv + linear) * 4 * 32,
    }
    assert {scheme: of(model, images[:8], scheme) for scheme in expected} == expected


class Products(nn.Module):
    """A layer that is used twice, and a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(torch.relu(self.layer(self.norm(x))))
        return torch.matmul(x, x.transpose(1, 2))


@pytest.mark.parametrize(("attention", "bits"), [(False, 32), (True, 8)])
def test_a_layer_counts_as_often_as_it_runs_and_products_by_what_they_read(attention: bool, bits: int):
    scheme = Scheme(attention=attention)
    assert of(Products(), torch.randn(2, 5, 6), scheme) == 2 * 5 * 36 * 64 + 5 * 5 * 6 * bits**2


def test_an_lstm_counts_once_though_it_has_four_weights():
    class Sentences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm, self.head = nn.Embedding(9, 6), BiLSTM(6, 5), nn.Linear(10, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.lstm(self.embedding(tokens), (tokens > 0).sum(1)).amax(1))

    tokens = torch.randint(1, 9, (3, 7))
    recurrent = 7 * 2 * (4 * 5 * 6 + 4 * 5 * 5)
    assert of(Sentences(), tokens, Scheme()) == recurrent * 8 * 32 + 10 * 2 * 64
