"""Learned rounding: where it may go, what it never makes worse, and what stays as other schemes have it."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.progress import Silent
from distiq.quantization import reconstruction
from distiq.quantization.fake_quantize import PerChannelWeightFakeQuantize
from distiq.quantization.quantize import QuantizedModel, quantize, restore
from distiq.quantization.reconstruction import Reconstruction
from distiq.quantization.scheme import Scheme
from distiq.quantization.soft_rounding import SoftRounding


class Small(nn.Module):
    """A convolution, a depthwise one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, stride=3, groups=4)
        self.classifier = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.relu(self.depthwise(torch.relu(self.conv(x)))).flatten(1))


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_layer_comes_out_worse_than_nearest_on_what_it_gets(
    bits: int, small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    errors: list[float] = []
    measure = Reconstruction._error

    def noted(self: Reconstruction, nodes: tuple, weights: dict) -> float:
        errors.append(measure(self, nodes, weights))
        return errors[-1]

    monkeypatch.setattr(Reconstruction, "_error", noted)
    scheme = Scheme(weight_bits=bits, rounding="adaround", rounding_start="nearest", iterations=300)  # type: ignore[arg-type]
    quantized = quantize(small, images[:48], scheme)
    monkeypatch.undo()
    before, after = errors[::2], errors[1::2]
    assert len(before) == 3
    assert sum(one > other for one, other in zip(before, after, strict=True)) >= (1 if bits == 8 else 2)
    # What is in the end in the last layer is the better of both, measured from outside.
    with torch.no_grad():
        left = (quantized(images[:48]) - small(images[:48])).double().square().sum()
    assert float(left) == pytest.approx(min(before[-1], after[-1]), rel=1e-4)


def weights(quantized: QuantizedModel) -> list[tuple[str, Tensor, Tensor, int]]:
    """Of every layer: its name, its weights in multiples of their scale, the scales, the largest integer."""
    modules = dict(quantized.prepared.named_modules(remove_duplicate=False))
    found = []
    for node in quantized.prepared.graph.nodes:
        point = modules.get(str(node.target))
        if isinstance(point, PerChannelWeightFakeQuantize):
            name = str(node.all_input_nodes[0].target)
            weight = quantized.prepared.get_parameter(name).detach()
            scale = point.calculate_qparams()[0].view(-1, *[1] * (weight.ndim - 1))
            found.append((name, weight / scale, scale, point.quant_max))
    return found


@pytest.mark.parametrize("start", ["nearest", "gptq"])
@pytest.mark.parametrize("method", ["adaround", "brecq"])
def test_weights_become_integers_which_are_exported(method: str, start: str, small: nn.Module, images: Tensor):
    scheme = Scheme(weight_bits=3, rounding=method, rounding_start=start, iterations=20)  # type: ignore[arg-type]
    quantized = quantize(small, images[:48], scheme, seed=1)
    for name, steps, scale, bound in weights(quantized):
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        assert steps.abs().max() <= bound + 1e-4
        if start == "nearest":  # up or down, no further
            wanted = (small.get_parameter(name).detach() / scale).clamp(-bound, bound)
            assert (steps - wanted).abs().max() < 1 + 1e-4
    with torch.no_grad():
        expected = quantized(images)
        assert torch.equal(quantized.reference()(images), expected)
        assert torch.equal(restore(small, images[:2], scheme, quantized.state_dict())(images), expected)
        assert torch.equal(quantize(small, images[:48], scheme, seed=1)(images), expected)


def test_keeps_the_start_where_learning_made_it_worse(
    small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reconstruction, "WAY", 1e6)
    monkeypatch.setattr(reconstruction, "FASTEST", 1e6)  # one step throws every weight to one side
    learned = Scheme(weight_bits=4, rounding="adaround", iterations=1)
    found, start = (
        quantize(small, images[:48], scheme) for scheme in (learned, Scheme(weight_bits=4, rounding="gptq"))
    )
    with torch.no_grad():
        torch.testing.assert_close(found(images), start(images))


class Twice(nn.Module):
    """One layer that is used twice, and a sum in place that changes what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(144, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x += torch.relu(self.conv(x))
        return self.classifier(x.flatten(1))


@pytest.mark.parametrize("method", ["adaround", "brecq"])
def test_a_weight_that_is_used_twice_is_rounded_once(method: str, images: Tensor):
    torch.manual_seed(0)
    network = Twice().eval()
    scheme = Scheme(weight_bits=4, rounding=method, rounding_start="nearest", iterations=30)  # type: ignore[arg-type]
    quantized = quantize(network, images[:48], scheme)
    with torch.no_grad():
        assert torch.equal(quantized.reference()(images), quantized(images))
    for _, steps, _, _ in weights(quantized):
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)


def test_the_watch_sees_every_step(small: nn.Module, images: Tensor):
    seen: list[tuple[int, int, str]] = []

    class Counting(Silent):
        def step(self, done: int, total: int, values: Mapping[str, float | str]) -> None:
            seen.append((done, total, str(values["layers"])))

    quantize(small, images[:8], Scheme(rounding="adaround", iterations=2), watch=Counting())
    names = ["conv", "depthwise", "classifier"]
    assert seen == [(2 * number + step, 6, names[number]) for number in range(3) for step in (1, 2)]


def test_refuses_to_learn_in_no_steps(small: nn.Module, images: Tensor):
    with pytest.raises(UserError, match="iterations = 0"):
        quantize(small, images[:8], Scheme(rounding="brecq", iterations=0))


def test_says_what_it_did():
    assert str(Scheme(rounding="brecq")) == "static W8A8, mse, closed-form rounding, BRECQ with QDrop in 300 steps"
    paper = Scheme(weight_bits=4, rounding="adaround", rounding_start="nearest", iterations=10000, correct_biases=True)
    assert str(paper) == "static W4A8, mse, biases corrected, AdaRound in 10000 steps"


def test_the_regularizer_sets_in_behind_a_fifth_and_grows_steeper(
    small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
):
    """BRECQ, section 4.1: beta falls from 20 to 2 over the last 80 % of the steps."""
    seen: list[float] = []
    whole = SoftRounding.undecided
    monkeypatch.setattr(SoftRounding, "undecided", lambda self, beta: (seen.append(beta), whole(self, beta))[1])
    quantize(small, images[:16], Scheme(rounding="adaround", iterations=10))
    each = [20 - 18 * step / 8 for step in range(8)]  # of ten steps the first two are without
    assert seen == pytest.approx(each * (len(seen) // 8))
