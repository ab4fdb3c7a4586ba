"""Vela, Arm's compiler, takes every operator of a built-in network's file, and says what it leaves to the CPU."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distiq.data.load import load as load_data
from distiq.errors import UserError
from distiq.models.mobilenet import MobileNetV2
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.read import load_recipe
from distiq.recipe.shipped import recipe_file
from distiq.run.networks import build_network
from distiq.runtimes.export import export
from distiq.runtimes.vela import estimate

pytest.importorskip("ethosu", reason="Vela is not installed")
pytest.importorskip("tflite_micro", reason="TFLM is not installed")


def compiled(model: nn.Module, samples: Tensor, folder: Path) -> Path:
    torch.manual_seed(0)
    quantized = quantize(model.eval(), samples, Scheme(integer_io=True))
    return export(quantized, folder / "model.tflm", samples[:2], integer_io=True)


@pytest.mark.slow
def test_a_mobilenet_runs_on_the_npu_alone(tmp_path: Path):
    stages = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 40, 2, 1))
    student = MobileNetV2(10, 1, stem_stride=2, stages=stages, head=96)
    record = estimate(compiled(student, torch.randn(32, 1, 28, 28), tmp_path))
    assert (record.on_cpu, record.left) == (0, ())
    assert record.on_accelerator > 20
    assert record.sram_bytes > 28 * 28
    assert record.cycles > 0
    assert f"{record.on_accelerator} of {record.on_accelerator} operators on the NPU" in record.sentence
    assert "Nothing of this was measured" in record.sentence


@pytest.mark.parametrize(("name", "operators"), [("fashion_mnist", 9), ("adult", 3)])
def test_the_students_of_two_recipes_run_on_the_npu_alone(name: str, operators: int, tmp_path: Path):
    """Weights change no operator: six or three layers, and what pools and flattens in front of the last."""
    recipe = load_recipe(recipe_file(name))
    data = load_data(recipe.data, recipe.seed)
    student = build_network(recipe, data, "student").module
    record = estimate(compiled(student, data.normalize(data.calibration.inputs[:32]), tmp_path))
    assert (record.on_accelerator, record.on_cpu, record.left) == (operators, 0, ())


def test_what_is_left_to_the_cpu_is_named(tmp_path: Path):
    """The NPU computes integers alone."""
    record = estimate(export(nn.Linear(8, 2).eval(), tmp_path / "float.tflm", torch.randn(2, 8)))
    assert (record.on_accelerator, record.on_cpu, record.left) == (0, 1, ("FULLY_CONNECTED",))
    assert "0 of 1 operators on the NPU (FULLY_CONNECTED on the CPU)" in record.sentence


def test_a_file_that_is_none_is_refused(tmp_path: Path):
    path = tmp_path / "model.tflm"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"model\.tflm: Vela refuses it"):
        estimate(path)
