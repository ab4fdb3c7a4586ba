"""Labelled images as tensors, and their four disjoint splits."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distiq.errors import UserError
from distiq.records import DataRecord

UNLABELLED = -1


@dataclass(frozen=True)
class Split:
    """Samples with labels.

    Args:
        images: (N, C, H, W), uint8 in 0..255 or float32.
        labels: (N,) int64; `UNLABELLED` in a training split: such a sample is learned from through a teacher alone.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor | slice) -> "Split":
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """The splits of one task. Only measurement touches `test`; `validation` steers; `calibration` sets ranges.

    Args:
        mean, std: per channel, in units of the images divided by 255 where they are uint8; what `normalize` applies.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    calibration: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def normalize(self, images: Tensor) -> Tensor:
        """What the network sees: float32, zero mean and unit variance per channel.

        Shapes: (B, C, H, W) -> (B, C, H, W).
        """
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images.float() / scale - mean) / std

    def record(self) -> DataRecord:
        return DataRecord(
            source=self.source,
            classes=self.classes,
            train=len(self.train),
            validation=len(self.validation),
            calibration=len(self.calibration),
            test=len(self.test),
            image_shape=self.image_shape,
            mean=self.mean,
            std=self.std,
            digest=self.digest(),
        )

    def digest(self) -> str:
        """SHA-256 over classes, normalization, and the images and labels of every split, in order."""
        sha = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for split in (self.train, self.validation, self.calibration, self.test):
            for tensor in (split.images, split.labels):
                sha.update(tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()


def split(
    source: str, classes: Sequence[str], train: Split, test: Split, validation: int, calibration: int, seed: int
) -> Data:
    """Checks the samples, then holds out `validation` and `calibration` of the training samples at random.

    Raises:
        UserError: too few samples, a single class, labels out of range, images that are not finite.
    """
    check(train, classes, f"{source}: training set")
    check(test, classes, f"{source}: test set")
    if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
        raise UserError(
            f"{source}: training images are {_describe(train.images)}, test images are {_describe(test.images)};"
            " make them alike"
        )
    left = len(train) - validation - calibration
    if left < 2:
        raise UserError(
            f"{source}: {len(train)} training images cannot give {validation} for validation and {calibration} for"
            " calibration and leave any to train on; lower data.validation and data.calibration"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    parts = order.split([left, validation, calibration])
    train_part, validation_part, calibration_part = (train.take(part.sort().values) for part in parts)
    mean, std = channel_statistics(train_part.images)
    return Data(source, tuple(classes), train_part, validation_part, calibration_part, test, mean, std)


def with_unlabelled(data: Data, images: Tensor) -> Data:
    """The data with more training images (N, C, H, W) whose labels nobody knows; a teacher answers for them.

    Raises:
        UserError: they are of another shape or type, or not finite.
    """
    own = data.train.images
    if images.shape[1:] != own.shape[1:] or images.dtype != own.dtype:
        raise UserError(
            f"unlabelled images are {_describe(images)}, training images are {_describe(own)}; make them alike"
        )
    labels = torch.full((len(images),), UNLABELLED)
    more = replace(data, train=Split(torch.cat([own, images]), torch.cat([data.train.labels, labels])))
    check_data(more)
    return more


def check_data(data: Data) -> None:
    """Raises UserError unless every split can be used; `Data` can be made by hand, past the checks of `split`."""
    for part in ("train", "validation", "calibration", "test"):
        samples = getattr(data, part)
        if len(samples) == 0:
            raise UserError(f"{data.source}: the {part} split is empty; a run needs all four, give it some images")
        varied, lowest = part in ("train", "test"), UNLABELLED if part == "train" else 0
        check(samples, data.classes, f"{data.source}: {part} split", varied, lowest)


def check(samples: Split, classes: Sequence[str], where: str, varied: bool = True, lowest: int = 0) -> None:
    """Raises UserError, saying where, if these samples cannot be learned from or measured on.

    Args:
        varied: at least two classes must occur.
        lowest: the smallest label that is allowed, 0 or `UNLABELLED`.
    """
    images, labels = samples.images, samples.labels
    if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
        raise UserError(f"{where}: images are {_describe(images)}; give (N, C, H, W) as uint8 or float32")
    if labels.ndim != 1 or len(labels) != len(images):
        raise UserError(f"{where}: {len(images)} images but labels of shape {tuple(labels.shape)}; give one label each")
    if labels.dtype != torch.int64:
        found = str(labels.dtype).removeprefix("torch.")
        raise UserError(f"{where}: labels are {found}; give whole numbers as int64 (labels.long())")
    if len(images) == 0:
        raise UserError(f"{where}: no images")
    if len(classes) < 2:
        raise UserError(f"{where}: only one class ({', '.join(classes)}); there is nothing to tell apart")
    if int(labels.min()) < lowest or int(labels.max()) >= len(classes):
        raise UserError(
            f"{where}: labels run from {int(labels.min())} to {int(labels.max())}, but there are {len(classes)} classes"
            f" (0 to {len(classes) - 1}); correct the labels or name all classes"
        )
    if varied and len(labels.unique()) < 2:
        raise UserError(f"{where}: every image has the label {int(labels[0])}; at least two classes are needed")
    if images.is_floating_point():
        finite = torch.isfinite(images).flatten(1).all(1)
        if not finite.all():
            first = int((~finite).nonzero()[0])
            raise UserError(
                f"{where}: image {first} holds NaN or infinite pixels ({int((~finite).sum())} images do); remove them"
            )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images scaled to 0..1 where they are uint8."""
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in images.split(4096):
        values = chunk.double() / scale
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = images.numel() / images.shape[1]
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
) -> Data:
    """Data from tensors: (images, labels) for training and for test.

    Args:
        classes: their names; by default the numbers that occur in the training labels.
        normalized: the images are ready for the network; no mean is taken away.

    Raises:
        UserError: as `split`.
    """
    count = int(train[1].max()) + 1 if len(train[1]) else 0
    names = tuple(classes) if classes is not None else tuple(str(number) for number in range(count))
    data = split("tensors", names, Split(*train), Split(*test), validation, calibration, seed)
    channels = data.image_shape[0]
    return replace(data, mean=(0.0,) * channels, std=(1.0,) * channels) if normalized else data


def collect(loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All batches of a DataLoader as two tensors in memory; what a loader draws at random is frozen by this."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels).long()


def _describe(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
