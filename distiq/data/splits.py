"""Labelled samples as tensors, and their four disjoint splits."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distiq.data.audio import Audio
from distiq.data.holdout import hold_out, hold_out_groups, lost_classes, repeated
from distiq.data.images import Images
from distiq.data.labels import (
    NUMBER,
    SHARES,
    SYMBOLS,
    UNLABELLED,
    Labels,
    Target,
    check_labels,
    form_of,
    likeliest,
    numbered_classes,
    shows,
)
from distiq.data.pack import Packed
from distiq.data.preprocessing import Preprocessing, of_tensors
from distiq.data.samples import InMemory, Joined, Loaded, Samples, Split, in_chunks, in_memory, name_of
from distiq.data.tables import Table
from distiq.data.text import Text, Words
from distiq.device.run import nfc
from distiq.errors import UserError, printable
from distiq.records.data import DataRecord
from distiq.records.record import NOUNS, Modality

STANDARD = Target()


def class_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Names of classes as records, cards and terminals can show them: without control characters.

    Raises:
        UserError: a name is not UTF-8, or two names become the same.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f'{where}: the class "{printable(name)}" is not written in UTF-8; rename it, folders by `convmv`'
            ) from error
    shown = tuple(nfc(printable(name)).strip() for name in names)
    if twice := [name for name in shown if shown.count(name) > 1]:
        raise UserError(f'{where}: two classes are called "{twice[0]}"; give each a name of its own')
    return shown


@dataclass(frozen=True)
class Data:
    """The splits of one task. Only measurement touches `test`; `validation` steers; `calibration` sets ranges.

    Args:
        preprocessing: how raw samples become what the network sees.
        target: for regression, the unit of the labels.
        notes: sentences about what was changed, missing, unknown or cut in the raw samples.
        task: what networks are trained for, as recipes name it; empty: read from the labels.
        task_code: hash of the task's code, if it is the user's.
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
    task: str = ""
    task_code: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, self.source))
        object.__setattr__(self, "notes", tuple(printable(note) for note in self.notes))

    @property
    def modality(self) -> Modality:
        return self.preprocessing.modality

    @property
    def noun(self) -> str:
        """What its samples are called, in the plural."""
        return NOUNS[self.modality]

    @property
    def labels(self) -> Labels:
        """The form of the labels."""
        size = self.sample_shape[1:] if isinstance(self.preprocessing, Images) else ()
        return Labels(form_of(self.train.labels), self.classes, self.target, size)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.train.samples.shape

    @property
    def example(self) -> Tensor:
        """(1, ...) zeros in the form of the network's input."""
        return torch.zeros(1, *self.sample_shape, dtype=self.preprocessing.input_dtype)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Raw samples (B, ...) -> what the network sees, (B, ...)."""
        return self.preprocessing.normalize(inputs)

    @cached_property
    def words(self) -> Words | None:
        """What views of texts need to know; None for other data."""
        return self.preprocessing.words(self.train.inputs) if isinstance(self.preprocessing, Text) else None

    def used_tokens(self) -> tuple[int, tuple[int, ...]]:
        """`Text.used_tokens` of all splits but the test split."""
        assert isinstance(self.preprocessing, Text)
        return self.preprocessing.used_tokens(part.inputs for part in (self.train, self.validation, self.calibration))

    def record(self) -> DataRecord:
        return DataRecord(
            source=self.source,
            modality=self.modality,
            classes=self.classes,
            train=len(self.train),
            validation=len(self.validation),
            calibration=len(self.calibration),
            test=len(self.test),
            sample_shape=self.sample_shape,
            **self.preprocessing.facts(),
            notes=self.notes,
            packs=self.packs,
            digest=self.digest(),
        )

    @property
    def packs(self) -> tuple[str, ...]:
        """Names of the pack folders, which hold samples that do not fit in memory."""
        samples = [part.samples for part in (self.train, self.validation, self.calibration, self.test)]
        return tuple(dict.fromkeys(one.file.parent.name for one in samples if isinstance(one, Packed)))

    def digest(self) -> str:
        """SHA-256 over classes, preprocessing, unit, task, and form, samples and labels of every split, in order."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        facts = {"classes": self.classes, "preprocessing": self.preprocessing.to_json(), "target": self.target}
        facts |= {"task": [self.task, self.task_code]} if self.task else {}
        sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for split in (self.train, self.validation, self.calibration, self.test):
            sha.update(f"{split.samples.dtype} {split.samples.shape}".encode())
            for tensor in (split.samples.hashes(), split.labels):
                sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                sha.update(tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()


def split(source: str, loaded: Loaded, validation: int | str, calibration: int, seed: int) -> Data:
    """Checks the samples, then holds out `validation` and `calibration` of the training samples: drawn at random,
    the same share of every class; or in whole groups, where samples belong together.

    What the preprocessing learns, such as a mean, it learns from the samples that are left to train on. Numeric labels
    are standardized over the same samples; see `Target`.

    Args:
        validation: how many; not read where the source has validation samples of its own.

    Raises:
        UserError: too few samples, a single class, labels out of range, values that are not finite, or no sample of
            a class is left to train on.
    """
    classes, train, test, preprocessing = loaded[:4]
    _check_parts(source, loaded)
    held = 0 if loaded.validation else _whole("validation", validation, 1, source)
    calibration = _whole("calibration", calibration, 0, source)
    left, noun = len(train) - held - calibration, NOUNS[preprocessing.modality]
    if left < 2:
        raise UserError(
            f"{source}: {len(train)} training {noun} cannot give {held} for validation and {calibration} for"
            " calibration and leave any to train on; lower data.validation and data.calibration"
        )
    if loaded.groups:
        held_out = hold_out_groups(train.labels, loaded.groups, held, calibration, seed, source)
    else:
        held_out = hold_out(train.labels, held, calibration, seed)
    parts = Parts(*(train.take(part) for part in held_out))
    _refuse_lost_classes(source, classes, train, parts.train, noun)
    learned = joined(parts.train, loaded.further) if loaded.further else parts.train
    own, calibrated, tested = (
        replace(part, labels=likeliest(part.labels))
        for part in (loaded.validation or parts.validation, parts.calibration, test)
    )
    data = Data(
        source, tuple(classes), learned, own, calibrated, tested, preprocessing.fitted(learned.samples),
        notes=(*loaded.notes, *_repetitions(loaded, own), *_said_of_shares(loaded)),
    )  # fmt: skip
    return _standardized(data) if data.labels.form is NUMBER else data


def _whole(name: str, number: float | str, least: int, source: str) -> int:
    if not float(number).is_integer() or float(number) < least:
        raise UserError(f"{source}: {name} = {number} counts training samples; give a whole number from {least} on")
    return int(number)


def _said_of_shares(loaded: Loaded) -> tuple[str, ...]:
    """How labels that are shares of the classes are used."""
    if not any(form_of(part.labels) is SHARES for part in (loaded.train, loaded.test, loaded.validation) if part):
        return ()
    learned = "learned from as they are, and " if form_of(loaded.train.labels) is SHARES else ""
    return (f"labels that are shares of the classes are {learned}measured as the likeliest class",)


class Parts(NamedTuple):
    """The training samples in parts."""

    train: Split
    validation: Split
    calibration: Split


def _check_parts(source: str, loaded: Loaded) -> None:
    noun = NOUNS[loaded.preprocessing.modality]
    parts = {"training": loaded.train, "test": loaded.test, "validation": loaded.validation, "further": loaded.further}
    for name, part in parts.items():
        if part is None:
            continue
        varied = name in ("training", "test")
        check(part, loaded.preprocessing, loaded.classes, f"{source}: {name} set", varied)
        if not _alike(loaded.train.samples, part.samples):
            raise UserError(
                f"{source}: training {noun} are {_describe(loaded.train.samples)}, {name} {noun} are"
                f" {_describe(part.samples)}; make them alike"
            )


def _refuse_lost_classes(source: str, classes: Sequence[str], train: Split, left: Split, noun: str) -> None:
    lost = lost_classes(train.labels, left.labels)
    if not lost:
        return
    has = shows(train.labels, lost[0])
    raise UserError(
        f'{source}: of the class "{classes[lost[0]]}" all training {noun} ({int(has.sum())}) would be held out and none'
        " learned from; give it more, take the class out, or lower data.validation and data.calibration"
    )


def _repetitions(loaded: Loaded, validation: Split) -> tuple[str, ...]:
    """Test or validation samples that are in the training set, too. Rows of a table may well be equal.

    Args:
        validation: the samples to steer by, held out or of their own.
    """
    if isinstance(loaded.preprocessing, Table):
        return ()
    noun = NOUNS[loaded.preprocessing.modality]
    said = [repeated(loaded.test, loaded.train, "test", noun, loaded.names[::-1])]
    if loaded.validation:
        said.append(repeated(loaded.validation, loaded.train, "validation", noun, ((), loaded.names[0])))
    if loaded.further:
        said.append(repeated(loaded.test, loaded.further, "test", noun, (loaded.names[1], ())))
        said.append(repeated(validation, loaded.further, "validation", noun))
    return tuple(sentence for sentence in said if sentence)


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


def joined(first: Split, second: Split) -> Split:
    """The samples of `first` before those of `second`; sequences of symbols are as long as the longest of both."""
    labels = [first.labels, second.labels]
    if form_of(first.labels) is SYMBOLS:
        longest = max(part.shape[1] for part in labels)
        labels = [F.pad(part, (0, longest - part.shape[1]), value=UNLABELLED) for part in labels]
    return Split(Joined(first.samples, second.samples), torch.cat(labels))


def with_unlabelled(data: Data, inputs: Tensor | Samples) -> Data:
    """The data with more training inputs (N, ...) without labels; a teacher's outputs take their place.

    Raises:
        UserError: they are of another shape or type, or not finite.
    """
    own, more = data.train.samples, InMemory(inputs) if isinstance(inputs, Tensor) else inputs
    if not _alike(own, more):
        raise UserError(
            f"unlabelled {data.noun} are {_describe(more)}, training {data.noun} are {_describe(own)}; make them alike"
        )
    shape = (len(inputs), *data.train.labels.shape[1:])
    labels = torch.full(shape, data.labels.form.missing, dtype=data.train.labels.dtype)
    train = Split(Joined(own, more), torch.cat([data.train.labels, labels]))
    joined = replace(data, train=train, preprocessing=data.preprocessing.fitted(train.samples))
    check_data(joined)
    return joined


def check_data(data: Data) -> None:
    """Raises UserError unless every split can be used; `Data` built by hand has not passed the checks of `split`."""
    if isinstance(data.preprocessing, Audio) and data.preprocessing.rate <= 0:
        raise UserError(f"{data.source}: clips without a rate; say how many samples a second has (rate = 16000)")
    for part in ("train", "validation", "calibration", "test"):
        samples = getattr(data, part)
        if len(samples) == 0:
            raise UserError(f"{data.source}: the {part} split is empty; a run needs all four, give it some {data.noun}")
        varied, lowest = part in ("train", "test"), UNLABELLED if part == "train" else 0
        check(samples, data.preprocessing, data.classes, f"{data.source}: {part} split", varied, lowest)
        if part != "train" and form_of(samples.labels) is SHARES:
            raise UserError(
                f"{data.source}: the labels of the {part} split are shares of the classes, which training {data.noun}"
                " alone can have; give the classes: labels.argmax(1)"
            )


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
    if isinstance(preprocessing, Images) and preprocessing.has_channels_last(samples.shape):
        raise UserError(
            f"{where}: images of {_describe(samples)} have their channels last; give (N, C, H, W):"
            " images.permute(0, 3, 1, 2)"
        )
    check_labels(labels, len(samples), classes, noun, where, varied, lowest)
    if samples.dtype.is_floating_point:
        finite = torch.cat([torch.isfinite(chunk).flatten(1).all(1) for chunk in in_chunks(samples)])
        if not finite.all():
            first, count = int((~finite).nonzero()[0]), int((~finite).sum())
            raise UserError(
                f"{where}: {noun[:-1]} {first} holds NaN or infinite values ({count} {noun} do); remove them"
            )


def from_tensors(
    train: tuple[Tensor, Tensor] | Split,
    test: tuple[Tensor, Tensor] | Split,
    classes: Sequence[str] | None = None,
    validation: int = 500,
    calibration: int = 256,
    seed: int = 0,
    normalized: bool = False,
    modality: Modality = "image",
    rate: int = 0,
) -> Data:
    """Data from tensors: (inputs, labels) for training and for test; or from splits, as `from_loader` gives them.

    Args:
        classes: their names; by default the numbers that occur in the training labels, which are (N,) classes,
            (N, classes) of 0 and 1, or (N, classes) floats, the share of each class. Of texts the labels may be (N,)
            float32 numbers, with one name here.
        normalized: the inputs are ready for the network; no mean is taken away.
        modality: "image" (N, C, H, W), "audio" (N, T) waveforms, "text" (N, L) token numbers, "table" (N, F).
        rate: of audio, samples per second.

    Raises:
        UserError: as `split`.
    """
    learned, measured = _as_split(train, "tensors: training set"), _as_split(test, "tensors: test set")
    names = tuple(classes) if classes is not None else numbered_classes(learned.labels)
    preprocessing = of_tensors(modality, learned.samples, normalized, rate)
    loaded = Loaded(names, learned, measured, preprocessing)
    return split("tensors", loaded, validation, calibration, seed)


def _as_split(part: tuple[Tensor, Tensor] | Split, where: str) -> Split:
    if isinstance(part, Split):
        return part
    inputs, labels = part
    try:
        return in_memory(inputs, labels.float() if form_of(labels) is SHARES else labels)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _alike(one: Samples, other: Samples) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _describe(samples: Samples) -> str:
    return f"{name_of(samples.dtype)} {(len(samples), *samples.shape)}"
