"""What a student costs untrained is what it costs trained."""

from pathlib import Path

import torch

from distiq.models.audio import DSCNN
from distiq.models.frontend import front_end
from distiq.models.resnet import ResNet
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import load_recipe
from distiq.run.candidates import as_trained, untrained_scheme
from distiq.runtimes.export import export, size_bytes


def test_new_norms_make_no_smaller_file(tmp_path: Path):
    """A block's last norm begins at zero, so all weights before it are equal: the file would keep them once."""
    samples = torch.rand(4, 1, 8, 8)
    model = ResNet(4, 1, (16, 16), (2, 1))
    sizes = [
        size_bytes(export(quantize(one, samples, Scheme()), tmp_path / f"{name}.onnx", samples[:2]))
        for name, one in (("new", model.eval()), ("trained", as_trained(model)))
    ]
    assert sizes[1] - sizes[0] > 16 * 16 * 9, "three blocks, of which two were left out"
    assert torch.equal(model.stages[0][0].bn2.weight, torch.zeros(16)), "the model is not changed"


def test_a_front_end_is_timed_in_float32_as_a_run_would_ship_it():
    sound = DSCNN(4, front_end(8000), widths=(8,), strides=(1,))
    schemes = [
        untrained_scheme(load_recipe("spoken_digits", changes), model).float_modules
        for changes, model in (
            ((), sound),
            ((), ResNet(4, 1, (8,), 1)),
            (['quantize.float_modules=["stem"]'], sound),
            (["quantize.mode=float16"], sound),
        )
    ]
    assert schemes == [("frontend",), (), ("stem",), ()]
