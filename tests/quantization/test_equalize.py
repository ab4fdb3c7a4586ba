"""Scales moved between neighbours: the float function stays, ranges become equal, and uneven networks gain."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from distiq.numerics import sqnr_db
from distiq.quantization.canonical import MOST_COPIES
from distiq.quantization.equalize import (
    _Graph,
    _Largest,
    balancing_scales,
    changed_fake_quantizers,
    equalize_layers,
    migrate_outliers,
    migration_scales,
    normalized,
    pairs,
    within_limits,
)
from distiq.quantization.graph import export_graph, prepare
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.scheme import Scheme
from distiq.quantization.sensitivity import quantized_tensors, sensitivity
from distiq.quantization.streaming import FloatRun
from tests.quantization.conftest import make

EQUALIZED = Scheme(equalize=True)


class Chain(nn.Module):
    """conv, bn, relu, depthwise, bn, relu6, conv: two pairs, one of them behind a clip."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 12)
        for norm in (self.norm, self.norm2):
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm2.weight, 0.3 * gain, 3 * gain)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(images)))
        return self.last(F.relu6(self.norm2(self.depthwise(x)))).flatten(1)


def chain(seed: int = 0, gain: float = 1.0) -> Chain:
    torch.manual_seed(seed)
    return Chain(gain).eval()


def prepared(model: nn.Module, samples: Tensor) -> fx.GraphModule:
    return prepare(export_graph(model, samples[:2]), Scheme())


@torch.no_grad()
def in_float(graph: fx.GraphModule, samples: Tensor) -> Tensor:
    return FloatRun(graph).run(samples)


def ranges(graph: fx.GraphModule) -> list[tuple[Tensor, Tensor]]:
    """Of every pair: the rows of its first layer, the columns of its second."""
    reader = _Graph(graph)
    found = []
    for pair in pairs(graph):
        rows = reader.row_ranges(pair.first)
        found.append((rows, reader.column_ranges(pair.second, len(rows))))
    return found


def test_scales_by_hand():
    rows, columns = torch.tensor([8.0, 1.0, 0.0, 3.0]), torch.tensor([2.0, 4.0, 3.0, 0.0])
    torch.testing.assert_close(balancing_scales(rows, columns), torch.tensor([2.0, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(migration_scales(rows, columns, 0.5), torch.tensor([2.0, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(migration_scales(rows, columns, 1.0), torch.tensor([8.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("scales", "highest", "ceiling", "found"),
    [
        ([2.0, 0.5], [3.0, 1.0], float("inf"), [2.0, 0.5]),
        ([4.0, 1.0, 0.25], [1.0, 1.0, 1.0], float("inf"), [4.0, 1.0, 1.0]),  # the last would grow beyond the widest
        ([1.0, 2.0, 0.5], [3.0, 2.0, 3.0], 6.0, [1.0, 2.0, 1.0]),  # there is room below 6, but the limit is 3
        ([0.1, 0.1, 0.2], [1.0, 1.0, 2.0], 5.0, [0.4, 0.4, 0.8]),  # 20 is above 5: four times the scales
        ([1.0, 0.125, 8.0], [6.0, 1.0, 4.0], 6.0, [1.0, 1 / 6, 8.0]),  # the first stays, the second ends below 6
        ([2.0, 1.0, 0.5], [6.0, 6.0, 2.0], 6.0, [1.0, 1.0, 0.5 / 2**0.5]),  # in proportion to those that stay
        ([1.0, 1.0], [0.0, 0.0], 6.0, [1.0, 1.0]),
    ],
)
def test_limits_by_hand(scales: list, highest: list, ceiling: float, found: list):
    torch.testing.assert_close(within_limits(*map(torch.tensor, (scales, highest)), ceiling), torch.tensor(found))


@pytest.mark.parametrize("gain", [0.1, 1.0, 3.0])
def test_the_float_function_is_the_same(gain: float, images: Tensor):
    for seed in range(3):
        graph = prepared(chain(seed, gain), images)
        before, weights = in_float(graph, images), [value.clone() for value in graph.parameters()]
        equalize_layers(graph, images)
        torch.testing.assert_close(in_float(graph, images), before, rtol=1e-5, atol=1e-5)
        assert any(not torch.allclose(old, new) for old, new in zip(weights, graph.parameters(), strict=True))


@pytest.mark.parametrize("name", ["mixed", "resnet", "mobilenet"])
def test_every_network_answers_the_same(name: str, images: Tensor):
    model = make(name)
    graph = prepared(model, images)
    equalize_layers(graph, images)
    with torch.no_grad():
        torch.testing.assert_close(in_float(graph, images), model(images), rtol=1e-4, atol=1e-4)


def test_ranges_of_rows_and_columns_become_equal(images: Tensor):
    graph = prepared(chain(seed=1, gain=0.1), images)  # so small that nothing reaches the clip
    equalize_layers(graph, images)
    (rows, columns), (behind_clip, read) = ranges(graph)
    torch.testing.assert_close(rows, columns, rtol=1e-3, atol=0)
    ratio = behind_clip / read  # a factor common to all channels may make room below the clip
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


def test_a_channel_at_the_clip_stays_and_no_other_gets_there(images: Tensor):
    model = chain(gain=3.0)
    graph = prepared(model, images)
    (between,) = (pair.between for pair in pairs(graph) if pair.ceiling == 6)

    def highest() -> Tensor:
        observer = _Largest(graph, {between: 1})
        with torch.no_grad():
            observer.run(images)
        return observer.largest[between]

    before, weight = highest(), graph.last.weight.clone()
    at_clip = before == 6
    assert 0 < at_clip.sum() < 8
    equalize_layers(graph, images)
    assert torch.equal(graph.last.weight[:, at_clip], weight[:, at_clip])
    assert not torch.allclose(graph.last.weight[:, ~at_clip], weight[:, ~at_clip])
    assert (highest() <= 6 + 1e-5).all()


@torch.no_grad()
def uneven(images: Tensor) -> nn.Module:
    """The field's failure: channels of very different sizes behind batch norm, made up for in the next layer."""
    model = make("mobilenet")
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
    block, sizes = model.stages[1][0], 10 ** torch.empty(32).uniform_(-1, 1)
    before = model(images)
    for norm, reader in ((block.expand[1], block.depthwise[0]), (block.depthwise[1], block.project[0])):
        norm.weight.mul_(sizes)
        norm.bias.mul_(sizes)
        along = 0 if reader.groups > 1 else 1
        reader.weight.div_(sizes.view([-1 if axis == along else 1 for axis in range(4)]))
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)
    return model


@torch.no_grad()
def test_an_uneven_network_is_mended(images: Tensor):
    model = uneven(images)
    expected = model(images)
    plain, mended = (sqnr_db(expected, quantize(model, images, scheme)(images)) for scheme in (Scheme(), EQUALIZED))
    assert plain < 22
    assert mended > plain + 8


@torch.no_grad()
def test_tiny_weights_under_a_large_bias_do_not_widen_the_range(images: Tensor):
    """Weight decay leaves such channels behind; equation 11 alone would blow up their constant."""
    model = chain(seed=1, gain=0.1)
    model.norm.weight[0], model.norm.bias[0] = 1e-6, 1.0
    expected = model(images)
    plain, mended = (sqnr_db(expected, quantize(model, images, scheme)(images)) for scheme in (Scheme(), EQUALIZED))
    assert mended > plain - 3


@torch.no_grad()
def test_simulated_and_reference_agree_and_state_restores(network: nn.Module, images: Tensor):
    scheme = Scheme(equalize=True, correct_biases=True)
    quantized = quantize(network, images, scheme)
    expected = quantized(images)
    assert torch.equal(quantized.reference()(images), expected)
    again = restore(network, images[:2], scheme, quantized.state_dict())
    assert torch.equal(again(images), expected)


def test_pairs_counted_by_hand():
    images = torch.zeros(2, 1, 12, 12)
    assert [len(pairs(prepared(make(name), images))) for name in ("mixed", "resnet", "mobilenet")] == [0, 2, 5]


class Other(nn.Module):
    """Neighbours that no scale can be moved between, each for another reason."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(72, 4)
        self.fixed: Tensor
        self.register_buffer("fixed", torch.randn(8, 8, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        match self.reason:
            case "a clip that begins below zero":
                x = self.second(F.hardtanh(x))
            case "two readers":
                x = self.second(x) + x
            case "weights that are used too often to be copied":
                for _ in range(MOST_COPIES + 1):
                    x = self.second(F.relu(x))
            case "weights that are fixed":
                x = F.conv2d(F.relu(x), self.fixed, self.second.bias)
            case "another activation":
                x = self.second(F.silu(x))
        return self.classifier(F.avg_pool2d(x, 4).flatten(1))


@pytest.mark.parametrize(
    "reason",
    [
        "a clip that begins below zero",
        "two readers",
        "weights that are used too often to be copied",
        "weights that are fixed",
        "another activation",
    ],
)
def test_what_is_no_pair(reason: str, images: Tensor):
    torch.manual_seed(0)
    assert pairs(prepared(Other(reason).eval(), images)) == []


class Encoder(nn.Module):
    """A block of a transformer whose layers read normalizations, one of them with an outlying channel."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.norm, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.classifier = nn.Linear(16, 3)
        for norm in (self.norm, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            norm.weight.data[3] = 60.0
        for layer in (self.q, self.k, self.v, self.up):
            layer.weight.data[:, 3] /= 60.0

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        y = self.norm(x)
        x = x + self.out(F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.classifier(x.mean(1))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 20, (64, 6), generator=torch.Generator().manual_seed(0))


def test_outliers_are_shared_between_normalization_and_layers(encoder: Encoder, tokens: Tensor):
    graph = prepared(encoder, tokens)
    groups, expected = normalized(graph), in_float(graph, tokens)
    assert [len(group.layers) for group in groups] == [3, 1]
    migrate_outliers(graph, tokens)
    torch.testing.assert_close(in_float(graph, tokens), expected, rtol=1e-5, atol=1e-5)
    observer = _Largest(graph, {group.norm: -1 for group in groups})
    with torch.no_grad():
        observer.run(tokens)
    weights = torch.cat([graph.q.weight, graph.k.weight, graph.v.weight]).abs().amax(0)
    # With alpha = 0.5 both are sqrt(max|X| max|W|).
    torch.testing.assert_close(observer.largest[groups[0].norm], weights, rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_transformer_with_an_outlier_is_mended(encoder: Encoder, tokens: Tensor):
    expected = encoder(tokens)
    plain, mended = (sqnr_db(expected, quantize(encoder, tokens, scheme)(tokens)) for scheme in (Scheme(), EQUALIZED))
    assert mended > plain + 3


def test_a_normalization_that_something_else_reads_is_left(tokens: Tensor):
    class After(Encoder):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.norm(self.embedding(tokens))
            return self.classifier((x + self.q(x)).mean(1))

    assert normalized(prepared(After().eval(), tokens)) == []


def test_what_equalization_changes(images: Tensor):
    graph = prepared(chain(), images)
    changed = changed_fake_quantizers(graph)
    tensors = quantized_tensors(QuantizedModel(graph, Scheme()))
    found = {(one.place, one.part) for one in tensors if one.fake_quantize in changed}
    assert {place for place, part in found if part == "weights"} == {"depthwise", "last"}
    assert len(found) == 4


@torch.no_grad()
def test_biases_take_up_the_mean_error(images: Tensor):
    network = make("mobilenet")
    expected = network(images)

    def shift(corrected: bool) -> float:
        quantized = quantize(network, images, Scheme(weight_bits=4, correct_biases=corrected))
        return float((quantized(images) - expected).mean(0).norm())

    assert shift(corrected=True) < 0.3 * shift(corrected=False)


def test_a_scheme_says_that_it_is_equalized():
    assert str(Scheme(equalize=True, correct_biases=True)) == "static W8A8, mse, equalized, biases corrected"
    assert str(Scheme(equalize=True, correct_biases=True, rounding="gptq")) == (
        "static W8A8, mse, equalized, closed-form rounding"
    )


def test_a_layer_that_stays_in_float_is_no_neighbour():
    samples = torch.randn(32, 1, 12, 12)
    quantized = quantize(chain(), samples, Scheme(float_modules=("last",)))
    assert len(pairs(quantized.prepared)) == 1  # the first with the depthwise one
    assert sensitivity(quantized, samples, "static").balanced_share is not None
