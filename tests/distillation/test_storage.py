"""What is stored comes back: exactly to the rounding, in the bytes that are promised."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.distillation.storage import decode, encode
from distiq.recipe.distil import CacheSettings

QUANTIZED = CacheSettings(storage="quantized")


def logits_like(classes: int, scale: float, samples: int = 4000) -> Tensor:
    """Outputs of a trained network: one class stands out by more in some samples than in others."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(samples, classes, generator=generator)
    logits[:, 0] += 3 * scale * torch.rand(samples, generator=generator)
    return logits


def divergence(exact: Tensor, decoded: Tensor) -> Tensor:
    """KL(decoded, exact) of each sample in nat."""
    return F.kl_div(exact.log_softmax(1), decoded.log_softmax(1), reduction="none", log_target=True).sum(1)


def bytes_per_row(stored: dict[str, Tensor]) -> float:
    return sum(tensor.nbytes for tensor in stored.values()) / len(next(iter(stored.values())))


def test_float16_is_the_rounding_alone():
    logits = logits_like(10, 3.0)
    assert torch.equal(decode(encode(logits, CacheSettings()), 10), logits.half().float())
    assert bytes_per_row(encode(logits, CacheSettings())) == 20


@pytest.mark.parametrize("largest", [65504.0, -65504.0, 65536.0, -1e30])
def test_logits_beyond_float16_stay_float32(largest: float):
    logits = torch.tensor([[1.0, largest], [0.5, 2.0]])
    stored = encode(logits, CacheSettings())
    assert torch.equal(decode(stored, 2), logits)
    assert bytes_per_row(stored) == (4 if abs(largest) < 65505 else 8)


def test_top_k_of_logits_far_apart_holds_no_infinity():
    decoded = decode(encode(torch.tensor([[0.0, -1e6, 3.0]]), CacheSettings(storage="top_k", top_k=3)), 3)
    assert torch.isfinite(decoded).all()
    torch.testing.assert_close(decoded.softmax(1), torch.tensor([[0.0, -1e6, 3.0]]).softmax(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 8.0])
def test_quantized_ten_classes_take_eight_bytes_and_lose_little(scale: float):
    logits = logits_like(10, scale)
    stored = encode(logits, QUANTIZED)
    assert bytes_per_row(stored) == 8
    assert divergence(logits, decode(stored, 10)).mean() <= 1e-3


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_quantized_codes_are_the_nearest_of_64_levels(classes: int):
    logits = logits_like(classes, 2.0, 300)
    decoded = decode(encode(logits, QUANTIZED), classes)
    below = logits.max(1, keepdim=True).values - logits
    # A range is at most 2^0.4 times what it has to hold; half a level is the largest error.
    allowed = 0.5 * below.max(1, keepdim=True).values.clamp(min=2**-0.4) * 2**0.4 / 63 + 1e-5
    assert ((-decoded - below).abs() <= allowed).all()
    assert bytes_per_row(encode(logits, QUANTIZED)) == (6 * classes + 4 + 7) // 8


def test_quantized_answers_beyond_the_widest_range_are_cut():
    decoded = decode(encode(torch.tensor([[0.0, -200.0, -5.0]]), QUANTIZED), 3)
    torch.testing.assert_close(decoded, torch.tensor([[0.0, -64.0, -5.0]]), atol=0.51 * 64 / 63, rtol=0)


def test_top_k_keeps_the_likeliest_and_shares_the_rest():
    logits = logits_like(1000, 2.0, 50)
    settings = CacheSettings(storage="top_k", top_k=16)
    stored = encode(logits, settings)
    assert bytes_per_row(stored) == 64
    exact, decoded = logits.softmax(1), decode(stored, 1000).softmax(1)
    torch.testing.assert_close(decoded.sum(1), torch.ones(50))
    kept = exact.topk(16, 1).indices
    torch.testing.assert_close(decoded.gather(1, kept), exact.gather(1, kept), rtol=6e-3, atol=1e-6)
    rest = decoded.scatter(1, kept, 0.0)
    left = (1 - exact.gather(1, kept).sum(1)) / (1000 - 16)
    torch.testing.assert_close(rest.max(1).values, left, rtol=2e-2, atol=1e-5)


def test_top_k_of_more_classes_than_there_are_is_all():
    logits = logits_like(4, 2.0, 20)
    decoded = decode(encode(logits, CacheSettings(storage="top_k", top_k=16)), 4)
    torch.testing.assert_close(decoded, logits.log_softmax(1), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("storage", ["float16", "quantized", "top_k"])
def test_rows_decode_alone_as_they_do_together(storage: str):
    stored = encode(logits_like(7, 3.0, 9), CacheSettings(storage=storage, top_k=3))
    some = torch.tensor([8, 0, 3])
    assert torch.equal(decode({key: value[some] for key, value in stored.items()}, 7), decode(stored, 7)[some])
