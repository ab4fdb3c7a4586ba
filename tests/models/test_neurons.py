"""Neurons that stay take over from those that leave, by least squares on texts."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distiq.models.neurons import RIDGE, importance, narrow, values_on

PAD = 0
KEPT = torch.tensor([0, 2, 3])


class Encoder(nn.Module):
    """Two linear layers over embeddings, called as transformers' encoders are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 4)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, input_ids, attention_mask):
        del attention_mask
        return SimpleNamespace(logits=self.second(self.first(self.embedding(input_ids)).relu()))


@pytest.fixture
def tokens() -> torch.Tensor:
    drawn = torch.randint(1, 20, (70, 5), generator=torch.Generator().manual_seed(1))
    drawn[::2, 3:] = PAD
    return drawn


def at_tokens(model: Encoder, tokens: torch.Tensor) -> torch.Tensor:
    """What goes into the second layer, (K, 6) float64."""
    return model.first(model.embedding(tokens[tokens != PAD])).relu().detach().double()


def test_values_are_those_at_tokens(tokens: torch.Tensor):
    model = Encoder().train()
    [found] = values_on(model, [model.second], tokens, PAD)
    seen = at_tokens(model, tokens)
    torch.testing.assert_close(found.mean, seen.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.covariance, seen.T.cov(correction=0), atol=1e-5, rtol=0)
    assert model.training
    assert not model.second._forward_pre_hooks


def test_what_leaves_is_predicted_from_what_stays(tokens: torch.Tensor):
    """The ridge as further rows of an ordinary least squares problem of centred values."""
    model = Encoder()
    before, seen = model.second.weight.detach().double(), at_tokens(model, tokens)
    [values] = values_on(model, [model.second], tokens, PAD)
    outputs = model.second(seen.float()).detach()
    narrow(model.first, model.second, KEPT, values)
    centred, gone = seen - seen.mean(0), [1, 4, 5]
    ridge = (RIDGE * len(seen) * centred[:, KEPT].square().mean()).sqrt() * torch.eye(len(KEPT), dtype=torch.float64)
    rows = torch.cat([centred[:, KEPT], ridge])
    added = torch.linalg.lstsq(rows, torch.cat([centred[:, gone] @ before[:, gone].T, torch.zeros(3, 3)])).solution
    torch.testing.assert_close(model.second.weight.double(), before[:, KEPT] + added.T, atol=1e-4, rtol=0)
    narrowed = model.second(at_tokens(model, tokens).float())
    torch.testing.assert_close(narrowed.mean(0), outputs.mean(0))  # the mean stays
    assert (model.first.out_features, model.second.in_features) == (3, 3)


def test_a_neuron_matters_by_what_the_others_cannot_replace(tokens: torch.Tensor):
    """Each in turn is left out by the least squares of `narrow`: the mean square of what is lost, with the ridge."""
    model = Encoder()
    model.first.weight.data[5], model.first.bias.data[5] = 2 * model.first.weight[0], 2 * model.first.bias[0]
    [values] = values_on(model, [model.second], tokens, PAD)
    before, ridge = model.second.weight.detach().double(), RIDGE * values.covariance.diagonal().mean()
    regular = values.covariance + ridge * torch.eye(6, dtype=torch.float64)
    lost = []
    for left in range(6):
        others = [neuron for neuron in range(6) if neuron != left]
        change = torch.zeros(6, dtype=torch.float64)
        change[left] = 1.0
        change[others] = -torch.linalg.solve(regular[others][:, others], regular[others, left])
        lost.append((before[:, left].square().sum() * (change @ regular @ change)).item())
    assert importance(model.second, values).tolist() == pytest.approx(lost, rel=1e-6)
    assert set(torch.tensor(lost).topk(2, largest=False).indices.tolist()) & {0, 5}  # each can stand in for the other


def test_without_texts_weights_stay_as_they_are():
    model = Encoder()
    before = model.second.weight.detach().clone(), model.second.bias.detach().clone()
    narrow(model.first, model.second, KEPT)
    assert torch.equal(model.second.weight, before[0][:, KEPT])
    assert torch.equal(model.second.bias, before[1])
