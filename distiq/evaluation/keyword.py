"""A keyword against all else: how often it is missed, and how often something else is taken for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distiq.records.quality import KeywordRecord


def keyword_errors(
    logits: Tensor, labels: Tensor, classes: Sequence[str], keyword: str, allowed: float
) -> KeywordRecord | None:
    """False accepts and false rejects by threshold on the keyword's softmax probability.

    Args:
        logits: (N, classes). labels: (N,).
        allowed: the share of false accepts at which the false rejects are reported.

    Returns:
        None where the samples hold no keyword, or nothing else.
    """
    place = classes.index(keyword)
    # The log odds order samples as the probability does, without its ties near 0 and 1.
    others = torch.cat([logits[:, :place], logits[:, place + 1 :]], 1).double()
    odds = logits[:, place].double() - others.logsumexp(1)
    own = labels == place
    if own.all() or not own.any():
        return None
    odds, order = odds.sort(descending=True)
    last = torch.cat([odds[1:] != odds[:-1], torch.ones(1, dtype=torch.bool)])  # of the samples with the same odds
    start = torch.zeros(1, dtype=torch.float64)
    accepts = torch.cat([start, ((~own[order]).cumsum(0) / (~own).sum().double())[last]])
    rejects = torch.cat([start + 1, 1 - (own[order].cumsum(0) / own.sum().double())[last]])
    strict = int((accepts <= allowed).sum()) - 1
    kept = _corners(accepts, rejects)
    return KeywordRecord(
        keyword=keyword,
        samples=int(own.sum()),
        others=int((~own).sum()),
        false_accepts=tuple(accepts[kept].tolist()),
        false_rejects=tuple(rejects[kept].tolist()),
        equal_error_rate=_crossing(accepts, rejects),
        allowed_false_accepts=allowed,
        missed=float(rejects[strict]),
        threshold=float(torch.sigmoid(odds[last][strict - 1])) if strict else None,
    )


def _corners(accepts: Tensor, rejects: Tensor) -> Tensor:
    """Which points to keep: not those on a straight line between neighbours, where only one of the errors changes."""
    straight = torch.zeros(len(accepts), dtype=torch.bool)
    for errors in (accepts, rejects):
        straight[1:-1] |= (errors[1:-1] == errors[:-2]) & (errors[1:-1] == errors[2:])
    return ~straight


def _crossing(accepts: Tensor, rejects: Tensor) -> float:
    """The share at which both errors are equal, on the line through the points from rejects alone to accepts alone."""
    gap = rejects - accepts
    after = int((gap <= 0).nonzero()[0])
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(accepts[after - 1] + share * (accepts[after] - accepts[after - 1]))
