"""Narrower feed-forward layers of a transformer: the neurons that the others can replace least stay, and take over."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.models.pretrained import keep_rows

RIDGE = 0.01
"""Of the least squares, as a share of the neurons' mean variance."""
BATCH = 32  # texts at a time


class Values(NamedTuple):
    """What goes into a linear layer on some texts, over tokens: the mean of each feature (D,), their covariance (D, D),
    both float64."""

    mean: Tensor
    covariance: Tensor


@torch.no_grad()
def values_on(model: Any, linears: Sequence[nn.Linear], tokens: Tensor, pad: int) -> list[Values]:
    """The values of each layer's inputs at tokens (N, L) that are no padding; the model is a transformers encoder."""
    mask = tokens != pad
    moments: dict[nn.Module, Tensor] = {linear: torch.zeros((), dtype=torch.float64) for linear in linears}

    def see(linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = F.pad(inputs[0][mask], (0, 1), value=1.0)  # ones behind: their products are sums and the count
        moments[linear] = moments[linear] + (seen.T @ seen).double()

    hooks = [linear.register_forward_pre_hook(see) for linear in linears]
    was_training = model.training
    try:
        model.eval()
        for batch in tokens[mask.sum(1).argsort()].split(BATCH):
            batch = batch[:, : max(2, int((batch != pad).sum(1).max()))]
            mask = batch != pad
            model(input_ids=batch, attention_mask=mask.long())
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return [_values(moments.pop(linear)) for linear in linears]


def _values(moments: Tensor) -> Values:
    mean = moments[-1, :-1] / moments[-1, -1]
    return Values(mean, moments[:-1, :-1] / moments[-1, -1] - mean.outer(mean))


@torch.no_grad()
def importance(second: nn.Linear, values: Values) -> Tensor:
    """Of each neuron before a linear layer how much the outputs change, in mean square over the texts of `values`, if
    it alone leaves and the others take over as well as they can, (D,).

    Hassibi and Stork 1993, "Second order derivatives for network pruning: optimal brain surgeon", equation 5, for a
    column of weights at once, as ZipLM has it (Kurtic et al. 2023, arXiv:2302.04089).
    """
    inverse = torch.linalg.inv(_with_ridge(values.covariance))
    return second.weight.double().square().sum(0) / inverse.diagonal()


def _with_ridge(covariance: Tensor) -> Tensor:
    mean = covariance.diagonal().mean().clamp(min=1e-12)
    return covariance + RIDGE * mean * torch.eye(len(covariance), dtype=covariance.dtype)


@torch.no_grad()
def narrow(first: nn.Linear, second: nn.Linear, kept: Tensor, values: Values | None = None) -> None:
    """Leaves the neurons `kept` between two linear layers, in place.

    What the others give is predicted from those that stay, by ridge regression on the texts of `values`, and goes into
    their weights and the bias: the least squares of He et al. 2017, "Channel pruning for accelerating very deep neural
    networks" (arXiv:1707.06168), equation 2, with the neurons given. Without values they leave nothing behind.
    """
    weight = second.weight.detach()
    if values is not None:
        whole = weight.double()
        covariance = values.covariance[kept]  # of those that stay with all
        gone = torch.ones(len(values.mean), dtype=torch.bool).index_fill(0, kept, False)
        added = torch.linalg.solve(_with_ridge(covariance[:, kept]), covariance[:, gone] @ whole[:, gone].T).T
        shift = whole[:, gone] @ values.mean[gone] - added @ values.mean[kept]
        second.bias = nn.Parameter((second.bias.detach().double() + shift).to(weight.dtype))
        weight = weight.index_add(1, kept, added.to(weight.dtype))
    keep_rows(first, kept)
    keep_columns(second, kept, weight)


def keep_columns(linear: nn.Linear, kept: Tensor, weight: Tensor | None = None) -> None:
    """Leaves those columns of the weight, or of another in its place."""
    linear.weight = nn.Parameter((linear.weight if weight is None else weight).detach()[:, kept].clone())
    linear.in_features = len(kept)
