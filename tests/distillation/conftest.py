"""Tiny random data and networks of this folder's tests."""

import pytest
import torch

from distiq.data.splits import Data, from_tensors
from distiq.models.resnet import ResNet
from distiq.recipe.training import TrainingSettings
from distiq.tasks.choose import task_of
from distiq.tasks.task import Task


@pytest.fixture(scope="session")
def data() -> Data:
    """96 training images of two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (160, 1, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.arange(160) % 2
    images[labels == 1] += 100
    return from_tensors((images[:128], labels[:128]), (images[128:], labels[128:]), validation=24, calibration=8)


@pytest.fixture(scope="session")
def task(data: Data) -> Task:
    return task_of(data)


@pytest.fixture
def teacher() -> ResNet:
    torch.manual_seed(1)
    return ResNet(2, 1, (6, 12), 1)


@pytest.fixture
def student() -> ResNet:
    torch.manual_seed(2)
    return ResNet(2, 1, (4, 8), 1)


@pytest.fixture
def training() -> TrainingSettings:
    return TrainingSettings(epochs=2, batch_size=32, learning_rate=0.05, precision="float32")
