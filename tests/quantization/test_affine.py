"""Batch norms leave the graph, and the network's function stays, whatever else reads the layers around them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.numerics import sqnr_db
from distiq.quantization.affine import NORMS
from distiq.quantization.graph import export_graph
from distiq.quantization.operations import TRANSPOSED, aten
from distiq.quantization.quantize import activation_fake_quantizers, quantize

CLASSES, CHANNELS = 3, 6


class Shared(nn.Module):
    """One convolution, two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.one(self.conv(x))) + F.relu(self.two(self.conv(x.flip(2))))


class ReadTwice(nn.Module):
    """A convolution's result is read by its norm and by a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.conv(F.relu(self.norm(x)))


class Before(nn.Module):
    """A norm in front of two convolutions, one of them padded."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one = nn.BatchNorm2d(3), nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.two = nn.Conv2d(3, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return F.relu(self.one(x) + self.two(x))


class Transposed(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(4, CHANNELS, 3, 2, 1, output_padding=1, groups=groups, bias=False)
        self.stem, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.relu(self.stem(x))))


class Rows(nn.Module):
    """Norms of rows: behind a linear layer, and between pooling and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm1d(CHANNELS)
        self.hidden, self.inner = nn.Linear(CHANNELS, 5, bias=False), nn.BatchNorm1d(5)
        self.other, self.head = nn.Linear(CHANNELS, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).mean((2, 3)))
        return self.head(F.relu(self.inner(self.hidden(x)) + self.other(x)))


class Clip(nn.Module):
    """Values of three dimensions: norms behind a convolution, behind its activation, without weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(12, CHANNELS, 3, bias=False), nn.BatchNorm1d(CHANNELS)
        self.plain = nn.BatchNorm1d(CHANNELS, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(F.relu(self.norm(self.conv(x.mean(1)))))


class Siamese(nn.Module):
    """Convolution and norm run once for each half of the input."""

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU())
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.body(x.roll(number, 2)) for number in range(self.times)]
        return torch.cat(parts, 1)


class InPlace(nn.Module):
    """A norm whose activation writes over it, and a channel that is changed through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x[:, 0] += 1
        return x


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "shared": Shared, "read twice": ReadTwice, "before": Before, "transposed": lambda: Transposed(1),
    "grouped": lambda: Transposed(2), "rows": Rows, "clip": Clip, "siamese": Siamese, "many": lambda: Siamese(6),
    "in place": InPlace,
}  # fmt: skip


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def targets(graph: fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_norm_is_left_and_the_function_stays(name: str, rows: Tensor):
    model = network(name)
    graph = export_graph(model, rows[:2])
    assert not NORMS & set(targets(graph))
    with torch.no_grad():
        assert sqnr_db(model(rows), graph(rows)) > 100


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_stays_near_float_and_the_reference_near_int8(name: str, rows: Tensor):
    model = network(name)
    quantized = quantize(model, rows)
    with torch.no_grad():
        assert sqnr_db(model(rows), quantized(rows)) > 30
        assert sqnr_db(quantized(rows), quantized.reference()(rows)) > 80


@pytest.mark.parametrize(
    ("name", "convolutions"),
    # A norm is folded wherever it is the sole reader of a convolution with weights of its own: else there is one more.
    [("shared", 2), ("read twice", 3), ("before", 3), ("clip", 2), ("siamese", 2), ("many", 12), ("rows", 1)],
)
def test_convolutions_that_are_left(name: str, convolutions: int, rows: Tensor):
    graph = export_graph(network(name), rows[:2])
    made = [node for node in graph.graph.nodes if node.target in (aten.conv1d.default, aten.conv2d.default)]
    assert len(made) == convolutions


def test_a_transposed_convolution_takes_its_norm(rows: Tensor):
    graph = export_graph(network("grouped"), rows[:2])
    (layer,) = [node for node in graph.graph.nodes if node.target in TRANSPOSED]
    assert [user.op for user in layer.users] == ["output"]


def test_a_norm_of_the_batch_is_computed_in_float(rows: Tensor):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    quantized = quantize(model, rows)
    assert len(activation_fake_quantizers(quantized)) == 2, "input and result of the convolution"
    with torch.no_grad():
        assert sqnr_db(model(rows), quantized(rows)) > 30
        assert sqnr_db(quantized(rows), quantized.reference()(rows)) > 80
