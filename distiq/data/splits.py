"""Labelled samples as tensors, and their four disjoint splits."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.records.data import DataRecord, measure
from distiq.records.record import NOUNS, Kind

UNLABELLED = -1
FORMS: dict[Kind, tuple[int, tuple[torch.dtype, ...], str]] = {
    "image": (4, (torch.uint8, torch.float32), "(N, C, H, W) as uint8 or float32"),
    "audio": (2, (torch.int16, torch.float32), "(N, T) as int16 or float32"),
    "text": (2, (torch.int64,), "(N, L) token numbers as int64"),
    "table": (2, (torch.float32,), "(N, F) as float32"),
}


@dataclass(frozen=True)
class Split:
    """Samples with labels.

    Args:
        inputs: (N, ...), of the form that `FORMS` gives for their kind.
        labels: (N,) int64, the class of each; or (N, classes) int64, where a sample has several labels: 1 at each
            that it has, 0 elsewhere; or (N,) float32, a number each, as networks answer it (see `Target`).
            `UNLABELLED`, of numbers NaN, in a training split: such a sample is learned from through a teacher alone.
    """

    inputs: Tensor
    labels: Tensor
    kind: Kind = "image"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor | slice) -> "Split":
        return Split(self.inputs[indices], self.labels[indices], self.kind)


def answers(logits: Tensor, labels: Tensor) -> Tensor:
    """What logits (N, classes) answer, in the form of the labels: the likeliest class, (N,); or, where a sample has
    several labels, 1 at each whose logit is above 0 (a probability above one half), (N, classes)."""
    return (logits > 0).long() if labels.ndim == 2 else logits.argmax(1)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which samples are answered right, (N,) bool; where one has several labels, all of them have to be."""
    same = answers(logits, labels) == labels
    return same.all(1) if labels.ndim == 2 else same


def quality(logits: Tensor, labels: Tensor) -> float:
    """How good logits (N, classes) are: the share that is right; of numbers (N, 1) the correlation with the labels."""
    if labels.is_floating_point():
        return correlation(logits[:, 0], labels)
    return int(right(logits, labels).sum()) / len(labels)


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of (N,) and (N,); 0 where one of them is constant, which has none."""
    if (one == one[0]).all() or (other == other[0]).all():
        return 0.0
    return float(torch.corrcoef(torch.stack([one, other]).double())[0, 1])


def is_known(labels: Tensor) -> Tensor:
    """Which samples have a label, (N,) bool."""
    if labels.is_floating_point():
        return ~labels.isnan()
    return (labels[:, 0] if labels.ndim == 2 else labels) != UNLABELLED


class Target(NamedTuple):
    """Of numbers in place of classes: mean and standard deviation of the training rows, in their own unit. Networks
    learn and answer the distance from the mean in standard deviations."""

    mean: float = 0.0
    std: float = 1.0


class Words(NamedTuple):
    """What a view of a text needs to know: the mask token's number, the tokens that it leaves alone, and all others
    of the training texts, each as often as it occurs, (K,)."""

    mask: int | None
    special: Tensor
    pool: Tensor


@dataclass(frozen=True)
class Data:
    """The splits of one task. Only measurement touches `test`; `validation` steers; `calibration` sets ranges.

    Args:
        mean, std: what `normalize` applies. Images: per channel, in units of the images divided by 255 where they are
            uint8. Tables: per column. Empty for clips, texts and tables that are encoded already.
        rate: of clips, samples per second; 0 for others.
        preparation: how raw samples (rows of a table, texts) became inputs, as JSON values; the bundle carries it.
        notes: sentences about what was changed, missing, unknown or cut in the raw samples.
        as_uint8: `normalize` changes nothing, for files that normalize uint8 images themselves.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    calibration: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rate: int = 0
    preparation: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    as_uint8: bool = False

    @property
    def kind(self) -> Kind:
        return self.train.kind

    @property
    def multi_label(self) -> bool:
        """Whether a sample has any number of labels, in place of one class."""
        return self.train.labels.ndim == 2

    @property
    def regression(self) -> bool:
        """Whether a sample has a number, in place of classes; the one "class" is its name."""
        return self.train.labels.is_floating_point()

    @property
    def target(self) -> Target:
        """Of numbers: the unit of the labels."""
        return Target(**self.preparation.get("target", {}))

    @property
    def measure(self) -> str:
        """What the quality of a model on these samples is called."""
        return measure(self.multi_label, self.regression)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.train.inputs.shape[1:])

    @property
    def tokens(self) -> tuple[int, int]:
        """Of texts: the size of the vocabulary and the number of the padding token."""
        if "text" in self.preparation:
            return self.preparation["text"]["vocabulary"], self.preparation["text"]["pad"]
        return 1 + max(int(part.inputs.max()) for part in (self.train, self.validation, self.calibration, self.test)), 0

    @cached_property
    def words(self) -> Words:
        """Of texts: see `Words`."""
        text = self.preparation.get("text", {})
        special = torch.tensor(sorted({self.tokens[1], *text.get("special", ())}))
        found = self.train.inputs.flatten()
        return Words(text.get("mask"), special, found[~torch.isin(found, special)])

    def used_tokens(self) -> tuple[int, tuple[int, ...]]:
        """Of texts: the number of the unknown token (of padding, where there is none), and all tokens that occur in
        the training, validation and calibration texts, ascending, with those two and the mask token."""
        vocabulary, pad = self.tokens
        unknown = self.preparation.get("text", {}).get("unknown")
        unknown = pad if unknown is None else unknown
        found = torch.zeros(vocabulary, dtype=torch.bool)
        for part in (self.train, self.validation, self.calibration):
            found[part.inputs.flatten()] = True
        mask = self.preparation.get("text", {}).get("mask")
        found[[pad, unknown, *([] if mask is None else [mask])]] = True
        return unknown, tuple(found.nonzero().flatten().tolist())

    def lengths(self, inputs: Tensor) -> Tensor:
        """Of token numbers (B, L): how many there are without the padding behind, (B,)."""
        return (inputs != self.tokens[1]).long().sum(1)

    def trimmed(self, inputs: Tensor) -> Tensor:
        """Token numbers (B, L) without what is padding in every row; others unchanged."""
        return inputs[:, : max(2, int(self.lengths(inputs).max()))] if self.kind == "text" else inputs

    def mask(self, inputs: Tensor) -> Tensor | None:
        """Of token numbers (B, L): ones at tokens, zeros at padding, (B, L) int64; None of others."""
        return (inputs != self.tokens[1]).long() if self.kind == "text" else None

    @property
    def example(self) -> Tensor:
        """(1, ...) zeros of the form that the network sees."""
        return torch.zeros(1, *self.sample_shape, dtype=torch.int64 if self.kind == "text" else torch.float32)

    def normalize(self, inputs: Tensor) -> Tensor:
        """What the network sees: images and tables of zero mean and unit variance, waveforms in -1..1, token numbers.

        Shapes: (B, ...) -> (B, ...), float32 but for token numbers and pixels.
        """
        if self.kind == "text" or self.as_uint8:
            return inputs
        scale = {torch.uint8: 255.0, torch.int16: 32768.0}.get(inputs.dtype, 1.0)
        inputs = inputs.float() / scale
        if not self.mean:
            return inputs
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        mean = torch.tensor(self.mean, device=inputs.device).view(shape)
        std = torch.tensor(self.std, device=inputs.device).view(shape)
        return (inputs - mean) / std

    def record(self) -> DataRecord:
        return DataRecord(
            source=self.source,
            kind=self.kind,
            classes=self.classes,
            multi_label=self.multi_label,
            regression=self.regression,
            train=len(self.train),
            validation=len(self.validation),
            calibration=len(self.calibration),
            test=len(self.test),
            sample_shape=self.sample_shape,
            mean=self.mean,
            std=self.std,
            rate=self.rate,
            notes=self.notes,
            digest=self.digest(),
        )

    def digest(self) -> str:
        """SHA-256 over classes, preparation, normalization, and shape, type and values of the inputs and labels of
        every split, in order."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(repr((self.kind, self.classes, self.mean, self.std, self.rate)).encode())
        if self.preparation:
            sha.update(json.dumps(self.preparation, sort_keys=True).encode())
        for split in (self.train, self.validation, self.calibration, self.test):
            for tensor in (split.inputs, split.labels):
                sha.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
                sha.update(tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()


def split(
    source: str,
    classes: Sequence[str],
    train: Split,
    test: Split,
    validation: int,
    calibration: int,
    seed: int,
) -> Data:
    """Checks the samples, then holds out `validation` and `calibration` of the training samples at random.

    Labels that are numbers are brought to zero mean and unit variance of those that are trained on; see `Target`.

    Raises:
        UserError: too few samples, a single class, labels out of range, values that are not finite.
    """
    check(train, classes, f"{source}: training set")
    check(test, classes, f"{source}: test set")
    noun = NOUNS[train.kind]
    if train.inputs.shape[1:] != test.inputs.shape[1:] or train.inputs.dtype != test.inputs.dtype:
        raise UserError(
            f"{source}: training {noun} are {_describe(train.inputs)}, test {noun} are {_describe(test.inputs)};"
            " make them alike"
        )
    left = len(train) - validation - calibration
    if left < 2:
        raise UserError(
            f"{source}: {len(train)} training {noun} cannot give {validation} for validation and {calibration} for"
            " calibration and leave any to train on; lower data.validation and data.calibration"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    parts = order.split([left, validation, calibration])
    train_part, validation_part, calibration_part = (train.take(part.sort().values) for part in parts)
    mean, std = channel_statistics(train_part.inputs) if train.kind in ("image", "table") else ((), ())
    data = Data(source, tuple(classes), train_part, validation_part, calibration_part, test, mean, std)
    return _standardized(data) if data.regression else data


def _standardized(data: Data) -> Data:
    """The data with labels (N,) of zero mean and unit variance over the training split."""
    std, mean = torch.std_mean(data.train.labels.double(), correction=0)
    if not std:
        raise UserError(f"{data.source}: all numbers that are left to train on are {float(mean):g}; give it others")

    def part(samples: Split) -> Split:
        return replace(samples, labels=((samples.labels.double() - mean) / std).float())

    return replace(
        data,
        train=part(data.train),
        validation=part(data.validation),
        calibration=part(data.calibration),
        test=part(data.test),
        preparation={"target": Target(float(mean), float(std))._asdict()},
    )


def with_unlabelled(data: Data, inputs: Tensor) -> Data:
    """The data with more training inputs (N, ...) whose labels nobody knows; a teacher answers for them.

    Raises:
        UserError: they are of another shape or type, or not finite.
    """
    own = data.train.inputs
    if inputs.shape[1:] != own.shape[1:] or inputs.dtype != own.dtype:
        noun = NOUNS[data.kind]
        raise UserError(
            f"unlabelled {noun} are {_describe(inputs)}, training {noun} are {_describe(own)}; make them alike"
        )
    shape = (len(inputs), *data.train.labels.shape[1:])
    labels = torch.full(shape, math.nan if data.regression else UNLABELLED, dtype=data.train.labels.dtype)
    more = replace(data, train=Split(torch.cat([own, inputs]), torch.cat([data.train.labels, labels]), data.kind))
    check_data(more)
    return more


def check_data(data: Data) -> None:
    """Raises UserError unless every split can be used; `Data` can be made by hand, past the checks of `split`."""
    if data.kind == "audio" and data.rate <= 0:
        raise UserError(f"{data.source}: clips without a rate; say how many samples a second has (rate = 16000)")
    for part in ("train", "validation", "calibration", "test"):
        samples = getattr(data, part)
        if len(samples) == 0:
            raise UserError(
                f"{data.source}: the {part} split is empty; a run needs all four, give it some {NOUNS[data.kind]}"
            )
        varied, lowest = part in ("train", "test"), UNLABELLED if part == "train" else 0
        check(samples, data.classes, f"{data.source}: {part} split", varied, lowest)


def check(samples: Split, classes: Sequence[str], where: str, varied: bool = True, lowest: int = 0) -> None:
    """Raises UserError, saying where, if these samples cannot be learned from or measured on.

    Args:
        varied: at least two classes must occur.
        lowest: the smallest label that is allowed, 0 or `UNLABELLED`.
    """
    inputs, labels = samples.inputs, samples.labels
    noun, (dimensions, types, form) = NOUNS[samples.kind], FORMS[samples.kind]
    if inputs.ndim != dimensions or inputs.dtype not in types:
        raise UserError(f"{where}: {noun} are {_describe(inputs)}; give {form}")
    if len(labels) != len(inputs) or labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (len(classes),)):
        raise UserError(
            f"{where}: {len(inputs)} {noun} but labels of shape {tuple(labels.shape)}; give one label each, or of"
            f" several labels a 0 or 1 for each of the {len(classes)}"
        )
    if labels.dtype == torch.float32 and len(classes) == 1 and samples.kind == "text" and labels.ndim == 1:
        return _check_numbers(labels, classes[0], where, varied, lowest)
    if labels.dtype != torch.int64:
        found = str(labels.dtype).removeprefix("torch.")
        raise UserError(
            f"{where}: labels are {found}; give whole numbers as int64 (labels.long()); of texts also a"
            " float32 number each, with one name in place of the classes"
        )
    if len(inputs) == 0:
        raise UserError(f"{where}: no {noun}")
    if len(classes) < 2:
        raise UserError(f"{where}: only one class ({', '.join(classes)}); there is nothing to tell apart")
    if labels.ndim == 2 and (int(labels.min()) < lowest or int(labels.max()) > 1):
        raise UserError(
            f"{where}: labels run from {int(labels.min())} to {int(labels.max())}; of several labels each is 0 or 1"
        )
    if int(labels.min()) < lowest or int(labels.max()) >= len(classes):
        raise UserError(
            f"{where}: labels run from {int(labels.min())} to {int(labels.max())}, but there are {len(classes)} classes"
            f" (0 to {len(classes) - 1}); correct the labels or name all classes"
        )
    if varied and len(labels.unique(dim=0)) < 2:
        if labels.ndim == 2:
            raise UserError(f"{where}: every sample has the same labels; there is nothing to tell apart")
        raise UserError(f"{where}: every sample has the label {int(labels[0])}; at least two classes are needed")
    if inputs.is_floating_point():
        finite = torch.isfinite(inputs).flatten(1).all(1)
        if not finite.all():
            first, count = int((~finite).nonzero()[0]), int((~finite).sum())
            raise UserError(
                f"{where}: {noun[:-1]} {first} holds NaN or infinite values ({count} {noun} do); remove them"
            )


def _check_numbers(labels: Tensor, name: str, where: str, varied: bool, lowest: int) -> None:
    """`check` of texts with a number each."""
    if len(labels) == 0:
        raise UserError(f"{where}: no texts")
    known = labels[is_known(labels)] if lowest == UNLABELLED else labels
    if not torch.isfinite(known).all():
        first = int((~torch.isfinite(labels)).nonzero()[0])
        raise UserError(f"{where}: the {name} of text {first} is {float(labels[first])}; give each a finite number")
    if varied and len(known.unique()) < 2:
        raise UserError(f"{where}: every {name} is the same; there is nothing to learn")


def channel_statistics(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel (dimension 1), of images scaled to 0..1 where they are uint8."""
    scale = 255.0 if inputs.dtype == torch.uint8 else 1.0
    total = torch.zeros(inputs.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    others = [dimension for dimension in range(inputs.ndim) if dimension != 1]
    for chunk in inputs.split(4096):
        values = chunk.double() / scale
        total += values.sum(others)
        squares += values.square().sum(others)
    count = inputs.numel() / inputs.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def from_tensors(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: Sequence[str] | None = None,
    validation: int = 500,
    calibration: int = 256,
    seed: int = 0,
    normalized: bool = False,
    kind: Kind = "image",
    rate: int = 0,
) -> Data:
    """Data from tensors: (inputs, labels) for training and for test.

    Args:
        classes: their names; by default the numbers that occur in the training labels, which are (N,) classes or
            (N, classes) of 0 and 1. Of texts the labels may be (N,) float32 numbers, with one name here.
        normalized: the inputs are ready for the network; no mean is taken away.
        kind: "image" (N, C, H, W), "audio" (N, T) waveforms, "text" (N, L) token numbers, "table" (N, F).
        rate: of audio, samples per second.

    Raises:
        UserError: as `split`.
    """
    labels = train[1]
    several = labels.ndim == 2 and labels.shape[1] > 1
    counts = len(labels) > 0 and not labels.is_floating_point()
    count = labels.shape[1] if several else int(labels.max()) + 1 if counts else 0
    names = tuple(classes) if classes is not None else tuple(str(number) for number in range(count))
    data = split("tensors", names, Split(*train, kind), Split(*test, kind), validation, calibration, seed)
    data, channels = replace(data, rate=rate), len(data.mean)
    return replace(data, mean=(0.0,) * channels, std=(1.0,) * channels) if normalized else data


def collect(loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All batches of a DataLoader as two tensors in memory; what a loader draws at random is frozen by this."""
    inputs, labels = zip(*loader, strict=True)
    return torch.cat(inputs), torch.cat(labels).long()


def _describe(inputs: Tensor) -> str:
    return f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)}"
