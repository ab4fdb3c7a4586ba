import pytest
import torch
from torch import nn

from distiq.models.mobilenet import InvertedResidual, MobileNetV2, round_to

STAGES = ((1, 8, 1, 1), (2, 16, 2, 2))


def parameters_by_hand(classes, channels, stem, stages, head):
    """Convolutions without bias, two numbers a normalized channel; depthwise 3x3 costs 9 a channel."""
    total, inputs = 9 * channels * stem + 2 * stem, stem
    for expansion, outputs, count, _ in stages:
        for _ in range(count):
            hidden = inputs * expansion
            total += (inputs * hidden + 2 * hidden) if expansion != 1 else 0
            total += 9 * hidden + 2 * hidden + hidden * outputs + 2 * outputs
            inputs = outputs
    if head:
        total, inputs = total + inputs * head + 2 * head, head
    return total + inputs * classes + classes


@pytest.mark.parametrize("head", [0, 24])
@pytest.mark.parametrize("stages", [STAGES, ((6, 8, 1, 2),)])
def test_parameters(stages, head):
    model = MobileNetV2(5, 2, stem=8, stages=stages, head=head)
    expected = parameters_by_hand(5, 2, 8, stages, head)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_width_multiplies_every_number_of_channels():
    model = MobileNetV2(5, 1, width=2.0, stem=8, stages=STAGES, head=16)
    doubled = [(t, 2 * c, n, s) for t, c, n, s in STAGES]
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters_by_hand(5, 1, 16, doubled, 32)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (8, 8), (11, 16), (12, 16), (16, 16), (17, 16), (19, 24), (32 * 0.35, 16)]
)
def test_round_to(channels, rounded):
    assert round_to(channels) == rounded
    assert rounded >= 0.9 * channels


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 13), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(batch, height, width):
    model = MobileNetV2(5, 2, stem=8, stages=STAGES, head=0).eval()
    assert model(torch.zeros(batch, 2, height, width)).shape == (batch, 5)


@pytest.mark.parametrize(("stem_stride", "size"), [(1, 4), (2, 2)])
def test_strides(stem_stride, size):
    model = MobileNetV2(5, 1, stem=8, stem_stride=stem_stride, stages=STAGES).eval()
    assert model.stages(model.stem(torch.zeros(1, 1, 8, 8))).shape == (1, 16, size, size)


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "residual"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)]
)
def test_a_shortcut_only_where_the_shape_stays(inputs, outputs, stride, residual):
    block = InvertedResidual(inputs, outputs, stride, 2, nn.ReLU).eval()
    assert block.residual is residual
    nn.init.zeros_(block.project[0].weight)
    x = torch.rand(1, inputs, 4, 4)
    expected = x if residual else torch.zeros(1, outputs, 4 // stride, 4 // stride)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("relu6", nn.ReLU6)])
def test_activations(activation, kind):
    found = {type(m) for m in MobileNetV2(5, 1, stages=STAGES, activation=activation).modules()}
    assert found & {nn.ReLU, nn.ReLU6} == {kind}


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match='activation = "gelu" is unknown; take one of'):
        MobileNetV2(5, 1, activation="gelu")


def test_squeeze_and_excitation_by_hand():
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, 1, 2, nn.SiLU, squeeze=0.25).eval()
    x = torch.randn(2, 16, 5, 5)
    mean = x.mean((2, 3))
    squeezed = torch.nn.functional.silu(mean @ block.weigh.squeeze.weight.flatten(1).T + block.weigh.squeeze.bias)
    gate = torch.sigmoid(squeezed @ block.weigh.excite.weight.flatten(1).T + block.weigh.excite.bias)
    assert block.weigh.squeeze.out_channels == 2
    assert torch.allclose(block.weigh(x), x * gate[:, :, None, None], atol=1e-6)
    plain = sum(parameter.numel() for parameter in InvertedResidual(8, 8, 1, 2, nn.SiLU).parameters())
    assert sum(parameter.numel() for parameter in block.parameters()) == plain + (16 * 2 + 2) + (2 * 16 + 16)


def test_fused_blocks_expand_by_a_convolution():
    """3x3 in place of 1x1 and a depthwise 3x3, in the first stage alone."""
    plain, fused = (MobileNetV2(5, 1, stages=((2, 16, 1, 2), (2, 16, 1, 1)), fused=count) for count in (0, 1))
    hidden = 16 * 2
    more = 9 * 16 * hidden + 2 * hidden - (16 * hidden + 2 * hidden + 9 * hidden + 2 * hidden)
    assert sum(one.numel() for one in fused.parameters()) - sum(one.numel() for one in plain.parameters()) == more
    assert fused(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stages": [[1, 8]]}, r"stages = \[\[1, 8\]\]: give rows \[expansion, channels, blocks, stride\]"),
        ({"stages": [1, 8, 1, 1]}, "give rows"),
        ({"stages": [[1, 8.5, 1, 1]]}, "of whole numbers from 1 on"),
        ({"stages": [[1, 8, 0, 1]]}, "of whole numbers from 1 on"),
        ({"fused": 5}, "fused = 5: the network has 4 stages; take 0 to 4"),
        ({"fused": 1.5}, "fused = 1.5"),
    ],
)
def test_stages_that_are_none_are_refused(options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        MobileNetV2(5, 3, **options)
