"""An accelerator's limits are held against the recipe and the student's graph before training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.quantization.graph import export_graph
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import Recipe
from distiq.run.climb import plain_scheme
from distiq.run.target import check_target, check_target_operators

ETHOS = {"quantize": {"target": "ethos-u"}, "measure": {"runtimes": ["tflm"]}, "export": {"integer_io": True}}


def recipe_of(**changes: dict[str, Any]) -> Recipe:
    return parse_recipe({key: {**ETHOS.get(key, {}), **changes.get(key, {})} for key in {*ETHOS, *changes}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": {"runtimes": ["tflm", "c99"]}}, r'takes files of "tflm"; measure\.runtimes names "c99"'),
        ({"export": {"integer_io": False}}, r"integers from input to output; set export\.integer_io = true"),
        ({"quantize": {"weight_bits": 4}}, "takes weight_bits = 8, not 4"),
        ({"data": {"calibration": 64}}, r"wants 100 calibration samples or more, data\.calibration = 64; raise it"),
    ],
)
def test_settings_that_an_accelerator_does_not_take_are_refused(changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        check_target(recipe_of(**changes))


class Waves(nn.Module):
    """A sine between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.sin(self.first(images)).mean((2, 3)))


def test_an_operator_that_an_accelerator_lacks_is_named():
    graph = export_graph(Waves().eval(), torch.randn(2, 1, 8, 8))
    with pytest.raises(UserError, match=r"Arm Ethos-U lacks sin \(1\), which the student uses; .*float_modules"):
        check_target_operators(recipe_of(), graph)
    qnn = {"quantize": {"target": "qnn"}, "measure": {"runtimes": ["onnxruntime"]}}
    check_target_operators(parse_recipe(qnn), graph)
    check_target_operators(parse_recipe({}), graph)


def test_a_symmetric_accelerator_changes_the_scheme():
    scheme = plain_scheme(parse_recipe({"quantize": {"target": "coreml"}}), None)
    assert scheme.symmetric_activations
    assert "symmetric activations" in str(scheme)
    assert not plain_scheme(parse_recipe({}), None).symmetric_activations
