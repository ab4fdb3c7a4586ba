"""A bidirectional LSTM over padded token vectors, as one operation in an exported graph.

torch.export would unroll PyTorch's own over the length of the example. As one operation the length stays free, and
runtimes run their own kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import register_flop_formula


class BiLSTM(nn.LSTM):
    """Hochreiter and Schmidhuber 1997, in both directions; padding changes no state, and its own states are zero.

    Shapes: (B, L, inputs) and lengths (B,), at least 1 -> (B, L, 2 hidden): forward states, then backward states.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True, bidirectional=True)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        weights = [getattr(self, name) for name in self._flat_weights_names]
        trains = torch.is_grad_enabled() and not torch.compiler.is_exporting()
        run: Any = _states if trains else bilstm  # whose gradient computes the states twice
        return run(vectors, lengths, weights)


def _states(vectors: Tensor, lengths: Tensor, weights: list[Tensor]) -> Tensor:
    vectors = vectors.to(weights[0].dtype)  # autocast may have made them narrower
    packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
    start = vectors.new_zeros(2, len(vectors), weights[1].shape[1])
    states = torch._VF.lstm(packed.data, packed.batch_sizes, (start, start), weights, True, 1, 0.0, False, True)[0]  # type: ignore[attr-defined]
    return pad_packed_sequence(packed._replace(data=states), batch_first=True, total_length=vectors.shape[1])[0]


@torch.library.custom_op("distiq::bilstm", mutates_args=())
def bilstm(vectors: Tensor, lengths: Tensor, weights: list[Tensor]) -> Tensor:
    """The states of `BiLSTM`; weights as PyTorch orders them: input, state and their biases, of each direction."""
    return _states(vectors, lengths, weights)


@bilstm.register_fake
def _(vectors: Tensor, lengths: Tensor, weights: list[Tensor]) -> Tensor:
    return weights[0].new_empty(*vectors.shape[:2], 2 * weights[1].shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, list[Tensor]], output: Tensor) -> None:
    vectors, lengths, weights = inputs
    ctx.save_for_backward(vectors, lengths, *weights)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, list[Tensor]]:
    vectors, lengths, *weights = ctx.saved_tensors
    with torch.enable_grad():  # the states are computed once more: nothing of them was kept
        floats = [tensor.detach().requires_grad_() for tensor in (vectors, *weights)]
        states = _states(floats[0], lengths, floats[1:])
    first, *others = torch.autograd.grad(states, floats, gradient)
    return first, None, others


bilstm.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.distiq.bilstm)
def _flops(vectors: torch.Size, _lengths: torch.Size, weights: list[torch.Size], *_: Any, **__: Any) -> int:
    """Two for each multiply-add, of as many steps as the texts have tokens with their padding."""
    return 2 * vectors[0] * vectors[1] * sum(shape[0] * shape[1] for shape in weights if len(shape) == 2)
