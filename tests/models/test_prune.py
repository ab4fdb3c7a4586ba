"""prune(): what leaves is what counts for nothing; a network whose other channels are dead answers as before."""

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds
from distiq.models.channels import Channels, read
from distiq.models.detector import Detector
from distiq.models.efficientnet_lite import efficientnet_lite0
from distiq.models.mobilenet import MobileNetV2
from distiq.models.plain import PlainNet
from distiq.models.prune import _macs, _positions, _products, prune
from distiq.models.resnet import ResNet

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Two branches side by side, a gate, a layer on flattened maps, a part that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(3, 24, 3, 2, 1)
        self.gate = nn.Conv2d(40, 40, 1)
        self.down = nn.Conv2d(40, 16, 3, 4, 1)
        self.activation = nn.PReLU(16)
        self.hidden, self.out = nn.Linear(16 * 4, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x).relu(), self.right(x)], 1)
        both = both * self.gate(both.mean((2, 3), keepdim=True)).sigmoid()
        return self.out(self.hidden(self.activation(self.down(both)).flatten(1)).relu())


class Blurred(nn.Module):
    """A kernel that is no parameter, as anti-aliased networks have it, and a layer that keeps all its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 24, 1)
        self.register_buffer("kernel", torch.ones(32, 1, 3, 3) / 9)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 5)
        self.third = nn.Conv2d(24, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = nn.functional.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])
        return self.out(self.up(self.third(self.second(x).relu())).mean((2, 3)))


NETWORKS = {
    "blurred": Blurred,
    "resnet": lambda: ResNet(5, 3, (16, 32), 1),
    "mobilenet_v2": lambda: MobileNetV2(5, 3, squeeze=0.25, activation="hard_swish"),
    "plain": lambda: PlainNet(5, 3),
    "efficientnet_lite0": lambda: efficientnet_lite0(5),
    "branches": Branches,
}


def trained(name: str) -> nn.Module:
    """A network of drawn weights, whose norms are not what they were at first."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_dead_channels_leave_and_nothing_changes(name: str):
    network = trained(name)
    groups = read(network, IMAGES[:1])
    assert groups.roots()
    dead: dict[Channels, set[int]] = {}
    for number, root in enumerate(groups.roots()):
        half = torch.randperm(root.size, generator=torch.Generator().manual_seed(number))[: root.size // 2]
        dead[root] = set(half.tolist())
    kept = {root: torch.tensor([n for n in range(root.size) if n not in gone]) for root, gone in dead.items()}
    tensors = dict(network.named_parameters())
    for use in groups.uses:  # every weight of a dead channel is 0
        if use.name not in tensors:
            continue
        alive = torch.zeros(tensors[use.name].shape[use.dimension], dtype=torch.bool)
        alive[_positions(use.layout, kept)] = True
        shape = [1] * tensors[use.name].ndim
        shape[use.dimension] = -1
        tensors[use.name] *= alive.view(shape)
    if name == "branches":  # half of a gate of 0 is 0.5 times a dead channel: still 0
        assert len(groups.roots()) == 4
    smaller = prune(network, IMAGES[:1], 0.5, multiple=1)
    torch.testing.assert_close(smaller(IMAGES), network(IMAGES), atol=1e-5, rtol=1e-5)
    sizes = [sum(weight.numel() for weight in one.parameters()) for one in (smaller, network)]
    assert sizes[0] < 0.5 * sizes[1]


def test_the_loss_says_what_counts():
    network = trained("plain")
    labels = torch.tensor([0, 1, 2, 3])
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight[5] *= 100  # large, but what follows does not read it
        second = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1]
        second.weight[:, 5] = 0
    by_size, by_loss = (
        prune(network, IMAGES[:1], 0.5, loss)
        for loss in (None, lambda model: nn.functional.cross_entropy(model(IMAGES), labels))
    )
    kept = [
        next(module for module in one.modules() if isinstance(module, nn.Conv2d)).weight for one in (by_size, by_loss)
    ]
    assert (kept[0].flatten(1) == first.weight[5].flatten()).all(1).any()
    assert not (kept[1].flatten(1) == first.weight[5].flatten()).all(1).any()


def test_groups_keep_multiples_and_the_network_can_be_trained_and_pruned_again():
    smaller = prune(trained("mobilenet_v2"), IMAGES[:1], 0.4)
    widths = [module.out_channels for module in smaller.modules() if isinstance(module, nn.Conv2d)]
    assert all(width % 8 == 0 or width < 8 for width in widths)
    smaller(IMAGES).sum().backward()
    assert prune(smaller, IMAGES[:1], 0.5)(IMAGES).shape == (4, 5)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).mean((2, 3)).view(-1, 16))


def test_refusals():
    with pytest.raises(UserError, match="between 0 and 1"):
        prune(trained("plain"), IMAGES[:1], 1.0)
    with pytest.raises(UserError, match=r"keep_macs = 0.01: with 8 channels in every group 0.\d+ of .* give no less"):
        prune(trained("plain"), IMAGES[:1], 0.01, of="macs")
    with pytest.raises(UserError, match="no channel of this network can leave"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), IMAGES[:1], 0.5, of="macs")
    with pytest.raises(UserError, match="no channel of this network can leave"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), IMAGES[:1], 0.5)
    with pytest.raises(UserError, match=r"its forward names a number of channels"):
        prune(Named(), IMAGES[:1], 0.5)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "branches", "blurred"])
def test_half_of_the_multiply_adds_stays(name: str):
    """By another counter; the next multiple of any group less would be needed to hold the share."""
    network = trained(name)
    whole, groups = multiply_adds(network, IMAGES), read(network, IMAGES[:1])
    assert _macs(_products(network, groups), {root: root.size for root in groups.roots()}) == whole
    smaller = prune(network, IMAGES[:1], 0.5, lambda one: one(IMAGES).square().sum(), of="macs")
    assert 0.3 * whole < multiply_adds(smaller, IMAGES) <= 0.5 * whole


def test_what_is_worth_least_for_what_it_saves_leaves_first():
    """Two branches of equal cost, of which one hardly counts: without half of it 0.75 of the multiply-adds stay."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.much, self.little = (nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 5, 1)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.much(x) + 0.01 * self.little(x)

    smaller = prune(Two(), IMAGES[:1], 0.8, lambda one: one(IMAGES).square().sum(), of="macs")
    assert (smaller.much[0].out_channels, smaller.little[0].out_channels) == (16, 8)


def test_a_detector_with_dead_channels_finds_the_same_without_them():
    torch.manual_seed(0)
    detector, images = Detector(2, encoder="resnet", width=16).eval(), IMAGES.repeat(1, 1, 3, 4)
    loss = lambda network: sum(one.square().sum() for one in network(images).values())  # noqa: E731
    for module in detector.modules():  # what these give is 0 everywhere
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias):
                tensor.data[module.num_features // 2 :] = 0
    smaller = prune(detector, images[:1], 0.5, loss)
    own, before = smaller(images), detector(images)
    assert own.keys() == before.keys()
    for name, one in before.items():
        torch.testing.assert_close(own[name], one, atol=1e-5, rtol=1e-5)


def test_layers_of_one_weight_are_refused_by_their_names():
    tied = nn.Sequential(*(nn.Conv2d(size, 16, 3) for size in (3, 16, 16)), nn.Flatten(), nn.LazyLinear(5))
    tied(IMAGES[:1])
    tied[2].weight = tied[1].weight
    with pytest.raises(UserError, match=r"keep_channels: 1.weight and 2.weight are one tensor, .* give each its own"):
        prune(tied, IMAGES[:1], 0.5)
