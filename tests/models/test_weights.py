"""Weights are finite and float32 before a network is used."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.weights import usable
from distiq.quantization.quantize import quantize
from distiq.recipe.training import TeacherSettings


class Notes:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, title: str) -> None: ...
    def step(self, done, total, values) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_brought_to_float32_and_said(dtype: torch.dtype):
    watch, model = Notes(), network().to(dtype)
    expected = model[0].weight.detach().float()
    assert usable(model, "teacher", watch) is model
    assert torch.equal(model[0].weight, expected) and model(torch.zeros(3, 1, 8, 8)).dtype == torch.float32
    kind = str(dtype).removeprefix("torch.")
    assert watch.notes == [f"teacher: its weights are {kind}; brought to float32"]
    assert usable(model, "teacher", watch) is model and len(watch.notes) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["0.weight", "3.bias", "1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float):
    model = network()
    model.state_dict()[name].view(-1)[1] = value
    with pytest.raises(UserError, match=rf"teacher: NaN or infinite values in {name}; the training"):
        usable(model, "teacher")


def test_a_mask_may_be_infinite():
    model = network()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    model.register_parameter("constant", nn.Parameter(torch.full((3, 3), -torch.inf).triu(1)))
    assert usable(model, "student") is model
    model.get_parameter("constant").data[0, 0] = 1.0
    with pytest.raises(UserError, match="values in constant"):
        usable(model, "student")


def test_a_file_of_broken_weights_is_refused(tmp_path: Path):
    options = {"widths": [4, 4], "blocks": 1}
    settings = TeacherSettings(model="resnet", options=options)
    state = build(settings, 2, torch.zeros(1, 1, 8, 8), "teacher").state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = torch.nan
    torch.save(state, tmp_path / "w.pt")
    loaded = TeacherSettings(model="resnet", options=options, weights=str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match=rf"teacher: .*w\.pt: NaN or infinite values in {name}"):
        build(loaded, 2, torch.zeros(1, 1, 8, 8), "teacher")


def test_a_double_model_is_quantized_as_its_float32_copy():
    torch.manual_seed(0)
    samples, model = torch.rand(8, 1, 8, 8), network().double().eval()
    watch = Notes()
    found = quantize(model, samples, watch=watch)(samples)
    assert torch.equal(found, quantize(copy.deepcopy(model).float(), samples)(samples))
    assert model[0].weight.dtype == torch.float64 and watch.notes == [
        "Sequential: its weights are float64; brought to float32"
    ]
    model[3].weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinite values in 3\.weight"):
        quantize(model, samples)
