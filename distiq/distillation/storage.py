"""How a teacher's logits are stored: rows in, a few tensors of as many rows out, and back.

Logits are defined up to a shift of each row, which no loss on softened outputs sees; the two smaller forms drop it.
"""

import torch
from torch import Tensor

from distiq.recipe.distil import CacheSettings

LEVELS = 63  # six bits
LARGEST_HALF = torch.finfo(torch.float16).max
RANGES = 2.0 ** (0.4 * torch.arange(16))  # 1 to 64: how far the least likely class may lie below the likeliest


def encode(logits: Tensor, settings: CacheSettings) -> dict[str, Tensor]:
    """(N, C) float32 -> named tensors of N rows."""
    match settings.storage:
        case "float16":
            return {"logits": half_where_it_fits(logits)}
        case "quantized":
            return {"packed": _pack(*_quantized(logits))}
        case "top_k":
            logs = logits.log_softmax(1)
            best = logs.topk(min(settings.top_k, logs.shape[1]), dim=1)
            kind = torch.int16 if logs.shape[1] <= 2**15 else torch.int32
            return {"logs": best.values.clamp(min=-LARGEST_HALF).half(), "classes": best.indices.to(kind)}


def decode(stored: dict[str, Tensor], classes: int) -> Tensor:
    """Rows as `encode` made them -> (N, classes) float32 logits, equal up to each row's shift and the rounding.

    Of "top_k" the classes that were not kept share the rest of the probability evenly.
    """
    if "logits" in stored:
        return stored["logits"].float()
    if "packed" in stored:
        codes, ranges = _unpack(stored["packed"], classes)
        return -codes.float() * (RANGES[ranges.long()] / LEVELS).unsqueeze(1)
    logs, kept = stored["logs"].float(), stored["classes"].long()
    others = classes - kept.shape[1]
    rest = (1 - logs.exp().sum(1, keepdim=True)).clamp(min=1e-6) / max(1, others)
    return rest.log().expand(-1, classes).scatter(1, kept, logs)


def half_where_it_fits(values: Tensor) -> Tensor:
    """As float16, or as they are where one lies beyond its 65,504: it would become infinite."""
    return values.half() if values.numel() == 0 or float(values.abs().max()) <= LARGEST_HALF else values


def _quantized(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (N, C) in 0..63 of how far each class lies below the likeliest, and the range's number (N,) in 0..15."""
    below = logits.max(1, keepdim=True).values - logits
    ranges = torch.bucketize(below.max(1).values, RANGES).clamp(max=len(RANGES) - 1)
    codes = (below / RANGES[ranges].unsqueeze(1) * LEVELS).round().clamp(max=LEVELS)
    return codes.byte(), ranges.byte()


def _pack(codes: Tensor, ranges: Tensor) -> Tensor:
    """Six bits of each code, then four of the range, in whole bytes: (N, ceil((6 C + 4) / 8)) uint8."""
    bits = torch.cat([_bits(codes, 6).flatten(1), _bits(ranges, 4)], 1)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8))
    return (bits.unflatten(1, (-1, 8)) << torch.arange(8, dtype=torch.uint8)).sum(2).byte()


def _unpack(packed: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    bits = _bits(packed, 8).flatten(1)
    codes = (bits[:, : 6 * classes].unflatten(1, (classes, 6)) << torch.arange(6, dtype=torch.uint8)).sum(2)
    ranges = (bits[:, 6 * classes : 6 * classes + 4] << torch.arange(4, dtype=torch.uint8)).sum(1)
    return codes, ranges


def _bits(values: Tensor, count: int) -> Tensor:
    """The lowest bits of uint8 values, lowest first, in a new last dimension."""
    return (values.unsqueeze(-1) >> torch.arange(count, dtype=torch.uint8)) & 1
