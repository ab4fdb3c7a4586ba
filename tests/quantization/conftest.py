"""Small networks with batch norm that has seen something, and inputs for them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.data.splits import Data, from_tensors
from distiq.models.mobilenet import MobileNetV2
from distiq.models.resnet import ResNet

CLASSES = 4


class Mixed(nn.Module):
    """One of each: convolution, depthwise, relu, relu6, addition, concatenation, both pools, flatten, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(16 * 9, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        one = F.relu(self.norm(self.first(images)))
        two = F.relu6(self.norm2(self.depthwise(one)))
        three = F.relu(self.project(two) + one)
        pooled = F.avg_pool2d(F.max_pool2d(torch.cat([three, two], 1), 2), 2)
        return self.classifier(torch.flatten(pooled, 1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mixed": Mixed,
    "resnet": lambda: ResNet(CLASSES, 1, (4, 8), 1),
    "mobilenet": lambda: MobileNetV2(CLASSES, 1, 0.25, stages=((1, 16, 1, 1), (4, 24, 2, 2))),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


@pytest.fixture
def mixed() -> nn.Module:
    return make("mixed")


@pytest.fixture
def resnet() -> nn.Module:
    return make("resnet")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(256, 1, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def data() -> Data:
    """Four classes that differ in brightness."""
    labels = torch.arange(240) % CLASSES
    images = torch.rand(240, 1, 12, 12, generator=torch.Generator().manual_seed(0)) + labels.view(-1, 1, 1, 1)
    return from_tensors((images[:200], labels[:200]), (images[200:], labels[200:]), validation=40, calibration=32)
