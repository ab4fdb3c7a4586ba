"""A plain network: its layers as they are asked for; what is none is refused."""

import pytest
import torch
from torch import nn

from distiq.models.plain import PlainNet


def test_a_row_makes_a_convolution():
    network = PlainNet(5, 3, [[8, 2], [16, 1]], "hard_swish").eval()
    first, second = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert (first.in_channels, first.out_channels, first.stride) == (3, 8, (2, 2))
    assert (second.in_channels, second.out_channels, second.stride) == (8, 16, (1, 1))
    assert sum(isinstance(module, nn.Hardswish) for module in network.modules()) == 2
    assert network(torch.zeros(2, 3, 9, 7)).shape == (2, 5)


@pytest.mark.parametrize("layers", [[], [[8]], [[8, 0]], [[8, 1, 1]]])
def test_rows_of_no_layer_are_refused(layers: list):
    with pytest.raises(ValueError, match=r"give rows of \[channels, stride\]"):
        PlainNet(2, 1, layers)
    with pytest.raises(ValueError, match='activation = "gelu" is unknown'):
        PlainNet(2, 1, activation="gelu")
