import itertools

import pytest
import torch
from safetensors.torch import save_file

from distiq.errors import UserError
from distiq.models.build import build
from distiq.models.checkpoint import load_weights
from distiq.models.efficientnet_lite import efficientnet_lite0
from distiq.models.segmenter import Segmenter, pixels_of
from distiq.models.signature import OutputForm
from distiq.quantization.quantize import quantize
from distiq.recipe.training import StudentSettings
from distiq.runtimes.export import export, load, operations


def test_every_pixel_has_its_classes_whatever_the_sides():
    network = Segmenter(3, encoder="resnet", stem=8, stages=((8, 1, 2), (12, 1, 2)), width=8).eval()
    for sides in ((21, 30), (8, 8)):
        assert network(torch.zeros(2, 3, *sides)).shape == (2, 3, *sides)


@pytest.mark.slow
def test_the_int8_file_enlarges_and_moves_integers(tmp_path):
    network = Segmenter(3, encoder="resnet", stem=8, stages=((8, 1, 2), (12, 1, 2)), width=8).eval()
    images = torch.randn(4, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    quantized = quantize(network, images)
    export(quantized, tmp_path / "model.onnx", images[:2])
    found = operations(tmp_path / "model.onnx")
    assert {kind for kind, types in found.items() if "float32" in types} == {"DequantizeLinear"}, "of the output alone"
    assert found["Resize"] == {"int8": 1}
    assert torch.allclose(load(tmp_path / "model.onnx")(images), quantized(images), atol=1e-4)


def test_the_pixels_of_a_position_are_put_in_their_places():
    classes, stride = 3, 2
    maps = torch.arange(2 * 12 * 5 * 7).float().view(2, 12, 5, 7)
    pixels = pixels_of(maps, stride)
    assert pixels.shape == (2, classes, 10, 14)
    for row, column, one in itertools.product(range(10), range(14), range(classes)):
        channel = ((row % stride) * stride + column % stride) * classes + one
        assert torch.equal(pixels[:, one, row, column], maps[:, channel, row // stride, column // stride])


def test_published_weights_fit_the_encoder_and_the_rest_is_trained(tmp_path):
    whole = efficientnet_lite0(5)
    names = {own: theirs for theirs, own in whole.published_names().items()}
    save_file({names[name]: value for name, value in whole.state_dict().items()}, tmp_path / "lite0.safetensors")
    network = Segmenter(3, encoder="efficientnet_lite0", width=8)
    load_weights(network, tmp_path / "lite0.safetensors", new_head=True)
    own = network.state_dict()["pyramid.encoder.blocks.3.depthwise.0.weight"]
    assert torch.equal(own, whole.state_dict()["blocks.3.depthwise.0.weight"])
    with pytest.raises(UserError, match=r"do not fit the network: .* missing .*pyramid.laterals"):
        load_weights(network, tmp_path / "lite0.safetensors")


def test_published_weights_fit_a_few_blocks_and_what_is_behind_them_stays_drawn(tmp_path):
    whole = efficientnet_lite0(5)
    names = {own: theirs for theirs, own in whole.published_names().items()}
    save_file({names[name]: value for name, value in whole.state_dict().items()}, tmp_path / "lite0.safetensors")
    network = Segmenter(3, encoder="efficientnet_lite0", blocks=3, stages=((1, 144, 1, 2),), width=8)
    drawn = network.pyramid.encoder.blocks[3].depthwise[0].weight.clone()
    load_weights(network, tmp_path / "lite0.safetensors", new_head=True)
    own = network.state_dict()
    assert torch.equal(
        own["pyramid.encoder.blocks.2.project.0.weight"], whole.state_dict()["blocks.2.project.0.weight"]
    )
    assert torch.equal(own["pyramid.encoder.blocks.3.depthwise.0.weight"], drawn)


def test_a_segmenter_of_transformers_by_its_config():
    pytest.importorskip("transformers")
    options = {
        "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 8,
    }  # fmt: skip
    settings = StudentSettings(model="transformers:segformer", options=options)
    network = build(settings, 3, torch.zeros(1, 3, 64, 64), "student", form=OutputForm(3, 2)).eval()
    assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 3, 64, 96)
