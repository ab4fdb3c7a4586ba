"""The recurrence over padded texts: cell by cell, its gradients, what it costs."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distiq.models.recurrent import BiLSTM, bilstm

VECTORS, LENGTHS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 1, 3])


def made() -> BiLSTM:
    torch.manual_seed(0)
    return BiLSTM(4, 6)


def one_way(model: BiLSTM, vectors: Tensor, suffix: str) -> Tensor:
    """States (L, hidden) of one text, cell by cell."""
    cell = nn.LSTMCell(4, 6)
    cell.load_state_dict({name: getattr(model, f"{name}_l0{suffix}") for name in cell.state_dict()})
    state, memory, states = torch.zeros(6), torch.zeros(6), []
    for vector in vectors:
        state, memory = cell(vector, (state, memory))
        states.append(state)
    return torch.stack(states)


def test_each_text_is_read_in_both_directions_and_no_further_than_it_goes():
    model = made()
    found = model(VECTORS, LENGTHS)
    for states, vectors, length in zip(found, VECTORS, LENGTHS.tolist(), strict=True):
        words = vectors[:length]
        wanted = torch.cat([one_way(model, words, ""), one_way(model, words.flip(0), "_reverse").flip(0)], 1)
        torch.testing.assert_close(states[:length], wanted)
        assert not states[length:].any()


def test_the_operation_of_exported_graphs_has_the_gradients_of_the_module():
    model, vectors = made(), VECTORS.clone().requires_grad_()
    wanted = torch.autograd.grad(model(vectors, LENGTHS).square().sum(), [vectors, *model.parameters()])
    states = bilstm(vectors, LENGTHS, list(model.parameters()))
    found = torch.autograd.grad(states.square().sum(), [vectors, *model.parameters()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_vectors_are_taken():
    with torch.autocast("cpu", torch.bfloat16):
        assert made()(VECTORS.bfloat16(), LENGTHS).dtype == torch.float32


def test_its_products_are_counted():
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made()(VECTORS, LENGTHS)
    assert counter.get_total_flops() == 2 * 3 * 5 * 2 * (4 * 6 * 4 + 4 * 6 * 6)
