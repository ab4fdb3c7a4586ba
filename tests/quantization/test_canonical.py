"""The one form of a graph: nothing in place, weights stored and every layer's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.numerics import sqnr_db
from distiq.quantization.canonical import MOST_COPIES
from distiq.quantization.graph import export_graph
from distiq.quantization.operations import CONVOLUTIONS, aten
from distiq.quantization.weights import layer_of


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(4, 4, 9, 9, generator=torch.Generator().manual_seed(0))


class Blur(nn.Module):
    """The binomial kernel of anti-aliased pooling (Zhang 2019), one for all channels."""

    def __init__(self) -> None:
        super().__init__()
        one = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", one.outer(one).view(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.expand(x.shape[1], 1, 3, 3), stride=2, groups=x.shape[1])


class Standardized(nn.Conv2d):
    """Weight standardization (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


COMPUTED = {
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 8, 3)),
    "standardized": lambda: Standardized(4, 8, 3),
    "blur": Blur,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_no_input_changes_is_stored(name: str, rows: Tensor):
    torch.manual_seed(0)
    model = nn.Sequential(COMPUTED[name](), nn.ReLU()).eval()
    graph = export_graph(model, rows)
    (layer,) = convolutions(graph)
    assert layer.args[1].op == "get_attr"
    assert layer_of(layer.args[1]) == "0", "the module that computes the layer"
    with torch.no_grad():
        assert sqnr_db(model(rows), graph(rows)) > 100


def convolutions(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target in CONVOLUTIONS]


def test_a_formula_of_few_numbers_stays_one(rows: Tensor):
    class Cosines(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steps = torch.arange(81.0)
            return F.linear(x.flatten(2), torch.cos(steps * steps.unsqueeze(1)))

    graph = export_graph(Cosines(), rows)
    assert not [node for node in graph.graph.nodes if node.op == "get_attr" and node.meta["val"].numel() > 81]


@pytest.mark.parametrize(("uses", "stored"), [(MOST_COPIES, MOST_COPIES), (MOST_COPIES + 1, 1)])
def test_a_shared_weight_becomes_its_layers_own_while_copies_are_few(uses: int, stored: int, rows: Tensor):
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(uses):
                x = F.relu(self.conv(x))
            return x

    layers = convolutions(export_graph(Recursive(), rows))
    assert len(layers) == uses
    assert len({layer.args[1].target for layer in layers}) == stored
    assert {layer_of(layer.args[1]) for layer in layers} == {"conv"}


def test_a_head_tied_to_its_embeddings_gets_its_own():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens).mean(1))

    graph = export_graph(Tied().eval(), torch.ones(2, 5, dtype=torch.int64))
    (table,) = [node.args[0] for node in graph.graph.nodes if node.target is aten.embedding.default]
    (head,) = [node.args[1] for node in graph.graph.nodes if node.target is aten.linear.default]
    assert table.target != head.target


def test_dropout_and_copies_are_gone_and_nothing_is_in_place(rows: Tensor):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout(), nn.ReLU(inplace=True), nn.Hardswish(inplace=True)).eval()
    graph = export_graph(model, rows)
    kinds = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    gate = [aten.conv2d.default, aten.clamp.default]  # of one position: x / 6 + 1 / 2
    assert kinds == [aten.conv2d.default, aten.relu.default, *gate, aten.mul.Tensor]


def test_what_writes_a_part_of_a_tensor_is_a_concatenation(rows: Tensor):
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            y[:, :2] = 0
            y[:, -1] = x[:, 0]
            z = torch.zeros_like(y)
            z[:, :, 1:] = y[:, :, :-1]
            return z

    graph, expected = export_graph(Writing(), rows), torch.zeros_like(rows)
    expected[:, 2, 1:], expected[:, 3, 1:] = rows[:, 2, :-1].relu(), rows[:, 0, :-1]
    assert torch.equal(graph(rows), expected)
    kinds = [node.target for node in graph.graph.nodes]
    assert kinds.count(aten.cat.default) == 3
    assert not any("scatter" in str(kind) for kind in kinds)


@pytest.mark.parametrize("activation", [nn.PReLU(8), nn.RReLU(), nn.RReLU(0.2, 0.4)])
def test_relus_of_one_slope_are_leaky(activation: nn.Module):
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 4, 1)).eval(), torch.randn(2, 3, 8, 8)
    graph = export_graph(model, images)
    slopes = [node.args[1] for node in graph.graph.nodes if node.target is torch.ops.aten.leaky_relu.default]
    expected = activation(-torch.ones(1, 8, 1, 1)).flatten()[0].neg().item()
    assert slopes == [pytest.approx(expected)]
    with torch.no_grad():
        assert torch.allclose(graph(images), model(images), atol=1e-5)


PRODUCTS = {
    "matmul": lambda x, weight, bias: x @ weight + bias,
    "transposed": lambda x, weight, bias: torch.matmul(x, weight.t().contiguous().t()) + bias,
    "addmm": lambda x, weight, bias: torch.addmm(bias, x.view(-1, 9), weight).view(*x.shape[:-1], 6),  # as GPT-2's
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_with_a_weight_is_a_linear_layer(name: str, rows: Tensor):
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return PRODUCTS[name](x, self.weight, self.bias)

    model = Product().eval()
    graph = export_graph(model, rows)
    (layer,) = [node for node in graph.graph.nodes if node.target is aten.linear.default]
    assert torch.equal(getattr(graph, str(layer.args[1].target)), model.weight.t())
    assert torch.allclose(graph(rows), model(rows), atol=1e-5)


def test_a_product_of_two_values_and_one_with_a_weight_in_front_stay_products(rows: Tensor):
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(9, 9))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight @ (x @ x)

    model = Products().eval()
    graph = export_graph(model, rows)
    assert not any(node.target is aten.linear.default for node in graph.graph.nodes)
    assert torch.allclose(graph(rows), model(rows), atol=1e-4)


def test_a_formula_s_matrix_is_no_weight(rows: Tensor):
    class Mel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("filters", torch.rand(9, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(x, self.filters)

    kinds = [node.target for node in export_graph(Mel(), rows).graph.nodes if node.op == "call_function"]
    assert kinds == [aten.matmul.default]


def test_empty_parts_are_not_joined(rows: Tensor):
    class Cached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.cat([x[:, :0], x], 1), torch.cat([torch.zeros(0), x, x], 1)], 1)

    graph = export_graph(Cached(), rows)
    (joined,) = [len(node.args[0]) for node in graph.graph.nodes if node.target is aten.cat.default][1:]
    assert joined == 2
    assert torch.equal(graph(rows), torch.cat([rows, rows, rows], 1))


def test_a_view_of_what_was_copied_for_it_is_possible(rows: Tensor):
    class Copied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).view(x.shape[0], -1)

    assert torch.equal(export_graph(Copied(), rows)(rows), rows.permute(0, 2, 3, 1).flatten(1))
