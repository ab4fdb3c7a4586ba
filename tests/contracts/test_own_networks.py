"""Networks as people write them, in four runtimes: each file answers as its graph, or is refused when it is written.

Several inputs and outputs, dicts and tuples, changes in place, sides of unlike length, one and three dimensions.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.signature import Tensors, call, each, tensors_of
from distiq.numerics import sqnr_db
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, require, runtime_named

pytestmark = pytest.mark.slow
RUNTIMES = ("onnxruntime", "openvino", "litert", "executorch")
COUNT = 32


def stem(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())


class Scored(NamedTuple):
    score: Tensor
    embedding: Tensor


class Network(nn.Module):
    """A stem and a head; what is between, and what is taken and given, is each case's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = stem(), stem(1)
        self.layer, self.table = nn.Conv2d(8, 8, (1, 5), (1, 2), (0, 2)), nn.Embedding(50, 8)
        self.head, self.wide, self.map = nn.Linear(8, 4), nn.Linear(16, 4), nn.Conv2d(8, 4, 1)


class TwoInputs(Network):
    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        color, distance = self.stem(rgb), self.depth(depth)
        return self.wide(torch.cat([color, distance], 1).mean((2, 3))), self.map(color + distance)


class Nested(Network):
    def forward(self, x: Tensor) -> dict[str, object]:
        x = self.stem(x).mean((2, 3))
        box = self.head(x)
        return {"class": self.head(x), "box": {"corner": box[:, :2], "size": box[:, 2:].exp()}, "aux": None}


class Output(Network):
    """As an output of transformers: an ordered dict without the loss."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> OrderedDict[str, object]:
        assert labels is None
        return OrderedDict(loss=None, logits=self.head(self.stem(pixel_values).mean((2, 3))))


class Named(Network):
    def forward(self, x: Tensor) -> Scored:
        embedding = self.stem(x).mean((2, 3))
        return Scored(self.head(embedding), F.normalize(embedding))


class Lists(Network):
    def forward(self, x: Tensor) -> list[object]:
        x = self.stem(x)
        return [self.map(x), (self.map(x + 1), None)]


class InPlace(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.layer(x)
        y += x[:, :, :, ::2]
        y.relu_()
        y[:, :2] = 0
        y[:, 2:4].mul_(2.0)
        return self.head(y.clamp_(max=6).mean((2, 3)))


class State(Network):
    """A counter that a call writes; files have no state, and the answer does not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.stem(x).mean((2, 3)))


class Numbers(Network):
    """Outputs of other types beside the floats."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.stem(x).mean((2, 3)))
        return {"logits": logits, "label": logits.argmax(1), "sure": logits.amax(1) > 0}


class ImageAndTokens(Network):
    def forward(self, image: Tensor, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = (tokens != 0 if attention_mask is None else attention_mask).unsqueeze(2).float()
        words = (self.table(tokens) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.wide(torch.cat([self.stem(image).mean((2, 3)), words], 1))


class KeywordOnly(Network):
    def forward(self, *, image: Tensor, scale: Tensor | None = None, **_rest: Tensor) -> Tensor:
        x = self.stem(image).mean((2, 3))
        return self.head(x if scale is None else x * scale)


class Uneven(Network):
    """Pooling to sizes that do not divide, parts that are turned, moved and enlarged."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.stack([left, right], 2).flatten(1, 2)
        x = F.interpolate(torch.roll(x, 1, 3) + x.flip(2), scale_factor=2, mode="bilinear")
        return self.head(F.adaptive_avg_pool2d(self.layer(x), (3, 5)).amax((2, 3)))


class ClassToken(Network):
    """A token beside patches, and far beyond their range."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.norm = nn.Parameter(torch.linspace(-40, 40, 8).view(1, 1, 8)), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.stem(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], 1))
        return self.head(x[:, 0] + x.mean(1))


class Bytes(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x.float() / 255).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.states, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(x)[0][:, -1])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(6, 16), layer, nn.Flatten(), nn.Linear(16 * 12, 4))


def one_dimension() -> nn.Module:
    separable = nn.Conv1d(8, 8, 3, padding=4, dilation=4, groups=8), nn.Conv1d(8, 8, 1), nn.GELU()
    layers = nn.Conv1d(2, 8, 7, 2, 3), nn.BatchNorm1d(8), nn.ReLU(), *separable, nn.MaxPool1d(2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))


def three_dimensions() -> nn.Module:
    layers = nn.Conv3d(2, 8, 3, 2, 1, bias=False), nn.BatchNorm3d(8), nn.ReLU(inplace=True), nn.MaxPool3d(2)
    return nn.Sequential(*layers, nn.Conv3d(8, 8, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4))


def drawn(*shape: int) -> Tensor:
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(len(shape)))


IMAGE, TOKENS = drawn(3, 24, 40), torch.arange(COUNT * 9).view(COUNT, 9).remainder(49) + 1
CASES: dict[str, tuple[Callable[[], nn.Module], Tensors]] = {
    "two inputs": (TwoInputs, {"depth": drawn(1, 24, 40), "rgb": IMAGE}),
    "nested": (Nested, IMAGE),
    "output": (Output, {"pixel_values": IMAGE}),
    "named": (Named, IMAGE),
    "lists": (Lists, IMAGE),
    "in place": (InPlace, IMAGE),
    "state": (State, IMAGE),
    "numbers": (Numbers, IMAGE),
    "tokens": (ImageAndTokens, {"tokens": TOKENS, "image": IMAGE}),
    "mask": (ImageAndTokens, {"tokens": TOKENS, "image": IMAGE, "attention_mask": TOKENS.remainder(2)}),
    "keywords": (KeywordOnly, {"image": IMAGE, "scale": drawn(1)}),
    "uneven": (Uneven, IMAGE),
    "class token": (ClassToken, IMAGE),
    "bytes": (
        Bytes,
        torch.arange(COUNT * 960).view(COUNT, 1, 24, 40).remainder(251).to(torch.uint8).repeat(1, 3, 1, 1),
    ),
    "lstm": (lambda: Recurrent(nn.LSTM), drawn(12, 6)),
    "gru": (lambda: Recurrent(nn.GRU), drawn(12, 6)),
    "encoder": (encoder, drawn(12, 6)),
    "1-D": (one_dimension, drawn(2, 40)),
    "3-D": (three_dimensions, drawn(2, 8, 12, 16)),
}
REFUSED = {
    ("executorch", "gru"): "ExecuTorch cannot run this file",
    ("executorch", "3-D"): "ExecuTorch cannot run this file",
}
"""By the runtime's own limits, in a sentence, when the int8 file is written."""


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_network_is_answered_by_its_files_or_refused(runtime: str, case: str, tmp_path: Path):
    try:
        require(runtime_named(runtime), to_write=True)
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    make, inputs = CASES[case]
    model, path = make().eval(), tmp_path / f"model{runtime_named(runtime).suffix}"
    quantized = quantize(model, inputs, Scheme())
    agree(call(model, inputs), call(quantized, inputs), 28)
    few = each(lambda one: one[:2], inputs)
    if (runtime, case) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[runtime, case]):
            export(quantized, path, few)
        assert list(tmp_path.iterdir()) == []
        return
    agree(call(quantized, inputs), load(export(quantized, path, few))(inputs), 60)
    assert differences(quantized, path) == ""
    agree(call(model, inputs), load(export(model, path, few))(inputs), 90)


def agree(expected: Tensors, found: Tensors, least_db: float) -> None:
    """The same names, shapes and, but for rounding, values; what is no float may differ in one row."""
    assert isinstance(expected, Tensor) or list(expected) == list(found)
    for one, other in zip(tensors_of(expected), tensors_of(found), strict=True):
        assert one.shape == other.shape
        if one.is_floating_point():
            assert sqnr_db(one, other) > least_db
        else:
            assert (one == other).sum() >= COUNT - 1


class Own(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["image"].mean((1, 2, 3))


class OwnOutput(nn.Module):
    def forward(self, x: Tensor) -> Network:
        return Network()


class Chosen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x[:, 0, 0, 0] > 0]


@pytest.mark.parametrize(
    ("network", "inputs", "said"),
    [
        (Own, {"image": IMAGE}, "the network takes batch; it has no input called image"),
        (OwnOutput, IMAGE, "the network returns Network; distiq reads tensors, and tuples and dicts of them"),
        (Chosen, IMAGE, "every output needs a row for each sample"),
    ],
)
def test_what_no_file_can_hold_is_refused_before_anything_is_quantized(network, inputs: Tensors, said: str):
    with pytest.raises(UserError, match=said):
        quantize(network().eval(), inputs)
