import pytest
import torch

from distiq.models.pyramid import ENCODERS, LiteEncoder, Pyramid, enlarged, make_encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_maps_of_every_stride_have_the_sides_of_the_image_by_it_rounded_up(name: str):
    encoder = make_encoder(name, 3, 0, ())
    with torch.no_grad():
        maps = encoder.eval()(torch.zeros(1, 3, 45, 60))
    assert {stride: one.shape[1] for stride, one in maps.items()} == encoder.channels
    for stride, one in maps.items():
        assert tuple(one.shape[2:]) == (-(-45 // stride), -(-60 // stride))


def test_joined_maps_have_one_width():
    pyramid = Pyramid(make_encoder("resnet", 3, 8, ((8, 1, 2), (12, 1, 2))), 10, 4).eval()
    assert {stride: tuple(one.shape) for stride, one in pyramid(torch.zeros(1, 3, 21, 30)).items()} == {
        8: (1, 10, 3, 4), 4: (1, 10, 6, 8),
    }  # fmt: skip


def test_each_value_is_repeated_up_to_the_finer_map():
    coarse = torch.tensor([[[[1.0, 2], [3, 4]]]])
    assert enlarged(coarse, torch.zeros(1, 1, 3, 4)).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]]]


def test_published_names_of_a_classifier_are_left_out():
    names = LiteEncoder().published_names()
    assert names["_conv_stem.weight"] == "stem.0.weight" and names["_fc.weight"] == ""


def test_published_weights_fit_the_first_blocks_and_none_of_the_stages_behind():
    encoder = LiteEncoder(3, blocks=3, stages=((2, 30, 1, 2),))  # its own: one of 16 channels, two of 24
    assert encoder.channels == {2: 16, 4: 24, 8: 30}
    assert encoder.new_parts == ("blocks.3.",)
    names = encoder.published_names()
    assert names["_blocks.2._depthwise_conv.weight"] == "blocks.2.depthwise.0.weight"
    assert names["_blocks.3._depthwise_conv.weight"] == ""


def test_strange_encoders_are_refused():
    with pytest.raises(ValueError, match='"vgg" is unknown; take one of "mobilenet'):
        make_encoder("vgg", 3, 0, ())
    with pytest.raises(ValueError, match='efficientnet_lite0" has no option "stem"'):
        make_encoder("efficientnet_lite0", 3, 8, ())
    with pytest.raises(ValueError, match='resnet" has no option "blocks"'):
        make_encoder("resnet", 3, 8, ((8, 1, 2),), 2)
    with pytest.raises(ValueError, match=r"blocks = 17: EfficientNet-Lite0 has 16"):
        make_encoder("efficientnet_lite0", 3, 0, (), 17)
    with pytest.raises(ValueError, match=r"a stage keeps the size of its map \(1\) or halves it \(2\), not 3"):
        make_encoder("mobilenet", 3, 8, [(2, 16, 1, 3)])
    with pytest.raises(ValueError, match=r"a coarser one to join it with"):
        Pyramid(make_encoder("efficientnet_lite0", 3, 0, (), 5), 8, 8)
    with pytest.raises(ValueError, match=r"stride 32: the encoder's maps have the strides \[2, 4, 8\]"):
        Pyramid(make_encoder("resnet", 3, 8, ((8, 1, 2), (12, 1, 2))), 10, 32)
