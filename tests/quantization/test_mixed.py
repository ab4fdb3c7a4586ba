"""Layers chosen by the integer program, against every choice there is."""

import itertools

import pytest
import torch

from distiq.quantization.mixed import narrow_layers


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_no_other_choice_adds_less_noise(seed: int, share: float):
    torch.manual_seed(seed)
    names = [f"layer{number}" for number in range(8)]
    noise = dict(zip(names, (torch.rand(8) * 1e-4).tolist(), strict=True))
    saved = dict(zip(names, torch.randint(100, 5000, (8,)).double().tolist(), strict=True))
    wanted = share * sum(saved.values())
    chosen = narrow_layers(noise, saved, wanted)
    every = (choice for count in range(9) for choice in itertools.combinations(names, count))
    least = min(sum(noise[n] for n in c) for c in every if sum(saved[n] for n in c) >= wanted)
    assert sum(saved[name] for name in chosen) >= wanted
    assert sum(noise[name] for name in chosen) == pytest.approx(least)


def test_more_than_there_is_takes_every_layer():
    assert narrow_layers({"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, 31.0) == ("a", "b")


def test_nothing_wanted_takes_none():
    assert narrow_layers({"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, 0.0) == ()
