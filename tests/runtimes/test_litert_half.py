"""Float16 constants of LiteRT files, also of weights that the converter multiplies by those of a norm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load, size_bytes
from distiq.runtimes.litert_half import is_exact, scaled


class Normed(nn.Module):
    """Two layers that read a norm, as attention does, and one that reads neither; the norm goes around them, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.one, self.other = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.last = nn.Linear(64, 64)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.last((self.one(y) * 0.3).tanh() * self.other(y).tanh()) + y


@torch.no_grad()
def test_weights_of_layers_behind_a_norm_are_halved(tmp_path: Path):
    pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    samples = torch.randn(4, 8, 64, generator=torch.Generator().manual_seed(1))
    network = Normed().eval()
    half = quantize(network, samples, Scheme(mode="float16"))
    paths = [export(model, tmp_path / name, samples) for model, name in ((network, "a.tflite"), (half, "b.tflite"))]
    matrices = 3 * 64 * 64
    assert size_bytes(paths[0]) - size_bytes(paths[1]) > 0.9 * 2 * matrices  # two bytes less of each weight
    assert sqnr_db(half(samples), load(paths[1])(samples)) > 90  # float32 in another order


@pytest.fixture
def matrices() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.standard_normal((20, 30)).astype(np.float16).astype(np.float32) for _ in range(3)]


def test_a_matrix_is_found_behind_its_factors(matrices: list[np.ndarray]):
    factors = np.random.default_rng(1).uniform(-2, 2, 30).astype(np.float32)
    matrices[1][:, 4] = 0
    found = scaled(matrices[1] * factors * np.float32(0.42), matrices)
    assert found is not None and found.matrix is matrices[1] and is_exact(found.matrix)
    np.testing.assert_allclose(np.delete(found.factors, 4), np.delete(0.42 * factors, 4), rtol=1e-6)


def test_other_matrices_are_not_taken_for_it(matrices: list[np.ndarray]):
    other = matrices[1].copy()
    other[3, 5] *= 1.0001
    assert scaled(other, matrices) is None
    assert scaled(matrices[0][:, :29], matrices) is None
    assert scaled(matrices[0] * np.arange(1, 21, dtype=np.float32)[:, None], matrices) is None
