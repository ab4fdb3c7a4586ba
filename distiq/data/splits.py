"""Labelled samples as tensors, and their four disjoint splits."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from distiq.data.audio import Audio
from distiq.data.preprocessing import Preprocessing, of_tensors
from distiq.data.samples import UNLABELLED, InMemory, Samples, Split, in_memory, name_of
from distiq.data.text import Text, Words
from distiq.errors import UserError
from distiq.records.data import DataRecord, measure
from distiq.records.record import NOUNS, Modality


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


STANDARD = Target()
DIGESTED = 4096  # samples that are read at a time for the digest


@dataclass(frozen=True)
class Data:
    """The splits of one task. Only measurement touches `test`; `validation` steers; `calibration` sets ranges.

    Args:
        preprocessing: how raw samples become what the network sees.
        target: of numbers in place of classes, the unit of the labels.
        notes: sentences about what was changed, missing, unknown or cut in the raw samples.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    calibration: Split
    test: Split
    preprocessing: Preprocessing
    target: Target = STANDARD
    notes: tuple[str, ...] = ()

    @property
    def modality(self) -> Modality:
        return self.preprocessing.modality

    @property
    def noun(self) -> str:
        """What several samples are called."""
        return NOUNS[self.modality]

    @property
    def multi_label(self) -> bool:
        """Whether a sample has any number of labels, in place of one class."""
        return self.train.labels.ndim == 2

    @property
    def regression(self) -> bool:
        """Whether a sample has a number, in place of classes; the one "class" is its name."""
        return self.train.labels.is_floating_point()

    @property
    def measure(self) -> str:
        """What the quality of a model on these samples is called."""
        return measure(self.multi_label, self.regression)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.train.samples.shape

    @property
    def example(self) -> Tensor:
        """(1, ...) zeros of the form that the network sees."""
        return torch.zeros(1, *self.sample_shape, dtype=self.preprocessing.input_dtype)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Raw samples (B, ...) -> what the network sees, (B, ...)."""
        return self.preprocessing.normalize(inputs)

    @cached_property
    def words(self) -> Words | None:
        """Of texts: what their views need to know."""
        return self.preprocessing.words(self.train.inputs) if isinstance(self.preprocessing, Text) else None

    def used_tokens(self) -> tuple[int, tuple[int, ...]]:
        """Of texts: see `Text.used_tokens`, of all but the test split."""
        assert isinstance(self.preprocessing, Text)
        return self.preprocessing.used_tokens(part.inputs for part in (self.train, self.validation, self.calibration))

    def record(self) -> DataRecord:
        return DataRecord(
            source=self.source,
            modality=self.modality,
            classes=self.classes,
            multi_label=self.multi_label,
            regression=self.regression,
            train=len(self.train),
            validation=len(self.validation),
            calibration=len(self.calibration),
            test=len(self.test),
            sample_shape=self.sample_shape,
            **self.preprocessing.facts(),
            notes=self.notes,
            digest=self.digest(),
        )

    def digest(self) -> str:
        """SHA-256 over classes, preprocessing, unit, and form, inputs and labels of every split, in order."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        facts = {"classes": self.classes, "preprocessing": self.preprocessing.to_json(), "target": self.target}
        sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for split in (self.train, self.validation, self.calibration, self.test):
            for tensor in (*split.chunks(DIGESTED), split.labels):
                sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
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
    preprocessing: Preprocessing,
) -> Data:
    """Checks the samples, then holds out `validation` and `calibration` of the training samples at random.

    What the preprocessing has to learn, such as a mean, is that of the samples that are left to train on.

    Labels that are numbers are brought to zero mean and unit variance of those that are trained on; see `Target`.

    Raises:
        UserError: too few samples, a single class, labels out of range, values that are not finite.
    """
    check(train, preprocessing, classes, f"{source}: training set")
    check(test, preprocessing, classes, f"{source}: test set")
    noun = NOUNS[preprocessing.modality]
    if not _alike(train.samples, test.samples):
        raise UserError(
            f"{source}: training {noun} are {_describe(train.samples)}, test {noun} are {_describe(test.samples)};"
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
    preprocessing = preprocessing.fitted(train_part.inputs)
    data = Data(source, tuple(classes), train_part, validation_part, calibration_part, test, preprocessing)
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
        target=Target(float(mean), float(std)),
    )


def with_unlabelled(data: Data, inputs: Tensor) -> Data:
    """The data with more training inputs (N, ...) whose labels nobody knows; a teacher answers for them.

    Raises:
        UserError: they are of another shape or type, or not finite.
    """
    own, more = data.train.samples, InMemory(inputs)
    if not _alike(own, more):
        raise UserError(
            f"unlabelled {data.noun} are {_describe(more)}, training {data.noun} are {_describe(own)}; make them alike"
        )
    shape = (len(inputs), *data.train.labels.shape[1:])
    labels = torch.full(shape, math.nan if data.regression else UNLABELLED, dtype=data.train.labels.dtype)
    train = in_memory(torch.cat([data.train.inputs, inputs]), torch.cat([data.train.labels, labels]))
    joined = replace(data, train=train, preprocessing=data.preprocessing.fitted(train.inputs))
    check_data(joined)
    return joined


def check_data(data: Data) -> None:
    """Raises UserError unless every split can be used; `Data` can be made by hand, past the checks of `split`."""
    if isinstance(data.preprocessing, Audio) and data.preprocessing.rate <= 0:
        raise UserError(f"{data.source}: clips without a rate; say how many samples a second has (rate = 16000)")
    for part in ("train", "validation", "calibration", "test"):
        samples = getattr(data, part)
        if len(samples) == 0:
            raise UserError(f"{data.source}: the {part} split is empty; a run needs all four, give it some {data.noun}")
        varied, lowest = part in ("train", "test"), UNLABELLED if part == "train" else 0
        check(samples, data.preprocessing, data.classes, f"{data.source}: {part} split", varied, lowest)


def check(
    split: Split,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    where: str,
    varied: bool = True,
    lowest: int = 0,
) -> None:
    """Raises UserError, saying where, if these samples cannot be learned from or measured on.

    Args:
        varied: at least two classes must occur.
        lowest: the smallest label that is allowed, 0 or `UNLABELLED`.
    """
    samples, labels, noun = split.samples, split.labels, NOUNS[preprocessing.modality]
    if not preprocessing.fits(samples):
        raise UserError(f"{where}: {noun} are {_describe(samples)}; give {preprocessing.form}")
    if len(labels) != len(samples) or labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (len(classes),)):
        raise UserError(
            f"{where}: {len(samples)} {noun} but labels of shape {tuple(labels.shape)}; give one label each, or of"
            f" several labels a 0 or 1 for each of the {len(classes)}"
        )
    if labels.dtype == torch.float32 and len(classes) == 1 and isinstance(preprocessing, Text) and labels.ndim == 1:
        return _check_numbers(labels, classes[0], where, varied, lowest)
    if labels.dtype != torch.int64:
        raise UserError(
            f"{where}: labels are {name_of(labels.dtype)}; give whole numbers as int64 (labels.long()); of texts also a"
            " float32 number each, with one name in place of the classes"
        )
    if len(samples) == 0:
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
    if samples.dtype.is_floating_point:
        finite = torch.cat([torch.isfinite(chunk).flatten(1).all(1) for chunk in split.chunks(DIGESTED)])
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


def from_tensors(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: Sequence[str] | None = None,
    validation: int = 500,
    calibration: int = 256,
    seed: int = 0,
    normalized: bool = False,
    modality: Modality = "image",
    rate: int = 0,
) -> Data:
    """Data from tensors: (inputs, labels) for training and for test.

    Args:
        classes: their names; by default the numbers that occur in the training labels, which are (N,) classes or
            (N, classes) of 0 and 1. Of texts the labels may be (N,) float32 numbers, with one name here.
        normalized: the inputs are ready for the network; no mean is taken away.
        modality: "image" (N, C, H, W), "audio" (N, T) waveforms, "text" (N, L) token numbers, "table" (N, F).
        rate: of audio, samples per second.

    Raises:
        UserError: as `split`.
    """
    labels = train[1]
    several = labels.ndim == 2 and labels.shape[1] > 1
    counts = len(labels) > 0 and not labels.is_floating_point()
    count = labels.shape[1] if several else int(labels.max()) + 1 if counts else 0
    names = tuple(classes) if classes is not None else tuple(str(number) for number in range(count))
    preprocessing = of_tensors(modality, train[0], normalized, rate)
    return split("tensors", names, in_memory(*train), in_memory(*test), validation, calibration, seed, preprocessing)


def collect(loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All batches of a DataLoader as two tensors in memory; what a loader draws at random is frozen by this."""
    inputs, labels = zip(*loader, strict=True)
    return torch.cat(inputs), torch.cat(labels).long()


def _alike(one: Samples, other: Samples) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _describe(samples: Samples) -> str:
    return f"{name_of(samples.dtype)} {(len(samples), *samples.shape)}"
