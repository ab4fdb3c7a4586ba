"""check_runtimes(): what a recipe asks of a runtime that cannot give it is refused before any work."""

import pytest

from distiq.errors import UserError
from distiq.recipe.read import parse_recipe
from distiq.runtimes.check import check_runtimes


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"measure": {"runtimes": ["tensorrt"]}}, '"tensorrt" is no runtime; there are "onnxruntime", "openvino", '),
        (
            {"export": {"uint8_input": True}, "measure": {"runtimes": ["onnxruntime", "executorch"]}},
            'files of executorch take normalized float32; set it to false, or measure in "onnxruntime", "openvino", "l',
        ),
        (
            {"budget": {"ram_kb": 64}},
            'budget.ram_kb limits files for microcontrollers, and measure.runtimes names "onnx',
        ),
        (
            {"export": {"integer_io": True}},
            'files of "litert" or "c99" or "tflm" alone take integers; add it to',
        ),
        (
            {"quantize": {"mode": "dynamic"}, "measure": {"runtimes": ["openvino"]}},
            'nearest: mode = "weight_only" or "static", or runtime "onnxruntime"',
        ),
        (
            {"quantize": {"mode": "weight_only"}, "measure": {"runtimes": ["onnxruntime", "litert"]}},
            'nearest: mode = "static", or runtime "onnxruntime" or "openvino"',
        ),
        (
            {"quantize": {"activation_bits": 16}, "measure": {"runtimes": ["openvino"]}},
            "activations of 16 bits; nearest: activation_bits = 8",
        ),
    ],
)
def test_what_a_runtime_cannot_give_is_refused_with_the_nearest(recipe: dict, message: str):
    with pytest.raises(UserError) as error:
        check_runtimes(parse_recipe(recipe))
    assert message in str(error.value)


def test_the_default_recipe_is_accepted():
    check_runtimes(parse_recipe({}))
