"""Small networks, each with a structure of public ones that quantization went wrong on; (N, 3, 32, 32) -> 6 classes."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme

CLASSES = 6


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class PreActivation(nn.Module):
    """A norm and a shortcut read one convolution, as in pre-activation and wide ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.Linear(16, CLASSES)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = branch = self.stem(x)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            branch = convolution(F.relu(norm(branch)))
        return self.head(F.relu(x + branch).mean((2, 3)))


class DenselyConnected(nn.Module):
    """Every convolution reads all before it, with in-place activations behind the norms, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.Linear(40, CLASSES)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, 8, 3, 1, 1, bias=False))
            for width in (16, 24, 32)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class Recursive(nn.Module):
    """A convolution and its norm are used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = block(3, 16), block(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.again(self.again(self.stem(x)))).mean((2, 3)))


class Reparameterized(nn.Module):
    """A norm without a convolution is a branch of its own, as in RepVGG before its branches are merged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.same = block(3, 16), nn.Linear(16, CLASSES), nn.BatchNorm2d(16)
        self.three, self.one = block(16, 16)[:2], block(16, 16, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.three(x) + self.one(x) + self.same(x)).mean((2, 3)))


class EncoderDecoder(nn.Module):
    """Transposed convolutions, a concatenation across scales, and logits (N, 6, 32, 32), as in a U-Net."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.wide, self.deep = block(3, 16), nn.Sequential(block(16, 32, stride=2), block(32, 32))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 2, 2, groups=groups, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.head = nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x)
        return self.head(torch.cat([x, self.up(self.deep(x))], 1))


class PooledLogits(nn.Module):
    """Pooling and flattening stand behind the last layer, of a thousand classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = block(3, 32, stride=2), nn.Conv2d(32, 1000, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(F.adaptive_avg_pool2d(self.head(self.body(x)), 1), 1)


class ComputedWeights(nn.Module):
    """A weight is computed from two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3, 2, 1, bias=False))
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.first(x))).mean((2, 3)))


class NormedFeatures(nn.Module):
    """One layer norm stands in front of the classifier of a convolutional network, and a gate before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 16), block(16, 32, stride=2), block(32, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.norm((x + F.silu(x)).mean((2, 3))))


class Islands(nn.Module):
    """Operations that most runtimes compute in float32, between layers of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.prelu, self.norm, self.up = nn.PReLU(16), nn.InstanceNorm2d(16), nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.prelu(self.a(x)))
        x = F.interpolate(torch.tanh(self.norm(x)), scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(F.elu(F.gelu(self.b(x))).amax((2, 3)))


STRUCTURES: dict[str, Callable[[], nn.Module]] = {
    "pre-activation": PreActivation,
    "dense": DenselyConnected,
    "recursive": Recursive,
    "reparameterized": Reparameterized,
    "encoder-decoder": EncoderDecoder,
    "grouped decoder": lambda: EncoderDecoder(groups=2),
    "pooled logits": PooledLogits,
    "computed weights": ComputedWeights,
    "normed features": NormedFeatures,
    "islands": Islands,
}


class Case(NamedTuple):
    """A trained network, the same quantized, and other images (64, 3, 32, 32) of the same kind."""

    model: nn.Module
    quantized: QuantizedModel
    calibration: Tensor
    images: Tensor


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Noise around six prototypes, and which of them each is."""
    generator = torch.Generator().manual_seed(0)
    prototypes, labels = torch.randn(CLASSES, 3, 32, 32, generator=generator), torch.arange(count) % CLASSES
    return prototypes[labels] + 0.5 * torch.randn(count, 3, 32, 32, generator=generator), labels


@cache
def trained(name: str) -> Case:
    """A network after 25 steps of Adam, and quantized as `quantize` does where nothing is said."""
    torch.manual_seed(0)
    model, (images, labels) = STRUCTURES[name]().train(), samples(320)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for chunk in torch.randperm(25 * 32).remainder(256).view(25, 32):
        logits = model(images[chunk])
        loss = F.cross_entropy(logits, labels[chunk].view(-1, *[1] * (logits.ndim - 2)).expand(-1, *logits.shape[2:]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Case(model.eval(), quantize(model, images[:256], Scheme(rounding="gptq")), images[:256], images[256:])
