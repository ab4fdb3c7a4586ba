"""ONNX files: the same answers as the graph they come from, in integers throughout, small, and refused when broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds
from distiq.models.resnet import ResNet
from distiq.models.signature import call
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import activation_fake_quantizers, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load
from distiq.runtimes.onnx_read import float_operations, operation_counts, work
from distiq.runtimes.onnx_weights import SMALLEST_PACKED

INT4 = onnx.TensorProto.INT4
DECOMPOSED = torch.ops.quantized_decomposed


def constants(proto: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def of_type(proto: ModelProto, *types: str) -> list[NodeProto]:
    return [node for node in proto.graph.node if node.op_type in types]


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_float_file_is_torch(batch: int, exported, images: Tensor):
    with torch.no_grad():
        torch.testing.assert_close(
            load(exported.float_file)(images[:batch]), exported.model(images[:batch]), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_int8_file_takes_any_batch(batch: int, exported, images: Tensor):
    predict = load(exported.int8_file)
    torch.testing.assert_close(
        predict(images[:batch]), torch.cat([predict(image) for image in images[:batch].split(1)])
    )


def test_int8_file_computes_in_integers(exported):
    assert float_operations(exported.int8_file) == ()
    assert float_operations(exported.float_file) != (), "the float file shows that the check sees something"
    assert list(exported.int8_file.parent.glob("*.partial")) == []


def test_the_work_of_a_file_is_that_of_the_network(exported, images: Tensor):
    macs = multiply_adds(exported.model, images)
    assert work(exported.float_file, [images.shape[1:]]) == (macs, False)
    assert work(exported.int8_file, [images.shape[1:]]) == (macs, True)


def test_deployed_answers_as_simulated(exported, images: Tensor):
    with torch.no_grad():
        simulated = exported.quantized(images)
    deployed = load(exported.int8_file)(images)
    # A kernel rounds a sum on the edge of two steps the other way at times; such a step reaches few logits, and little.
    span = simulated.max() - simulated.min()
    assert (deployed - simulated).abs().max() < 0.02 * span
    assert (deployed - simulated).abs().mean() < 1e-4 * span
    top = simulated.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > span / 255
    assert clear.sum() > 1000
    agreement = (simulated.argmax(1) == deployed.argmax(1))[clear].double().mean()
    assert agreement >= 0.999


def test_activations_are_uint8_and_weights_int8(exported):
    proto = onnx.load(str(exported.int8_file))
    known = constants(proto)
    for node in of_type(proto, "QuantizeLinear", "DequantizeLinear"):
        stored = known.get(node.input[0])
        if stored is None:
            assert known[node.input[2]].dtype == np.uint8
        else:
            assert stored.dtype in (np.int8, np.int32)
    layers = [module for module in exported.model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = [array for array in known.values() if array.dtype == np.int8 and array.ndim > 1]
    assert sorted(array.size for array in weights) == sorted(layer.weight.numel() for layer in layers)


def test_every_integer_and_scale_is_the_reference_graph_s(exported):
    reference = exported.quantized.reference()
    proto = onnx.load(str(exported.int8_file))
    known = constants(proto)
    weights = {value.numpy().tobytes() for value in reference.buffers() if value.dtype == torch.int8}
    found = {array.tobytes() for array in known.values() if array.dtype == np.int8 and array.ndim > 1}
    assert found == weights

    parameters = {
        (np.float32(node.args[1]), node.args[2] + 128)
        for node in reference.graph.nodes
        if node.target == DECOMPOSED.quantize_per_tensor.default
    }
    stored = {(known[node.input[1]].item(), known[node.input[2]].item()) for node in of_type(proto, "QuantizeLinear")}
    assert stored == parameters

    scales = {
        reference.get_buffer(node.args[1].target).numpy().tobytes()
        for node in reference.graph.nodes
        if node.target == DECOMPOSED.dequantize_per_channel.default
    }
    assert scales <= {array.tobytes() for array in known.values() if array.dtype == np.float32}


def test_a_hard_swish_is_integer_throughout(images: Tensor, tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(256, 4))
    quantized = quantize(model, images[:64])
    path = export(quantized, tmp_path / "hard.onnx", images[:2])
    assert float_operations(path) == ()
    with torch.no_grad():
        assert torch.allclose(load(path)(images[:64]), quantized(images[:64]), atol=1e-4)
        assert (quantized(images[:64]) - model(images[:64])).abs().max() < 0.1 * model(images[:64]).abs().max()


def test_learned_steps_of_activations_are_those_of_the_file(exported, images: Tensor, tmp_path: Path):
    quantized = quantize(exported.model, images, Scheme(weight_bits=4))
    with torch.no_grad():
        for number, fake_quantize in enumerate(activation_fake_quantizers(quantized)):
            fake_quantize.learn()
            fake_quantize.scale.mul_(0.8 + 0.05 * (number % 7))  # as training would
        path = export(quantized, tmp_path / "learned.onnx", images[:2])
        deployed, simulated = load(path)(images), quantized(images)
    assert float_operations(path) == ()
    assert (deployed - simulated).abs().mean() < 1e-4 * (simulated.max() - simulated.min())


@pytest.mark.parametrize("bits", [3, 4])
def test_narrow_weights_are_packed_and_still_computed_in_integers(bits: int, exported, images: Tensor, tmp_path: Path):
    quantized = quantize(exported.model, images, Scheme(weight_bits=bits))
    path = export(quantized, tmp_path / "narrow.onnx", images[:2])
    assert float_operations(path) == ()
    with torch.no_grad():
        deployed, simulated = load(path)(images), quantized(images)
    assert (deployed - simulated).abs().mean() < 1e-4 * (simulated.max() - simulated.min())
    narrow = {tensor.name: tensor for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type == INT4}
    wide = [value for value in quantized.reference().buffers() if value.dtype == torch.int8 and value.ndim > 1]
    packed = {numpy_helper.to_array(tensor).astype(np.int8).tobytes() for tensor in narrow.values()}
    assert packed == {value.numpy().tobytes() for value in wide if value.numel() >= SMALLEST_PACKED}


def test_moved_scales_leave_the_file_all_integer(exported, images: Tensor, tmp_path: Path):
    quantized = quantize(exported.model, images, Scheme(equalize=True, correct_biases=True))
    path = export(quantized, tmp_path / "equalized.onnx", images[:2])
    assert float_operations(path) == ()
    assert operation_counts(path) == operation_counts(exported.int8_file)
    with torch.no_grad():
        deployed, simulated = load(path)(images), quantized(images)
    assert (deployed - simulated).abs().mean() < 1e-4 * (simulated.max() - simulated.min())


def test_no_activation_is_left_that_quantization_does(exported):
    counts = operation_counts(exported.int8_file)
    assert counts["Relu"] == counts["Clip"] == 0
    assert operation_counts(exported.float_file)["Relu"] + operation_counts(exported.float_file)["Clip"] > 0


def test_a_channel_of_almost_no_weight_keeps_its_bias(images: Tensor, tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).eval()
    with torch.no_grad():
        model[0].weight[1] *= 1e-12
        model[0].bias[1] = 2.0
        quantized = quantize(model, images[:64])
        deployed = load(export(quantized, tmp_path / "model.onnx", images))(images[:100])
        torch.testing.assert_close(deployed, quantized(images[:100]), rtol=0, atol=0.01)
        torch.testing.assert_close(deployed, model(images[:100]), rtol=0, atol=0.1)


class Clipped(nn.Module):
    """A convolution, clamped to [low, high], then a shift that moves the quantized values behind the clamp."""

    def __init__(self, low: float, high: float, also: float) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(800, 3)
        self.low, self.high, self.also = low, high, also

    def forward(self, images: Tensor) -> Tensor:
        clipped = self.conv(images).clamp(self.low, self.high)
        # Concatenated values share one range, so the other part widens the clamp's.
        return self.linear(torch.cat([clipped, clipped * 0 + self.also], 1).flatten(1))


@pytest.mark.parametrize(
    ("low", "high", "also", "left"),
    [(0.0, 0.5, 0.25, 0), (-0.25, 0.75, 0.0, 0), (0.0, 0.5, -1.0, 1), (0.0, 0.5, 2.0, 1)],
)
def test_a_clip_goes_only_if_its_range_saturates_alike(low, high, also, left, images: Tensor, tmp_path: Path):
    torch.manual_seed(0)
    quantized = quantize(Clipped(low, high, also), 3 * images[:64])
    path = export(quantized, tmp_path / "model.onnx", images)
    assert operation_counts(path)["Clip"] == left
    with torch.no_grad():
        torch.testing.assert_close(load(path)(6 * images[:50]), quantized(6 * images[:50]), rtol=0, atol=0.02)


def test_int8_file_is_less_than_half_of_the_float_one(tmp_path: Path):
    model = ResNet(10, 1, (16, 32, 64), 1).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) >= 60_000
    example = torch.randn(8, 1, 12, 12)
    large, small = (
        export(model, tmp_path / "a.onnx", example),
        export(quantize(model, example), tmp_path / "b.onnx", example),
    )
    assert small.stat().st_size < large.stat().st_size / 2


def test_the_file_carries_no_annotations(exported):
    for file in (exported.float_file, exported.int8_file):
        proto = onnx.load(str(file))
        assert not proto.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
        assert b"/work/" not in file.read_bytes()


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def replaced(_content: bytes) -> bytes:
    return b"this is no model"


@pytest.mark.parametrize("spoil", [cut_short, replaced])
def test_a_damaged_file_is_refused(spoil: Callable[[bytes], bytes], exported, tmp_path: Path):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(spoil(exported.int8_file.read_bytes()))
    with pytest.raises(UserError, match=r"damaged\.onnx: ONNX Runtime cannot load this file"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing\.onnx: no such file"):
        load(tmp_path / "nothing.onnx")


def test_an_operation_without_onnx_form_is_refused(tmp_path: Path):
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(UserError, match="cannot be exported to ONNX"):
        export(Branching(), tmp_path / "model.onnx", torch.randn(2, 3))
    assert list(tmp_path.iterdir()) == []


class GivenTwice(nn.Module):
    """A layer's values before and behind what is made of them, one of them under two names, and the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.first(x))
        scores = self.second(hidden).mean((2, 3))
        return {"scores": scores, "hidden": hidden, "again": scores, "input": x, "sure": scores.amax(1) > 0}


@torch.no_grad()
def test_outputs_keep_their_names_and_values_where_they_are_given_twice(images: Tensor, tmp_path: Path):
    torch.manual_seed(0)
    model = GivenTwice().eval()
    for form in (model, quantize(model, images[:32])):
        found, expected = load(export(form, tmp_path / "model.onnx", images[:2]))(images), call(form, images)
        assert list(found) == ["scores", "hidden", "again", "input", "sure"]
        assert all(sqnr_db(expected[name], found[name]) > 60 for name in list(found)[:4])
        assert torch.equal(found["sure"], expected["sure"])


def test_a_padding_of_the_input_goes_into_its_convolution(images, tmp_path):
    torch.manual_seed(0)
    layers = [nn.ZeroPad2d(1), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 144, 3)]
    quantized = quantize(nn.Sequential(*layers).eval(), images[:200])
    path = export(quantized, tmp_path / "model.onnx", images[:2])
    assert float_operations(path) == ()
    assert operation_counts(path)["Pad"] == 0
    with torch.no_grad():
        simulated = quantized(images[:200])
    torch.testing.assert_close(load(path)(images[:200]), simulated, rtol=0, atol=0.02 * float(simulated.std()))


def test_a_file_does_not_say_what_onnx_takes_for_granted(exported):
    for path in (exported.float_file, exported.int8_file):
        proto = onnx.load(str(path))
        for node in of_type(proto, "Conv", "Gemm", "Reshape"):
            known = onnx.defs.get_schema(node.op_type, proto.opset_import[0].version).attributes
            for attribute in node.attribute:
                default = known[attribute.name].default_value
                assert not default.type or onnx.helper.get_attribute_value(default) != onnx.helper.get_attribute_value(
                    attribute
                ), (node.op_type, attribute.name)
        scales = constants(proto)
        for node in of_type(proto, "QuantizeLinear", "DequantizeLinear"):
            assert bool(node.attribute) == bool(scales[node.input[1]].shape)
