"""trace(): the batch stays free; what fixes it, and what cannot be traced, is named by its line with the remedy."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from distiq.errors import UserError
from distiq.models.layout import free_dimensions
from distiq.models.trace import copied, trace


class Lengths(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return x.reshape(len(x), -1)


class Numbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 12)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(2, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token, x], 1)


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.relu(sample) for sample in x])


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0, keepdim=True)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.zeros(5, 5)


def traced(network: nn.Module) -> ExportedProgram:
    by_position = copied(network, torch.randn(2, 3, 4))
    return trace(by_position, free_dimensions(by_position))


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (Lengths(), "return x.reshape(len(x), -1)"),
        (Numbers(), "return x.reshape(2, 12)"),
        (Tokens(), "return torch.cat([self.token, x], 1)"),
        (Loops(), "return torch.stack([torch.relu(sample) for sample in x])"),
    ],
)
def test_what_fixes_the_batch_is_named_with_the_remedy(network: nn.Module, line: str):
    said = rf"{re.escape(__file__)}\", line \d+, in forward: {re.escape(line)} fixes it; .* write x.shape\[0\], or -1"
    with pytest.raises(UserError, match=said):
        traced(network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Sums(), r'gives "logits" of shape \(1, 3, 4\) for 2 samples; every output needs a row for each sample'),
        (Fails(), r"fails on an input of shape \(2, 3, 4\): mat1 and mat2 .*test_trace.py, line"),
        (Branches(), r"cannot be traced by torch.export: .*in forward return x if x.sum\(\) > 0 else -x"),
    ],
)
def test_what_cannot_be_traced_is_named(network: nn.Module, message: str):
    with pytest.raises(UserError, match=message):
        traced(network)


class Neighbours(nn.Module):
    """Sees each token and those beside it, as MobileBERT does: of two tokens one has a neighbour."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        after = x[:, 1:] * torch.ones(x.shape[1] - 1, 1)
        return (x.sum(1) + after.sum(1)) * (1 if after.shape[1] != 1 else 2)


def test_a_network_that_differs_on_two_tokens_is_traced_for_longer_texts():
    network = copied(Neighbours(), torch.randint(9, (2, 12)))
    program = trace(network, free_dimensions(network))
    tokens = torch.randint(9, (3, 7))
    torch.testing.assert_close(program.module(check_guards=False)(tokens), network.module(tokens))


def test_the_network_is_not_changed():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last).train()
    strides = network[0].weight.stride()
    copied(network, torch.randn(2, 1, 5, 7))
    assert network.training and network[0].weight.stride() == strides
    assert network[1].num_batches_tracked == 0
