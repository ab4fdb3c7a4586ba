"""Quantization of networks over token numbers: rows of a table, and weighted layers beside normalizations."""

import pytest
import torch
from torch import Tensor, nn

from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme

decomposed = torch.ops.quantized_decomposed
VOCABULARY = 20


class Block(nn.Module):
    """An embedding, a normalized residual block, a mean over the text, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, 8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = self.norm(x + self.down(torch.relu(self.up(x))))
        return self.classifier(x.mean(1))


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (64, 6), generator=torch.Generator().manual_seed(0))


def count(model: nn.Module, target: object) -> int:
    return sum(node.target == target for node in model.graph.nodes)  # type: ignore[union-attr]


def test_only_weighted_layers_read_integers_beside_a_normalization(block: Block, tokens: Tensor):
    reference = quantize(block, tokens).reference()
    assert count(reference, decomposed.quantize_per_tensor.default) == 3  # inputs of up, down and classifier
    assert count(reference, decomposed.dequantize_per_channel.default) == 4  # their weights, and the table


def test_a_table_has_a_scale_for_each_row(block: Block, tokens: Tensor):
    with torch.no_grad():
        block.embedding.weight[3] *= 100  # one row's size is no other row's error
    quantized = quantize(block, tokens)
    simulated = next(
        quantized.prepared.get_submodule(str(node.args[0].target))(block.embedding.weight)
        for node in quantized.prepared.graph.nodes
        if node.target == torch.ops.aten.embedding.default
    )
    step = block.embedding.weight.abs().amax(1, keepdim=True) / 127
    assert ((simulated - block.embedding.weight).abs() <= 0.51 * step).all()


def test_simulation_and_reference_agree_at_any_length(block: Block, tokens: Tensor):
    quantized = quantize(block, tokens)
    reference = quantized.reference()
    with torch.no_grad():
        for length in (2, 4, 6):
            assert torch.equal(quantized(tokens[:, :length]), reference(tokens[:, :length]))


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_the_answers_stay_near_those_of_float(block: Block, tokens: Tensor, rounding: str):
    with torch.no_grad():
        found = quantize(block, tokens, Scheme(rounding=rounding))(tokens)
        assert sqnr_db(block(tokens), found) > 25


def test_it_can_be_trained_quantized(block: Block, tokens: Tensor):
    quantized = quantize(block, tokens)
    quantized(tokens).square().sum().backward()
    gradients = [p.grad for p in quantized.parameters() if p.shape == block.embedding.weight.shape]
    assert len(gradients) == 1 and gradients[0] is not None and gradients[0].abs().sum() > 0


class Attending(nn.Module):
    """Attention between the tokens of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, 8), nn.LayerNorm(8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.classifier = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embedding(tokens))
        attend = nn.functional.scaled_dot_product_attention
        return self.classifier(attend(self.query(x), self.key(x), self.value(x)).mean(1))


def test_products_of_activations_are_symmetric_and_shares_begin_at_zero(tokens: Tensor):
    torch.manual_seed(0)
    network = Attending().eval()
    with torch.no_grad():
        network.value.bias += 1  # values on one side more than on the other
    plain, quantized = (quantize(network, tokens, Scheme(attention=on)) for on in (False, True))
    assert not any("matmul" in str(node.target) for node in plain.reference().graph.nodes)
    reference = quantized.reference()
    products = [node for node in reference.graph.nodes if node.target is torch.ops.aten.matmul.default]
    factors = [[factor.args for factor in node.args] for node in products]
    assert all(len(arguments) == 6 for pair in factors for arguments in pair), "each factor is dequantized"
    assert [[arguments[2] for arguments in pair] for pair in factors] == [[0, 0], [-128, 0]]
    with torch.no_grad():
        assert sqnr_db(network(tokens), quantized(tokens)) > sqnr_db(network(tokens), plain(tokens)) - 6


def test_a_scheme_tells_of_attention_only_where_there_is_one(block: Block, tokens: Tensor):
    torch.manual_seed(0)
    assert "attention" in str(quantize(Attending().eval(), tokens, Scheme(attention=True)).scheme)
    assert "attention" not in str(quantize(block, tokens, Scheme(attention=True)).scheme)
