"""What a student costs untrained is what it costs trained."""

from pathlib import Path

import torch

from distiq.models.resnet import ResNet
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.run.candidates import as_trained
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
