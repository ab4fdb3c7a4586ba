import pytest
import torch
from torch import nn

from distiq.models.conformer import Attention, Block, Conformer, Convolution
from distiq.models.frontend import front_end

FRAMES = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))


def test_attention_is_pytorch_s():
    torch.manual_seed(0)
    own, reference = Attention(8, 2).eval(), nn.MultiheadAttention(8, 2, batch_first=True).eval()
    reference.in_proj_weight, reference.in_proj_bias = own.inputs.weight, own.inputs.bias
    reference.out_proj.load_state_dict(own.output.state_dict())
    normed = own.norm(FRAMES)
    torch.testing.assert_close(own(FRAMES), reference(normed, normed, normed)[0])


def test_a_block_is_equation_1():
    torch.manual_seed(0)
    block = Block(8, 12, 2, 3).eval()
    x = FRAMES + block.before(FRAMES) / 2
    x = x + block.attention(x)
    x = x + block.convolution(x)
    torch.testing.assert_close(block(FRAMES), block.norm(x + block.after(x) / 2))


def test_the_convolution_hears_its_kernel_alone_and_no_other_channel():
    module = Convolution(8, 5).eval()
    moved = FRAMES.clone()
    moved[:, 4] += torch.randn(8)
    changed = (module(moved) != module(FRAMES)).any(2).any(0)
    assert changed.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
    assert module.depthwise.weight.shape == (8, 1, 5)


def test_parameters_are_those_of_its_layers():
    model = Conformer(3, front_end(8000), width=8, blocks=2, hidden=12, kernel=3)
    feed_forward = 2 * 8 + (8 * 12 + 12) + (12 * 8 + 8)
    attention = 2 * 8 + (8 * 24 + 24) + (8 * 8 + 8)
    convolution = 2 * 8 + (8 * 16 + 16) + 3 * 8 + 2 * 8 + (8 * 8 + 8)
    block = 2 * feed_forward + attention + convolution + 2 * 8
    assert sum(value.numel() for value in model.parameters()) == (40 * 8 * 3 + 8) + 2 * block + 8 * 3 + 3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        Conformer(3, front_end(8000), width=8, heads=3)
    with pytest.raises(ValueError, match="a kernel of 4 frames has no middle"):
        Conformer(3, front_end(8000), kernel=4)
