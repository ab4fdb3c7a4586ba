"""Random networks of what people build: made from a number, so that one that fails is made again."""

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5
SAMPLES = 64


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Joined(nn.Module):
    """What branches make of one value, put together."""

    def __init__(self, join: Callable[..., Tensor], *branches: nn.Module) -> None:
        super().__init__()
        self.join, self.branches = join, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*(branch(x) for branch in self.branches))


class Parts(nn.Module):
    """The halves of a map go apart."""

    def __init__(self, join: Callable[..., Tensor], first: nn.Module, by_split: bool) -> None:
        super().__init__()
        self.join, self.first, self.by_split = join, first, by_split

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        left, right = x.split(half, 1) if self.by_split else (x[:, :half], x[:, half:])
        return self.join(self.first(left), right)


class Scaled(nn.Module):
    """A map times a gate that is made of its means: squeeze and excitation."""

    def __init__(self, width: int, squeeze: nn.Module, excite: nn.Module, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.squeeze, self.excite, self.gate = squeeze, excite, gate

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        return x * self.gate(self.excite(F.relu(self.squeeze(means))))


def join(*values: Tensor) -> Tensor:
    return torch.cat(values, 1)


def gated(value: Tensor, gate: Tensor) -> Tensor:
    return value * torch.sigmoid(gate)


class Maker:
    """Draws blocks of a network of one or two dimensions; each gives the width that it was given."""

    def __init__(self, number: int) -> None:
        self.draw = random.Random(number)
        self.dimensions = 1 if self.draw.random() < 0.25 else 2
        self.shape = (self.draw.choice((1, 3, 4)), *((32,) if self.dimensions == 1 else (16, 16)))
        self.size, self.width = self.shape[1], self.draw.choice((8, 12, 16))
        self.shared: dict[int, nn.Module] = {}

    def of(self, one: Callable[..., nn.Module], two: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        return one if self.dimensions == 1 else two

    def network(self) -> nn.Module:
        body = [self.convolution(self.shape[0], self.width), *self.after(self.width)]
        blocks = (
            self.plain, self.plain, self.plain, self.residual, self.concatenated, self.halves, self.gate, self.pool,
            self.transposed, self.again, self.upsampled, self.before_norm, self.scaled, self.larger,
        )  # fmt: skip
        for _ in range(self.draw.randint(2, 5)):
            body.append(self.draw.choice(blocks)())
        return nn.Sequential(*body, *self.head())

    def convolution(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        kernel, dilation = self.draw.choice((1, 3, 3, 5)), self.draw.choice((1, 1, 1, 2))
        able = [groups for groups in (1, 1, 2, 4, inputs) if inputs % groups == outputs % groups == 0]
        make = self.of(nn.Conv1d, nn.Conv2d)
        return make(
            inputs, outputs, kernel, stride, (kernel - 1) // 2 * dilation, dilation, self.draw.choice(able),
            bias=self.draw.random() < 0.5,
        )  # fmt: skip

    def norm(self) -> nn.Module:
        batch, instance = self.of(nn.BatchNorm1d, nn.BatchNorm2d), self.of(nn.InstanceNorm1d, nn.InstanceNorm2d)
        makes = [lambda: batch(self.width)] * 8 + [lambda: instance(self.width), lambda: nn.GroupNorm(2, self.width)]
        return self.draw.choice(makes)()

    def activation(self) -> nn.Module:
        makes = (
            nn.ReLU, nn.ReLU, lambda: nn.ReLU(inplace=True), nn.ReLU6, lambda: nn.PReLU(self.width), nn.PReLU, nn.ELU,
            nn.Hardswish, nn.SiLU, nn.GELU, lambda: nn.LeakyReLU(0.1), nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Identity,
        )  # fmt: skip
        return self.draw.choice(makes)()

    def after(self, width: int) -> list[nn.Module]:
        layers = [self.norm()] if self.draw.random() < 0.7 else []
        return [*layers, self.activation()]

    def plain(self) -> nn.Module:
        stride = 2 if self.size >= 8 and self.draw.random() < 0.3 else 1
        self.size //= stride
        return nn.Sequential(self.convolution(self.width, self.width, stride), *self.after(self.width))

    def same(self, width: int | None = None) -> nn.Module:
        """A branch that keeps size and width."""
        width = width or self.width
        layers = [self.convolution(width, width)]
        if width == self.width and self.draw.random() < 0.6:
            layers += self.after(width)
        return nn.Sequential(*layers)

    def residual(self) -> nn.Module:
        sums = (torch.add, torch.add, torch.sub)
        return nn.Sequential(Joined(self.draw.choice(sums), nn.Identity(), self.same()), self.activation())

    def concatenated(self) -> nn.Module:
        narrow = self.of(nn.Conv1d, nn.Conv2d)(2 * self.width, self.width, 1)
        first = nn.Identity() if self.draw.random() < 0.5 else self.same()
        return nn.Sequential(Joined(join, first, self.same()), narrow, *self.after(self.width))

    def halves(self) -> nn.Module:
        half, by_split = self.width // 2, self.draw.random() < 0.5
        if self.draw.random() < 0.5:
            return Parts(join, self.same(half), by_split)
        return nn.Sequential(Parts(gated, nn.Identity(), by_split), self.of(nn.Conv1d, nn.Conv2d)(half, self.width, 1))

    def gate(self) -> nn.Module:
        one = self.of(nn.Conv1d, nn.Conv2d)
        if self.draw.random() < 0.5:
            return Joined(gated, nn.Identity(), self.same())
        gate = self.draw.choice((torch.sigmoid, F.hardsigmoid))
        return Scaled(self.width, one(self.width, 4, 1), one(4, self.width, 1), gate)

    def pool(self) -> nn.Module:
        if self.size < 8:
            return self.plain()
        most, mean = self.of(nn.MaxPool1d, nn.MaxPool2d), self.of(nn.AvgPool1d, nn.AvgPool2d)
        makes = ((most, (2,), 2), (mean, (2,), 2), (mean, (3, 1, 1), 1), (most, (3, 2, 1), 2))
        make, arguments, stride = self.draw.choice(makes)
        self.size //= stride
        return make(*arguments)

    def transposed(self) -> nn.Module:
        if self.size > 16:
            return self.plain()
        kernel, padding, extra = self.draw.choice(((2, 0, 0), (4, 1, 0), (3, 1, 1)))
        self.size *= 2
        make, groups = self.of(nn.ConvTranspose1d, nn.ConvTranspose2d), self.draw.choice((1, 1, 2, 4))
        layer = make(self.width, self.width, kernel, 2, padding, extra, groups, bias=self.draw.random() < 0.5)
        return nn.Sequential(layer, *self.after(self.width))

    def again(self) -> nn.Module:
        """A block that other places use, too."""
        shared = self.shared.setdefault(self.width, self.same())
        return nn.Sequential(shared, shared) if self.draw.random() < 0.5 else shared

    def upsampled(self) -> nn.Module:
        if self.size > 16:
            return self.same()
        self.size *= 2
        mode = "bilinear" if self.dimensions == 2 and self.draw.random() < 0.5 else "nearest"
        return nn.Upsample(scale_factor=2, mode=mode)

    def before_norm(self) -> nn.Module:
        branch = nn.Sequential(self.norm(), self.activation(), self.convolution(self.width, self.width))
        return Joined(torch.add, nn.Identity(), branch)

    def scaled(self) -> nn.Module:
        factor, shift = self.draw.choice((0.5, 2.0, -1.0)), self.draw.choice((0.0, 0.25))
        return Function(lambda x: x * factor + shift)

    def larger(self) -> nn.Module:
        return Joined(torch.maximum, self.same(), self.same())

    def head(self) -> list[nn.Module]:
        axes = tuple(range(2, 2 + self.dimensions))
        one, mean = self.of(nn.Conv1d, nn.Conv2d), self.of(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
        heads: tuple[list[nn.Module], ...] = (
            [Function(lambda x: x.mean(axes)), nn.Linear(self.width, CLASSES)],
            [Function(lambda x: x.amax(axes)), nn.Linear(self.width, CLASSES)],
            [mean(1), nn.Flatten(), nn.Linear(self.width, 16), nn.ReLU(), nn.Linear(16, CLASSES)],
            [one(self.width, CLASSES, 1)],
            [one(self.width, CLASSES, 1), mean(1), nn.Flatten()],
            [Function(lambda x: x.mean(axes)), nn.BatchNorm1d(self.width), nn.Linear(self.width, CLASSES)],
        )
        return self.draw.choice(heads)


@torch.no_grad()
def random_network(number: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in eval mode whose norms have seen samples, calibration inputs, and as many others (64, ...)."""
    maker = Maker(number)
    torch.manual_seed(number)
    model, inputs = maker.network(), torch.randn(2, SAMPLES, *maker.shape)
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all that it sees
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.PReLU) and number % 2:
            nn.init.uniform_(module.weight, 0, 0.5)  # else one slope for all, as before training
    model.train()(inputs[0].clone())
    return model.eval(), *inputs
