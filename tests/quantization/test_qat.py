"""Quantization-aware training: weights learn, ranges of activations stay, the best epoch is kept."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.data.splits import Data, from_tensors
from distiq.errors import UserError
from distiq.models.vectors import StaticVectors
from distiq.progress import Silent
from distiq.quantization.fake_quantize import LARGEST_BIAS, PerChannelWeightFakeQuantize
from distiq.quantization.graph import bias_fake_quantizers, parameter_of
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel, activation_fake_quantizers, quantize, restore
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import ViewSettings
from distiq.recipe.training import TrainingSettings
from distiq.tasks.choose import task_of
from distiq.training.batches import Batch
from distiq.training.fit import Losses, validation_metric

STILL = ViewSettings(flip=False, shift=0)


def task(logits: Tensor, batch: Batch) -> Losses:
    return Losses(task=F.cross_entropy(logits, batch.labels))


def settings(epochs: int, learning_rate: float = 0.02) -> TrainingSettings:
    return TrainingSettings(epochs=epochs, batch_size=32, learning_rate=learning_rate, precision="float32")


@pytest.fixture
def quantized(resnet: nn.Module, data: Data) -> QuantizedModel:
    return quantize(resnet, data.normalize(data.calibration.inputs))


def test_loss_falls_weights_move_ranges_stay(quantized: QuantizedModel, data: Data):
    before = [(one.scale.clone(), one.zero_point.clone()) for one in activation_fake_quantizers(quantized)]
    weights = {name: value.clone() for name, value in quantized.named_parameters()}
    record = train_quantized(quantized, task, data, settings(5), views=STILL)
    assert record.epochs[-1].losses["task"] < 0.8 * record.epochs[0].losses["task"]
    assert [(one.scale, one.zero_point) for one in activation_fake_quantizers(quantized)] == before
    assert all(not torch.equal(weights[name], value) for name, value in quantized.named_parameters())


def test_narrow_weights_learn_their_scales_and_are_kept(resnet: nn.Module, data: Data):
    calibration = data.normalize(data.calibration.inputs)
    scheme = Scheme(weight_bits=4)
    quantized = quantize(resnet, calibration, scheme)
    steps = {name: scale for name, scale in scales(quantized).items() if scale.numel() > 1}
    train_quantized(quantized, task, data, settings(3), views=STILL)
    learned = scales(quantized)
    assert all(not torch.allclose(learned[name], scale, rtol=1e-4) for name, scale in steps.items())
    images = data.normalize(data.test.inputs)
    with torch.no_grad():
        assert torch.allclose(quantized.reference()(images), quantized(images), atol=1e-5)
        again = restore(resnet, images[:2], scheme, quantized.state_dict())
        assert torch.equal(again(images), quantized(images))


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_eight_bit_scales_follow_the_weights(rounding: str, resnet: nn.Module, data: Data):
    """Fixed by rounding, they would clip a weight that grows, and waste levels on one that shrinks."""
    scheme = Scheme(rounding=rounding)
    quantized = quantize(resnet, data.normalize(data.calibration.inputs), scheme)
    train_quantized(quantized, task, data, settings(4, learning_rate=2.0), views=STILL)
    modules = dict(quantized.prepared.named_modules(remove_duplicate=False))
    for node in quantized.prepared.graph.nodes:
        point = modules.get(str(node.target))
        if isinstance(point, PerChannelWeightFakeQuantize):
            largest = parameter_of(quantized.prepared, node).detach().flatten(1).abs().amax(1)
            torch.testing.assert_close(point.calculate_qparams()[0], largest / 127)
    images = data.normalize(data.test.inputs)
    with torch.no_grad():
        assert torch.equal(restore(resnet, images[:2], scheme, quantized.state_dict())(images), quantized(images))


class Killed(Silent):
    """Ends a training at a step."""

    def step(self, done: int, total: int, values: object) -> None:
        if done == 7:
            raise KeyboardInterrupt


def test_learned_ranges_move_survive_a_kill_and_reach_the_file(resnet: nn.Module, data: Data, tmp_path: Path):
    calibration, images = data.normalize(data.calibration.inputs), data.normalize(data.test.inputs)
    scheme, training = Scheme(weight_bits=4), settings(3).model_copy(update={"checkpoint_seconds": 0.0})

    def train(checkpoint: Path | None = None, watch: Silent | None = None) -> QuantizedModel:
        quantized = quantize(resnet, calibration, scheme)
        train_quantized(
            quantized, task, data, training, views=STILL, learn_ranges=True, checkpoint=checkpoint, watch=watch
        )
        return quantized

    whole, fixed = train(), quantize(resnet, calibration, scheme)
    for learned, before in zip(activation_fake_quantizers(whole), activation_fake_quantizers(fixed), strict=True):
        assert not torch.equal(learned.scale, before.scale) and torch.equal(learned.zero_point, before.zero_point)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint.safetensors", Killed())
    resumed = train(tmp_path / "checkpoint.safetensors").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(whole.reference()(images), whole(images), atol=1e-5)
        assert torch.equal(restore(resnet, images[:2], scheme, whole.state_dict())(images), whole(images))


def test_biases_still_fit_into_31_bits_behind_ranges_that_training_made_small(data: Data):
    """The accumulator's step is that of the input times that of the weights: with the first, it shrinks."""
    torch.manual_seed(0)
    layer = nn.Linear(144, 4)
    nn.init.constant_(layer.bias, 1000.0)
    quantized = quantize(nn.Sequential(nn.Flatten(), layer), data.normalize(data.calibration.inputs), Scheme())
    _, bias_fake_quantize = bias_fake_quantizers(quantized.prepared)[0]
    activation = bias_fake_quantize.pair[0]

    def shrinking(_logits: Tensor, _batch: Batch) -> Losses:
        return Losses(step=1e3 * activation.scale)

    train_quantized(quantized, shrinking, data, settings(2), views=STILL, learn_ranges=True)
    assert ((layer.bias / bias_fake_quantize.scale()).abs() <= LARGEST_BIAS * 1.001).all()


def scales(quantized: QuantizedModel) -> dict[str, Tensor]:
    found = [
        (name, module) for name, module in quantized.named_modules() if isinstance(module, PerChannelWeightFakeQuantize)
    ]
    return {name: point.calculate_qparams()[0].detach().clone() for name, point in found}


def test_gradient_reaches_every_parameter(quantized: QuantizedModel, data: Data):
    images = data.normalize(data.train.inputs[:32])
    task(quantized(images), Batch(images, data.train.labels[:32], torch.arange(32), 0))["task"].backward()
    for name, parameter in quantized.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_simulated_stays_the_reference(quantized: QuantizedModel, data: Data):
    train_quantized(quantized, task, data, settings(4, learning_rate=2.0), views=STILL)
    strides = {parameter.stride() for parameter in quantized.parameters()}
    assert strides == {torch.empty(parameter.shape).stride() for parameter in quantized.parameters()}
    images = data.normalize(data.test.inputs)
    with torch.no_grad():
        reference = quantized.reference()
        assert torch.equal(reference(images), quantized(images))


@pytest.mark.parametrize("learning_rate", [0.02, 2.0])
def test_the_best_quantized_epoch_is_kept(learning_rate: float, quantized: QuantizedModel, data: Data):
    training = settings(4, learning_rate).model_copy(update={"clip_norm": 1.0})
    record = train_quantized(quantized, task, data, training, views=STILL)
    accuracies = [epoch.validation.value for epoch in record.epochs]
    assert accuracies[record.kept - 1] == max(accuracies)
    assert validation_metric(quantized, data, task_of(data)).value == max(accuracies)


def test_tokens_that_count_nothing_still_count_nothing():
    """The special tokens of a table of vectors have rows of zeros; training must not let padding change a vector."""
    torch.manual_seed(0)
    tokens = torch.randint(3, 40, (64, 6))
    tokens[::2, 4:] = 0
    samples = tokens, torch.arange(64) % 4
    data = from_tensors(samples, samples, validation=16, calibration=16, modality="text")
    quantized = quantize(StaticVectors(torch.randn(40, 4), (0, 1, 2)).eval(), tokens)
    before = quantized(tokens)
    train_quantized(quantized, task, data, settings(4, learning_rate=2.0), views=STILL)
    with torch.no_grad():
        assert not torch.allclose(quantized(tokens), before, atol=1e-2)
        torch.testing.assert_close(quantized(tokens)[::2], quantized(tokens[::2, :4]))


def test_tables_that_do_not_learn_are_left_as_they_are():
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(40, 6))
            self.words, self.head = nn.Embedding.from_pretrained(torch.randn(40, 6)), nn.Linear(6, 4)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head((self.words(tokens) + F.embedding(tokens, self.table)).mean(1))

    torch.manual_seed(0)
    samples = torch.randint(0, 40, (64, 6)), torch.arange(64) % 4
    data = from_tensors(samples, samples, validation=16, calibration=16, modality="text")
    quantized = quantize(Given().eval(), samples[0])
    assert train_quantized(quantized, task, data, settings(1), views=STILL).steps == 1


def test_the_loss_is_the_one_handed_in(quantized: QuantizedModel, data: Data):
    def pulled_to_zero(logits: Tensor, _batch: Batch) -> Losses:
        return Losses(size=logits.square().mean())

    record = train_quantized(quantized, pulled_to_zero, data, settings(3), views=STILL)
    assert set(record.epochs[0].losses) == {"size"}
    assert record.epochs[-1].losses["size"] < record.epochs[0].losses["size"]


def test_a_loss_that_is_not_finite_is_refused(quantized: QuantizedModel, data: Data):
    def broken(logits: Tensor, _batch: Batch) -> Losses:
        return Losses(task=logits.sum() / 0)

    with pytest.raises(UserError, match="quantization-aware training: the loss part"):
        train_quantized(quantized, broken, data, settings(1))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_that_cannot_carry_8_bits_is_refused(precision):
    training = TrainingSettings(precision=precision)
    with pytest.raises(UserError, match=f'precision = "{precision}" cannot hold 8-bit values exactly; take "float32"'):
        train_quantized(None, None, None, training)  # type: ignore[arg-type]
