"""Which training samples are held out: drawn in every class alike, or in whole groups; and samples that repeat."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.labels import (
    BOXES,
    LABEL_SET,
    MASK,
    SYMBOLS,
    TAGS,
    UNLABELLED,
    classes_in,
    form_of,
    likeliest,
)
from distiq.data.samples import Split
from distiq.errors import UserError

DRAWS = 100  # of groups, until every class is left among those that are trained on
SHOWN = 3  # samples named in a note


class Parts(NamedTuple):
    """Positions in the training set, ascending: what is trained on, what steers, what ranges are read from."""

    train: Tensor
    validation: Tensor
    calibration: Tensor


def hold_out(labels: Tensor, validation: int, calibration: int, seed: int) -> Parts:
    """Holds out so many samples, of every class (of numbers: of every size) the same share, drawn at random.

    Of a tag or label that no other training sample would have, the first one stays: rare ones are common.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[_strata(labels)[order].argsort(stable=True)]  # sorted by class, at random within
    is_held = _evenly(len(order), validation + calibration)
    if form_of(labels) in (TAGS, LABEL_SET):
        is_held &= ~_alone_with_a_label(labels[order], is_held)
    held = order[is_held]
    is_calibration = _evenly(len(held), calibration)
    parts = order[~is_held], held[~is_calibration], held[is_calibration]
    return Parts(*(part.sort().values for part in parts))


def _alone_with_a_label(labels: Tensor, is_held: Tensor) -> Tensor:
    """(N,) bool: of each tag or label that held samples alone have, the first one."""
    first = torch.zeros(len(labels), dtype=torch.bool)
    for lost in lost_classes(labels, labels[~is_held]):
        has = (labels == lost).any(1) if form_of(labels) is TAGS else labels[:, lost] == 1
        first[int(has.nonzero()[0])] = True
    return first


def hold_out_groups(
    labels: Tensor, groups: Sequence[str], validation: int, calibration: int, seed: int, where: str
) -> Parts:
    """Holds out whole groups, such as all that one speaker says, at least so many samples; no group is split.

    Args:
        groups: of each sample; one without a name is a group of its own.

    Raises:
        UserError: there are too few groups, or none can go without taking a class along.
    """
    named = [name or f"\0{number}" for number, name in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(named))}
    group = torch.tensor([numbers[name] for name in named])
    sizes, sides = group.bincount(), [count for count in (validation, calibration) if count]
    if len(sizes) <= len(sides):
        raise UserError(
            f"{where}: {len(sizes)} groups cannot give validation and calibration some of their own and leave any to"
            " train on; give it more, or name no group"
        )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(DRAWS):
        drawn = _drawn_groups(sizes, (validation, calibration), generator)
        parts = [torch.isin(group, torch.tensor(part)).nonzero().flatten() for part in drawn]
        if len(parts[0]) and not lost_classes(labels, labels[parts[0]]):
            return Parts(*parts)
    raise UserError(
        f"{where}: no {validation} samples for validation and {calibration} for calibration can be held out in whole"
        " groups without taking a class from training; lower data.validation and data.calibration, or name no group"
    )


def _drawn_groups(sizes: Tensor, counts: tuple[int, int], generator: torch.Generator) -> list[list[int]]:
    """Groups to train on, and those that are held out for each of the two."""
    left = torch.randperm(len(sizes), generator=generator).tolist()
    held: list[list[int]] = []
    for count in counts:
        part: list[int] = []
        while left and int(sizes[part].sum()) < count:
            part.append(left.pop())
        held.append(part)
    return [left, *held]


def spread_over_labels(labels: Tensor, count: int) -> Tensor:
    """So many positions, ascending, of every class (of numbers: of every size) the same share."""
    order = _strata(labels).argsort(stable=True)
    return order[_evenly(len(order), count)].sort().values


def lost_classes(labels: Tensor, left: Tensor) -> tuple[int, ...]:
    """The classes of `labels` of which no sample is `left`; empty of numbers."""
    return tuple(sorted(classes_in(labels) - classes_in(left)))


def _strata(labels: Tensor) -> Tensor:
    """A number for each sample: those of one class, of one set of labels or tags, of texts of one length, have the
    same; all that show several."""
    if form_of(labels) in (MASK, BOXES):
        return torch.zeros(len(labels), dtype=torch.int64)
    if form_of(labels) is TAGS:
        labels = torch.stack([(labels == tag).any(1) for tag in range(int(labels.max()) + 1)], 1)
        return labels.unique(dim=0, return_inverse=True)[1]
    if form_of(labels) is SYMBOLS:
        return (labels != UNLABELLED).sum(1)
    return labels.unique(dim=0, return_inverse=True)[1] if form_of(labels) is LABEL_SET else likeliest(labels)


def _evenly(count: int, most: int) -> Tensor:
    """(count,) bool: `most` of them, as far apart as can be."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[(2 * torch.arange(most) + 1) * count // max(1, 2 * most)] = True
    return chosen


# Samples that repeat --------------------------------------------------------------------------------------------------


def repeated(split: Split, train: Split, part: str, noun: str, names: Sequence[Sequence[str]] = ((), ())) -> str:
    """A sentence about samples of a split that are training samples, too, to the last bit; empty where there is none.

    Args:
        part: what the split is called. names: of its samples and of the training samples; empty where they have none.
    """
    seen: dict[bytes, int] = {}
    for number, sample in enumerate(_hashes(train)):
        seen.setdefault(sample, number)
    pairs = [(number, seen[sample]) for number, sample in enumerate(_hashes(split)) if sample in seen]
    if not pairs:
        return ""
    own, other = (names[0] or range(len(split)), names[1] or range(len(train)))
    only_own = names[0] and not names[1]
    shown = ", ".join(f"{own[one]}" if only_own else f"{own[one]} is {other[two]}" for one, two in pairs[:SHOWN])
    more = ", ..." if len(pairs) > SHOWN else ""
    return (
        f"{len(pairs):,} of {len(split):,} {part} {noun} are training {noun}, too ({shown}{more}): what is measured on"
        " them says nothing of new ones"
    )


def _hashes(split: Split) -> Iterator[bytes]:
    return (row.tobytes() for row in split.samples.hashes().numpy())
