import pytest
import torch

from distiq.models.resnet import BasicBlock, ResNet


def parameters_by_hand(classes, channels, widths, blocks):
    """3x3 convolutions without bias, two numbers a normalized channel, 1x1 shortcuts where a shape changes."""
    total, inputs = 9 * channels * widths[0] + 2 * widths[0], widths[0]
    for number, (outputs, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            total += 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs + 2 * outputs
            if inputs != outputs or (number > 0 and block == 0):
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total + inputs * classes + classes


@pytest.mark.parametrize(
    ("widths", "blocks"), [([4, 8], 1), ([4], 2), ([4, 4], 1), ([4, 8, 6], [1, 2, 3]), ((4, 8), (2, 1))]
)
def test_parameters(widths, blocks):
    model = ResNet(5, 2, widths, blocks)
    per_stage = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters_by_hand(5, 2, widths, per_stage)


def test_depth_is_that_of_the_paper():
    # ResNet-20 of He et al. 2016, table 6: 0.27 million parameters, 20 weight layers.
    model = ResNet(10, 3, (16, 32, 64), 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.27e6, rel=0.02)
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len([name for name in layers if "shortcut" not in name]) == 20


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 13), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(batch, height, width):
    model = ResNet(5, 2, [4, 8], 1).eval()
    assert model(torch.zeros(batch, 2, height, width)).shape == (batch, 5)


def test_each_stage_after_the_first_halves_the_size():
    model = ResNet(5, 1, [4, 8, 8], 1).eval()
    x = model.stem(torch.zeros(1, 1, 12, 8))
    shapes = []
    for stage in model.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 12, 8), (8, 6, 4), (8, 3, 2)]


def test_a_block_starts_as_its_shortcut():
    model = ResNet(5, 1, [4], 1)
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(model.stages[0][0](x), torch.relu(x))
    assert isinstance(BasicBlock(4, 4, 1).shortcut, torch.nn.Identity)


@pytest.mark.parametrize(("widths", "blocks"), [([4, 8], [1]), ([4], 0), ([4, 8], [1, 0]), ([], 1), ([4], -1)])
def test_blocks_that_do_not_fit_are_refused(widths, blocks):
    with pytest.raises(ValueError, match="does not give one positive number per stage"):
        ResNet(5, 1, widths, blocks)
