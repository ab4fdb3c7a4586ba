"""Small networks with batch norm that has seen something, as float modules, quantized, and as files."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.mobilenet import MobileNetV2
from distiq.models.resnet import ResNet
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.runtimes.export import export


class Branches(nn.Module):
    """Two branches, concatenated; a max pool and an average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.classifier = nn.Linear(12 * 9, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(images))), 2)
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.classifier(torch.flatten(F.avg_pool2d(x, 2), 1))


class Gates(nn.Module):
    """What EfficientNets are made of: SiLU, squeeze and excitation, a padding that stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(images)))
        y = F.relu(self.depthwise(F.pad(x, (1, 1, 1, 1))))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.classifier(F.adaptive_avg_pool2d(y * gate + x, 1).flatten(1))


class Exported(NamedTuple):
    """A float network, the same quantized, and both files."""

    model: nn.Module
    quantized: QuantizedModel
    float_file: Path
    int8_file: Path


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "branches": Branches,
    "gates": Gates,
    "resnet": lambda: ResNet(4, 1, (4, 8), 1),
    "mobilenet": lambda: MobileNetV2(4, 1, 0.25, stages=((1, 16, 1, 1), (4, 24, 2, 2)), activation="relu6"),
}


def images_of(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def images() -> Tensor:
    """2000 inputs, of the kind that calibration saw but others."""
    return images_of(2000, 2)


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Where files of tests are handed to several processes, pytest makes a fixture with parameters anew for each."""

    @functools.cache
    def made(name: str) -> Exported:
        torch.manual_seed(0)
        model = NETWORKS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
        quantized = quantize(model.eval(), images_of(256, 1))
        folder, example = tmp_path_factory.mktemp(name), images_of(2, 3)
        files = [export(one, folder / f"{form}.onnx", example) for form, one in (("float", model), ("int8", quantized))]
        return Exported(model, quantized, *files)

    return made


@pytest.fixture(scope="session", params=NETWORKS)
def exported(request: pytest.FixtureRequest, export_once: Callable[[str], Exported]) -> Exported:
    return export_once(request.param)
