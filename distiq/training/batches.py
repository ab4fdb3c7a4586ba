"""The training split in batches: order, views and shares of processes are pure functions of (seed, epoch, step)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.labels import is_labelled
from distiq.data.sentences import EMBEDDING
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.data.views import Views
from distiq.training.distributed import gathered


class Batch(NamedTuple):
    """Training samples as the network sees them.

    inputs: (B, ...), normalized. labels: (B,) or (B, classes), see `Split`. indices: (B,) positions in the training
    split. view: the number of the view that `inputs` show. partners, shares: (B,), a mixed image's other label and the
    share of its own one; None where views do not mix. mask: for texts (B, L), ones at tokens, zeros at padding.
    whole: where several processes train, the size of their common batch, of which this is a share.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor
    view: int
    partners: Tensor | None = None
    shares: Tensor | None = None
    mask: Tensor | None = None
    whole: int | None = None

    def to(self, device: torch.device, layout: torch.memory_format = torch.contiguous_format) -> "Batch":
        """The same batch on a device; indices stay where they are, since they index data in main memory."""
        inputs = self.inputs.to(device, memory_format=layout if self.inputs.ndim == 4 else torch.preserve_format)
        moved = (
            None if value is None else value.to(device)
            for value in (self.labels, self.partners, self.shares, self.mask)
        )
        labels, partners, shares, mask = moved
        return Batch(inputs, labels, self.indices, self.view, partners, shares, mask, self.whole)  # type: ignore[arg-type]

    def gathered(self) -> "Batch":
        """The common batch of all processes, except that the inputs stay those of this process."""
        labels, indices, partners, shares, mask = (
            None if value is None else gathered(value, self.whole)
            for value in (self.labels, self.indices.to(self.labels.device), self.partners, self.shares, self.mask)
        )
        return Batch(self.inputs, labels, indices, self.view, partners, shares, mask)  # type: ignore[arg-type]


POOL = 32  # batches whose texts are sorted by length together


@dataclass(frozen=True)
class Batches:
    """The training split in batches: a new order every epoch, the last incomplete batch left out.

    With several processes each takes its share of every batch.

    Args:
        labelled: only samples that have a label: an epoch repeats them, each time in a new order and another view,
            until it is as long as with all samples.
    """

    data: Data
    views: Views
    batch_size: int
    seed: int
    labelled: bool = False

    def __len__(self) -> int:
        return max(1, len(self.data.train) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0, process: int = 0, processes: int = 1) -> Iterator[Batch]:
        """The batches of an epoch (from 0), beginning with batch `start`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order, size = self._order(generator)
        rounds = -(-len(order) // size)
        text = self.data.preprocessing
        if isinstance(text, Text) and self.data.task != EMBEDDING:  # vectors learn from texts of unlike length
            order = by_length(order, text.lengths(self.data.train.inputs), self.batch_size, generator)
        for step in range(start, len(self)):
            number = self.views.number(epoch * rounds + step * self.batch_size // size)
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            whole, own = len(indices), slice(process, None, processes)
            if isinstance(text, Text):  # as long as the longest of the common batch
                inputs = text.trimmed(self.batch(number, indices).inputs)[own]
                batch = self.batch(number, indices[own])._replace(inputs=inputs, mask=text.attention_mask(inputs))
            else:
                batch = self.batch(number, indices[own])
            yield batch._replace(whole=whole if processes > 1 else None)

    def _order(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """The samples of an epoch, and how many of them come before the first is repeated."""
        labels = self.data.train.labels
        own = is_labelled(labels).nonzero().flatten() if self.labelled else torch.arange(len(labels))
        if len(own) == len(labels):
            return torch.randperm(len(labels), generator=generator), len(labels)
        rounds = -(-len(labels) // len(own))
        parts = [own[torch.randperm(len(own), generator=generator)] for _ in range(rounds)]
        return torch.cat(parts)[: len(labels)], len(own)

    def batch(self, number: int, indices: Tensor) -> Batch:
        """View `number` of the given training samples (B,), normalized."""
        preprocessing = self.data.preprocessing
        shown = self.views.shown(self.data.train, preprocessing, number, indices, self.data.words)
        inputs = preprocessing.normalize(shown.inputs)
        mask = preprocessing.attention_mask(inputs) if isinstance(preprocessing, Text) else None
        return Batch(inputs, shown.labels, indices, number, shown.partners, shown.shares, mask)


def by_length(order: Tensor, lengths: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """The order with texts of like length in one batch, so that little is padding; batches come in random order.

    Lengths (N,) are in tokens. Texts are sorted within pools of `POOL` batches; an incomplete batch stays at the end.
    """
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in order.split(POOL * batch_size)]
    batches = list(torch.cat(pools).split(batch_size))
    whole = [batch for batch in batches if len(batch) == batch_size]
    shuffled = torch.randperm(len(whole), generator=generator).tolist()
    rest = batches[len(whole) :]
    return torch.cat([*(whole[number] for number in shuffled), *rest])
