import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distiq.models.adapted import Adapted, Refit
from distiq.runtimes.export import export, load

DATA = ((0.5, 0.25, 0.125), (0.5, 0.25, 0.125))
OWN = ((0.4, 0.3, 0.2), (0.2, 0.4, 0.8))


def of(values) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def test_pixels_come_out_in_the_other_normalization():
    pixels = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    seen = Refit(DATA, OWN, (4, 5), (4, 5))((pixels - of(DATA[0])) / of(DATA[1]))
    torch.testing.assert_close(seen, (pixels - of(OWN[0])) / of(OWN[1]))
    reversed_ = Refit(DATA, OWN, (4, 5), (4, 5), reverse=True)((pixels - of(DATA[0])) / of(DATA[1]))
    torch.testing.assert_close(reversed_, (pixels.flip(1) - of(OWN[0])) / of(OWN[1]))


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (5, 40)])
def test_images_are_resized_as_pillow_resizes_floats(size: tuple[int, int]):
    pixels = np.random.default_rng(0).random((10, 20)).astype(np.float32)
    found = Refit(((0.0,), (1.0,)), ((0.0,), (1.0,)), (10, 20), size)(torch.from_numpy(pixels)[None, None])
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    assert found.shape == (1, 1, *size)
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-5


def test_outputs_are_taken_in_another_order():
    network = nn.Linear(2, 4)
    adapted = Adapted(network, None, (3, 0))
    inputs = torch.rand(5, 2)
    assert torch.equal(adapted(inputs), network(inputs)[:, [3, 0]])
    assert set(adapted.state_dict()) == {"network.weight", "network.bias"}


@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_the_view_is_part_of_the_file(ending: str, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    adapted = Adapted(network, Refit(DATA, OWN, (6, 6), (9, 4), reverse=True), (4, 1, 2)).eval()
    images = torch.randn(3, 3, 6, 6)
    answers = load(export(adapted, tmp_path / f"model.{ending}", images[:2]))(images)
    torch.testing.assert_close(answers, adapted(images), atol=1e-5, rtol=1e-4)
