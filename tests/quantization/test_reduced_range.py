"""7-bit weights where two products could leave 16 bits: which layers, and that nothing moves them out again."""

import pytest
import torch
from torch import Tensor, nn

from distiq.data.splits import Data
from distiq.numerics import quantize as integers_of
from distiq.quantization.fake_quantize import PerChannelWeightFakeQuantize
from distiq.quantization.graph import parameter_of
from distiq.quantization.qat import train_quantized
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.scheme import Scheme
from distiq.quantization.weights import layer_of
from distiq.recipe.training import TrainingSettings
from distiq.training.batches import Batch
from distiq.training.fit import Losses


class Words(nn.Module):
    """The mean of embeddings, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.classifier = nn.Embedding(6, 5), nn.Linear(5, 2)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.classifier(self.table(numbers).mean(1))


def integers(quantized: QuantizedModel) -> dict[str, Tensor]:
    """Layer -> its integer weights (O, K), from the points' own scales."""
    found = {}
    for node in quantized.prepared.graph.nodes:
        point = quantized.prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(point, PerChannelWeightFakeQuantize):
            weight, scale = parameter_of(quantized.prepared, node).detach().flatten(1), point.calculate_qparams()[0]
            bounds = (-point.quant_max, point.quant_max)
            layer = layer_of(node.all_input_nodes[0])
            found[layer] = integers_of(weight, scale.unsqueeze(1), torch.zeros(1), bounds)
    return found


def leaves_16_bits(rows: Tensor) -> bool:
    """Whether two weights of a row and inputs of 0 or 255 do: the two largest, or the two smallest."""
    if rows.shape[1] < 2:
        return False
    ends = rows.clamp(min=0).topk(2).values.sum(1).max(), (-rows).clamp(min=0).topk(2).values.sum(1).max()
    return bool(255 * ends[0] > 32767 or 255 * ends[1] > 32768)


def test_exactly_the_layers_that_leave_16_bits_are_narrowed(network: nn.Module, images: Tensor):
    plain, reduced = (quantize(network, images[:64], Scheme(reduce_range=on)) for on in (False, True))
    assert plain.reduced_layers() == ()
    assert set(reduced.reduced_layers()) == {layer for layer, rows in integers(plain).items() if leaves_16_bits(rows)}
    assert not any(leaves_16_bits(rows) for rows in integers(reduced).values())
    assert max(int(rows.abs().max()) for rows in integers(reduced).values()) == 63


def test_one_weight_per_channel_and_a_table_keep_8_bits():
    torch.manual_seed(0)
    single = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    quantized = quantize(single, torch.randn(8, 1, 2, 2), Scheme(reduce_range=True))
    assert quantized.reduced_layers() == ("3",)
    assert int(integers(quantized)["0"].abs().max()) == 127
    quantized = quantize(Words().eval(), torch.randint(6, (8, 3)), Scheme(reduce_range=True))
    assert quantized.reduced_layers() == ("classifier",)
    assert int(integers(quantized)["table"].abs().max()) == 127


def test_narrow_layers_stay_as_narrow_as_they_are(mixed: nn.Module, images: Tensor):
    quantized = quantize(mixed, images[:64], Scheme(layer_bits=(("project", 4),), reduce_range=True))
    largest = {layer: int(rows.abs().max()) for layer, rows in integers(quantized).items()}
    assert largest == {"first": 63, "depthwise": 63, "project": 7, "classifier": 63}
    assert quantized.reduced_layers() == ("first", "depthwise", "classifier")


def test_rounding_and_training_keep_the_promise_and_the_state_restores(mixed: nn.Module, data: Data):
    calibration = data.normalize(data.calibration.inputs)
    scheme = Scheme(rounding="gptq", reduce_range=True)
    quantized = quantize(mixed, calibration, scheme)
    assert not any(leaves_16_bits(rows) for rows in integers(quantized).values())
    before = integers(quantized)

    def shrunk(logits: Tensor, _batch: Batch) -> Losses:
        return Losses(size=logits.square().mean())

    settings = TrainingSettings(epochs=2, batch_size=32, learning_rate=0.05, precision="float32")
    train_quantized(quantized, shrunk, data, settings)
    after = integers(quantized)
    assert any(not torch.equal(after[layer], rows) for layer, rows in before.items())
    assert not any(leaves_16_bits(rows) for rows in after.values())
    again = restore(mixed, calibration[:2], scheme, quantized.state_dict())
    with torch.no_grad():
        assert torch.equal(again(calibration), quantized(calibration))


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme(reduce_range=True), "static W8A8, mse, reduced range"),
        (Scheme(ranges="minmax", rounding="gptq", reduce_range=True),
         "static W8A8, minmax, closed-form rounding, reduced range"),
    ],
)  # fmt: skip
def test_a_scheme_says_so(scheme: Scheme, text: str):
    assert str(scheme) == text
