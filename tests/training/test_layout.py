import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from distiq.data.splits import from_tensors
from distiq.data.views import Views
from distiq.recipe.data import ViewSettings
from distiq.recipe.training import TrainingSettings
from distiq.training.batches import Batch, Batches
from distiq.training.fit import Losses
from distiq.training.layout import memory_layout


class Objective(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Losses:
        return Losses(task=F.cross_entropy(self.network(batch.inputs).mean((2, 3)), batch.labels))


class Functional(nn.Module):
    """A layer that no module tells of, as the graphs of quantization-aware training have them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 1, 1))

    def forward(self, images):
        return F.conv2d(images, self.weight, stride=2)


def layout(network: nn.Module, channels_last: bool = True) -> torch.memory_format:
    samples = (torch.arange(16 * 192).remainder(256).to(torch.uint8).view(16, 3, 8, 8), torch.arange(16) % 4)
    batches = Batches(from_tensors(samples, samples, validation=4, calibration=4), Views(ViewSettings(), 0), 8, 0)
    return memory_layout(Objective(network), batches, TrainingSettings(channels_last=channels_last), Accelerator())


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(3, 4, 1, 2), torch.contiguous_format),
        (Functional(), torch.contiguous_format),
        (nn.Sequential(nn.Conv2d(3, 30, 3), nn.Conv2d(30, 4, 1, 2, groups=2)), torch.contiguous_format),
        (nn.Conv2d(3, 4, 1), torch.channels_last),
        (nn.Conv2d(3, 4, 3, 2), torch.channels_last),
        (nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1, 2)), torch.channels_last),
    ],
)
def test_narrow_pointwise_layers_that_skip_positions_are_not_trained_in_channels_last(network, expected):
    assert layout(network) is expected
    assert layout(network, channels_last=False) is torch.contiguous_format


def test_nothing_of_the_network_changes():
    network = nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    layout(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


TRAINED = """
import torch
from torch import nn
import distiq
from distiq.recipe.training import TrainingSettings
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.ReLU(), nn.Conv2d(8, 16, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
samples = (torch.randint(0, 256, (64, 3, 120, 160), dtype=torch.uint8), torch.arange(64) % 16)
settings = TrainingSettings(epochs=2, batch_size=16, precision=PRECISION)
distiq.distil(network, None, distiq.from_tensors(samples, samples, validation=4, calibration=4), training=settings)
"""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_that_overran_the_memory_of_its_kernels_trains(precision: str):
    done = subprocess.run(
        [sys.executable, "-c", TRAINED.replace("PRECISION", repr(precision))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
