import pytest
import torch
from torch import nn

from distiq.models.bc_resnet import BCResNet, BroadcastBlock
from distiq.models.frontend import front_end

MAPS = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))


def test_what_the_frames_hold_on_average_is_added_to_every_frequency():
    block = BroadcastBlock(4, 4, 1, 2).eval()
    local = block.frequency(MAPS)
    (depthwise, norm, relu, pointwise) = block.time
    average = sum(local[:, :, row] for row in range(6)).unsqueeze(2) / 6
    found = pointwise(relu(norm(depthwise(average))))
    expected = torch.stack([torch.relu(MAPS[:, :, row] + local[:, :, row] + found[:, :, 0]) for row in range(6)], 2)
    torch.testing.assert_close(block(MAPS), expected)


@pytest.mark.parametrize(("outputs", "stride", "shape"), [(7, 1, (2, 7, 6, 10)), (4, 2, (2, 4, 3, 10))])
def test_a_transition_changes_the_form_and_does_not_add_its_input(outputs: int, stride: int, shape: tuple[int, ...]):
    block = BroadcastBlock(4, outputs, stride, 1).eval()
    nn.init.zeros_(block.frequency[0].weight)
    found = block(MAPS)
    assert found.shape == shape
    assert torch.equal(block(MAPS + 1), found), "nothing reaches the output past the convolution over frequencies"


def test_dilation_reaches_further_in_time_alone():
    block = BroadcastBlock(4, 4, 1, 3).eval()
    moved = MAPS.clone()
    moved[:, :, 2, 5] += 1
    changed = (block(moved) != block(MAPS)).any(1).any(0)
    assert set(changed.any(0).nonzero().flatten().tolist()) <= {2, 5, 8}


def test_stages_need_as_many_numbers_each():
    with pytest.raises(ValueError, match="one number for each stage"):
        BCResNet(3, front_end(8000), widths=(8, 8))


def test_parameters_are_those_of_its_layers():
    model = BCResNet(3, front_end(8000), stem=4, widths=(4, 6), blocks=(1, 1), strides=(1, 2), dilations=(1, 2), last=8)
    stem, head = 4 * 25 + 2 * 4, 6 * 25 + 2 * 6 + 6 * 8 + 2 * 8

    def block(inputs: int, width: int) -> int:
        enter = inputs * width + 2 * width if inputs != width else 0
        return enter + 2 * (3 * width + 2 * width) + width * width + width

    total = stem + block(4, 4) + (4 * 6 + 2 * 6 + 2 * (3 * 6 + 2 * 6) + 36 + 6) + head + 8 * 3 + 3
    assert sum(value.numel() for value in model.parameters()) == total
