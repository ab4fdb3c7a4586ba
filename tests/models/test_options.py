import inspect
from typing import Any

import pytest
import torch

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.create import BUILT_IN, GIVEN, TAG_BUILT_IN, TEXT_BUILT_IN
from distiq.models.detector import Detector
from distiq.models.frontend import front_end
from distiq.models.options import check_option
from distiq.recipe.training import StudentSettings

KINDS = [*BUILT_IN.values(), *TEXT_BUILT_IN.values(), *TAG_BUILT_IN.values(), front_end]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_default_of_a_built_in_network_may_be_given(kind: Any):
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in (*GIVEN, "classes"):
            check_option(kind, name, parameter.default)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("detector", {"strides": 8}, "strides = 8: give a list of whole numbers, such as [8, 16]"),
        ("detector", {"width": "48"}, 'width = "48": give a whole number, such as 48'),
        ("detector", {"width": -4}, "width = -4: -4 is below 0; give numbers from 0 on, such as 48"),
        ("detector", {"stages": [1, 2]}, "stages = [1, 2]: give a list of lists of whole numbers"),
        ("resnet", {"blocks": "2"}, 'blocks = "2": give a whole number or a list of whole numbers, such as 3'),
        ("resnet", {"widths": [16, 0]}, "widths = [16, 0]: 0 is below 1; give numbers from 1 on"),
        ("mobilenet_v2", {"squeeze": True}, "squeeze = true: give a number, such as 0.0"),
        ("mobilenet_v2", {"activation": 6}, 'activation = 6: give a word, such as "relu6"'),
        ("ds_cnn", {"features": "mel"}, 'features = "mel": give "log_mel" or "mfcc", such as "log_mel"'),
    ],
)
def test_an_option_of_another_type_is_refused_in_one_sentence(model: str, options: dict[str, Any], said: str):
    example = torch.zeros(1, 8000) if model == "ds_cnn" else torch.zeros(1, 3, 64, 64)
    with pytest.raises(UserError) as caught:
        build(StudentSettings(model=model, options=options), 3, example, "student")
    assert str(caught.value).startswith(f"student.model: {model} cannot be built with {options}: {said}")


@pytest.mark.parametrize("strides", [[], [8, 8]])
def test_a_detector_looks_at_some_strides_once_each(strides: list[int]):
    with pytest.raises(ValueError, match="name one or more, each once"):
        Detector(3, strides=strides)
